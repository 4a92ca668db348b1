"""The Ray launcher on a real Ray cluster of two nodes on this machine (`pytest -m slow tests/engines`, with ray)."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conftest import check_equal, until

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture
def cluster(bench, monkeypatch):
    """Two nodes of one core each, whose workers know the family."""
    from ray.cluster_utils import Cluster

    for name in ("PYTHONPATH", "JAX_PLATFORMS", "XLA_FLAGS", "ISOFLOP_LEASE_SECONDS"):
        monkeypatch.setenv(name, bench.environment[name])
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield found
    finally:
        found.shutdown()


def test_fractions_of_two_nodes_share_a_sweep(bench, cluster):
    cluster.add_node(num_cpus=1)
    calm = bench.calm(6, 60)
    flags = (
        "--launcher=ray",
        f"--launcher_option=address={cluster.address}",
        "--launcher_option=num_cpus=0.5",
        "--pack=1",
        "--json",
    )
    process = bench.sweep(bench.config(6, 60, 0.05), *flags)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    assert len(json.loads(said[said.index("\n{") :])["workers"]) == 4
    check_equal(bench.records(), calm)


def test_a_node_that_is_taken_away_loses_nothing(bench, cluster):
    node = cluster.add_node(num_cpus=1)
    calm = bench.calm(4, 100)
    process = bench.sweep(
        bench.config(4, 100, 0.1), "--launcher=ray", f"--launcher_option=address={cluster.address}", "--pack=1"
    )
    until(lambda: sum(step >= 30 for step in bench.steps().values()) == 2)
    cluster.remove_node(node, allow_graceful=False)
    assert process.wait(300) == 0, process.stdout.read()
    records = bench.records()
    check_equal(records, calm)
    assert [record["continued_from"] for record in records.values()].count(None) == 3


def test_ctrl_c_takes_the_tasks_along(bench, cluster):
    flags = ("--launcher=ray", f"--launcher_option=address={cluster.address}", "--pack=1")
    config = bench.config(2, 100, 0.1)
    process = bench.sweep(config, *flags)
    until(lambda: sum(step >= 30 for step in bench.steps().values()) == 1)
    process.terminate()
    assert process.wait(90) == 128 + 15
    assert not bench.records()
    process = bench.sweep(config, *flags)
    assert process.wait(240) == 0, process.stdout.read()
    assert max(record["continued_from"] or 0 for record in bench.records().values()) >= 30


def test_an_absent_cluster_is_one_line(bench):
    process = bench.sweep(bench.config(1, 5, 0.0), "--launcher=ray", "--launcher_option=address=127.0.0.1:1")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "--launcher_option address=127.0.0.1:1: no Ray cluster there" in said
    assert "Traceback" not in said
