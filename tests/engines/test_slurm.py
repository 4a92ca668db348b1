"""The SLURM launcher on a real SLURM of two nodes (`pytest -m slow tests/engines`, as root, with slurm-wlm and munge)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import slurm
from conftest import check_equal, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing()))]
pytest.importorskip("submitit")

RUN = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"task": "fake", "batch_size": 8, "duration": {"steps": 20}, "model": {"size": 4.0},
                       "mesh": {"data": 2}, "log": {"every": 5}})
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        yield environment


def commanded(bench, *command):
    return subprocess.run(command, env=bench.environment, capture_output=True, text=True, check=True).stdout


def tasks(bench, state="R"):
    """The array tasks in a state, with their nodes."""
    lines = commanded(bench, "squeue", "-h", "-r", "-t", state, "-o", "%i %N").splitlines()
    return dict(line.split() if " " in line.strip() else (line.strip(), "") for line in lines)


def nodes_of(bench):
    """The nodes on which tasks said what they did."""
    logs = bench.path.with_name("sweep.slurm").glob("*.out")
    return [log.name for log in logs if '"event": "end"' in log.read_text()]


def test_two_nodes_share_a_sweep(bench, cluster):
    bench.environment |= cluster
    calm = bench.calm(6, 60)
    config = bench.config(6, 60, 0.05)
    flags = (
        "--launcher=slurm",
        "--workers=2",
        "--launcher_option=cpus_per_task=2",
        "--launcher_option=time=10",
        "--pack=1",
    )
    process = bench.sweep(config, *flags, "--launcher_option=extra=exclusive,comment:test")
    assert process.wait(240) == 0, process.stdout.read()
    check_equal(bench.records(), calm)
    assert len(nodes_of(bench)) == 2
    assert not list(bench.path.rglob("*.pkl"))


def test_tasks_that_are_cancelled_killed_and_sent_back_lose_nothing(bench, cluster):
    """One saves and leaves, one is killed outright, one is told that its time is up and comes again."""
    bench.environment |= cluster
    calm = bench.calm(8, 100)
    config = bench.config(8, 100, 0.1)
    flags = (
        "--launcher=slurm",
        "--workers=4",
        "--launcher_option=cpus_per_task=1",
        "--launcher_option=time=10",
        "--pack=1",
    )
    process = bench.sweep(config, *flags)
    until(lambda: sum(step >= 30 for step in bench.steps().values()) >= 4)
    first, second, third, fourth = sorted(tasks(bench))
    commanded(bench, "scancel", first)
    commanded(bench, "scancel", "--signal=KILL", "--full", second)
    commanded(bench, "scancel", "--signal=USR2", third)
    commanded(bench, "scontrol", "requeue", fourth)
    assert process.wait(400) == 0, process.stdout.read()
    records = bench.records()
    check_equal(records, calm)
    continued = [record["continued_from"] for record in records.values() if record["continued_from"]]
    assert len(continued) == 4 and max(continued) > 20  # three had a checkpoint of their last step, or of step 20
    assert not tasks(bench)


def test_a_limit_of_time_that_is_shorter_than_the_sweep(bench, cluster):
    """SLURM may warn a minute early, after 15 to 75 seconds; the task saves and comes again, until all is done."""
    bench.environment |= cluster
    calm = bench.calm(2, 200)
    config = bench.config(2, 200, 0.25)
    flags = (
        "--launcher=slurm",
        "--workers=1",
        "--launcher_option=time=2",
        "--launcher_option=signal_delay_s=45",
        "--pack=1",
    )
    process = bench.sweep(config, *flags)
    assert process.wait(500) == 0, process.stdout.read()
    records = bench.records()
    check_equal(records, calm)
    assert any(record["continued_from"] for record in records.values())


def test_ctrl_c_takes_the_tasks_along(bench, cluster):
    bench.environment |= cluster
    config = bench.config(4, 100, 0.1)
    process = bench.sweep(config, "--launcher=slurm", "--workers=2", "--launcher_option=cpus_per_task=1", "--pack=1")
    until(lambda: len(bench.steps()) == 2 and min(bench.steps().values()) >= 10)
    process.terminate()
    assert process.wait(90) == 128 + 15
    assert not tasks(bench) and not bench.records()
    process = bench.sweep(config, "--launcher=slurm", "--workers=2", "--launcher_option=cpus_per_task=1", "--pack=1")
    assert process.wait(240) == 0, process.stdout.read()
    assert sum(bool(record["continued_from"]) for record in bench.records().values()) == 2


def test_what_slurm_refuses_is_one_line(bench, cluster):
    bench.environment |= cluster
    process = bench.sweep(bench.config(1, 5, 0.0), "--launcher=slurm", "--launcher_option=partition=none")
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and "slurm: sbatch refused the job" in said and "invalid partition" in said
    assert "Traceback" not in said


def test_srun_starts_one_run_over_two_nodes(bench, cluster):
    """Who the processes are follows from SLURM's variables; only the address is given, as these nodes have no names."""
    bench.environment |= cluster
    config = bench.folder / "run.py"
    config.write_text(RUN)
    command = [sys.executable, "-m", "isoflop", "train", f"--config={config}", "--json"]
    flags = ["--distributed=slurm", f"--coordinator=127.0.0.1:{slurm._ports(1)[0]}", "--start_timeout=60"]
    commanded(bench, "srun", "--nodes=2", "--ntasks=2", *command, f"--workdir={bench.folder / 'two'}", *flags)
    bench.environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    commanded(bench, *command, f"--workdir={bench.folder / 'one'}")
    one, two = (json.loads((bench.folder / name / "result.json").read_text()) for name in ("one", "two"))
    assert (one["num_devices"], two["num_devices"]) == (2, 2)
    assert (one["status"], two["status"], two["steps"]) == ("completed", "completed", 20)
    assert [two["loss"], two["train_loss"]] == pytest.approx([one["loss"], one["train_loss"]], rel=1e-6)
    found = [json.loads((bench.folder / name / "environment.json").read_text()) for name in ("one", "two")]
    assert [each["num_processes"] for each in found] == [1, 2]
