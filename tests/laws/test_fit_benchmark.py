"""The benchmark of fits: what it runs, what it refuses, and how it judges. Its timings are no test."""

import json

import numpy as np
import pytest

from benchmarks import fit as benchmark, fit_contenders


def test_targets_are_judged_by_ratios_and_by_limits():
    medians = {"fit": {"cpu_seconds": 3.0}, "peer": {"cpu_seconds": 2.0}}
    assert benchmark.Target("fit", "cpu_seconds", 1.5, of="peer").judge(medians)["met"]
    missed = benchmark.Target("fit", "cpu_seconds", 1.4, of="peer").judge(medians)
    assert not missed["met"] and missed["measured"] == pytest.approx(1.5)
    assert not benchmark.Target("fit", "cpu_seconds", 2.9).judge(medians)["met"]
    assert benchmark.Target("fit", "cpu_seconds", 0.25, of="baseline").judge(medians) is None
    table = {side: dict.fromkeys(benchmark.FIGURES, 1.0) for side in medians}
    text = benchmark.lines(table, [missed])
    assert "missed: cpu_seconds of fit, relative to peer 1.5, at most 1.4" in text
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["fit", "peer"]


def test_a_process_is_measured_and_its_failure_shown(tmp_path):
    figures = benchmark.Side(["-c", "print(sum(range(1_000_000)))"]).start(tmp_path)
    assert set(figures) == set(benchmark.FIGURES) and all(value >= 0 for value in figures.values())
    assert (tmp_path / "output.txt").read_text() == "499999500000\n"
    with pytest.raises(RuntimeError, match="ended with 3: no such table"):
        benchmark.Side(["-c", "import sys; print('no such table'); sys.exit(3)"]).start(tmp_path)


def test_the_peer_gets_the_same_runs(published, tmp_path):
    benchmark.peer_table(tmp_path / "peer.csv")
    rows = np.genfromtxt(tmp_path / "peer.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert len(rows) == 240
    assert set(rows["test_loss__ce"]) == set(fit_contenders.runs()["loss"])
    chosen = benchmark.sides(tmp_path, baseline=None, peer=tmp_path)
    assert list(chosen) == ["fit", "import", "peer"]


@pytest.mark.slow
def test_a_profile_says_where_the_seconds_go(published, tmp_path):
    side = benchmark.sides(tmp_path, baseline=None, peer=None)["fit"]
    quick = benchmark.Side([*side.arguments, "--resamples=0"], side.path)
    shown = benchmark.profile(quick, tmp_path)
    assert "fit.py" in shown and "(run)" in shown  # the command itself, in which all the others are


def test_the_gradient_of_the_loop_over_scipy(published):
    runs = fit_contenders.runs()
    n, d, y = (np.log(runs[name]) for name in ("params", "tokens", "loss"))
    point, weight = np.array([6.0, 7.5, 0.6, 0.35, 0.37]), np.ones(len(runs))
    value, gradient = fit_contenders.objective(point, n, d, y, weight)
    moved = lambda step: fit_contenders.objective(point + step, n, d, y, weight)[0]
    for i, step in enumerate(1e-6 * np.eye(5)):
        assert (moved(step) - moved(-step)) / 2e-6 == pytest.approx(gradient[i], rel=1e-4)
    assert value == pytest.approx(moved(np.zeros(5)))


def test_laws_reach_the_golden_objective(published):
    found = fit_contenders.ours(every_start=False)
    assert json.loads(json.dumps(found))["objective"] == pytest.approx(0.0010182740178, rel=1e-6)
    assert found["resamples_converged"] == 1.0
