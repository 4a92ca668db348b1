"""The simulation that measures coverage, at a size that only shows that it works."""

import json

import numpy as np
import pytest
from tiers import tiered

from benchmarks import coverage, interval_cells, score_cells, simulation

CELL = ("chinchilla", "isoflop", 0.003)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Three sweeps of one cell, in two goes."""
    path = tmp_path_factory.mktemp("coverage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "RESAMPLES", 40)
        assert simulation.advance(coverage.name_of(CELL), CELL, path, 3, 2, coverage.simulate) == 2
        assert simulation.advance(coverage.name_of(CELL), CELL, path, 3, 2, coverage.simulate) == 3
        assert simulation.advance(coverage.name_of(CELL), CELL, path, 3, 2, coverage.simulate) == 3
    return path


def test_it_can_be_stopped_and_continued(work):
    with np.load(work / "chinchilla-isoflop-0.003.npz") as kept:
        assert kept["ours_hit"].shape == (3, 2, 3, 3)
        assert int(kept["chunks"]) == 2
        assert not np.array_equal(kept["ours_width"][0], kept["ours_width"][2])  # chunks have draws of their own


def test_what_it_reports(work):
    found = coverage.report(work, {})
    cell = found["cells"]["chinchilla-isoflop-0.003"]
    json.dumps(found, allow_nan=False)
    assert cell["sweeps"] == 3
    for kind in ("mean", "run"):
        at = [cell[kind][str(factor)] for factor in coverage.FACTORS]
        for levels in at:
            assert levels["50%"]["width"] < levels["80%"]["width"] < levels["95%"]["width"]
        assert at[0]["95%"]["width"] < at[1]["95%"]["width"] < at[2]["95%"]["width"]
    assert cell["run"]["1"]["95%"]["width"] > cell["mean"]["1"]["95%"]["width"]
    assert 0.5 < cell["mean"]["1"]["95%"]["width"] / cell["mean"]["1"]["95%"]["oracle_width"] < 3


def test_cells_of_an_earlier_report_stay(work, tmp_path):
    earlier = coverage.report(work, {})
    again = coverage.report(tmp_path, earlier)  # where nothing was simulated
    assert again == earlier


def test_a_miss_is_called_one(work):
    cell = coverage.report(work, {})["cells"]["chinchilla-isoflop-0.003"]
    cell["mean"]["10"]["95%"] |= {"coverage": 0.7, "error": 0.01}
    cell["mean"]["1"]["95%"] |= {"width": 3.0, "oracle_width": 1.0}
    said = coverage._verdict(CELL, cell)
    assert "mean at 10x: 95% intervals cover 70.0%" in said
    assert any("3.00 times the oracle's" in text for text in said)
    assert coverage._verdict(("misspecified", "isoflop", 0.003), cell) == []


def test_the_score_is_the_width_where_the_truth_lies_inside():
    """Against the definition, on intervals that are known."""
    low, high, y = np.array([0.0]), np.array([2.0]), np.array([[1.0], [3.0]])
    beyond = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    assert (high - low + 2 / 0.05 * beyond).ravel() == pytest.approx([2.0, 42.0])


def test_every_cell_can_be_set_up():
    for cell in coverage.CELLS:
        setting = coverage.Setting.of(*cell)
        reach = setting.targets["c"].max() / setting.columns["c"].max()
        assert reach == pytest.approx(100)
        assert len(setting.targets["n"]) == len(coverage.FACTORS) * len(coverage.ASIDE)
        assert 16 <= len(setting.columns["n"]) <= 42


def test_interval_cells_report_every_method(tmp_path):
    """At a size that only shows that it works: several rows a run, and the jackknife where it is valid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interval_cells, "RESAMPLES", 40)
        for name in ("ladder-evaluations", "grid-checkpoints-log_squared"):
            assert simulation.advance(name, name, tmp_path, 3, 2, coverage.simulate_any) == 2
    found = coverage.report(tmp_path, {})["intervals"]["cells"]
    json.dumps(found, allow_nan=False)
    assert list(found["ladder-evaluations"]["methods"]) == ["wild", "profile"]
    for figures in found["grid-checkpoints-log_squared"]["methods"].values():
        assert list(figures["quantities"]) == ["alpha", "beta", "a", "loss"]
        widths = [figures["quantities"][name]["width"] for name in ("alpha", "beta")]
        assert all(0.02 < width < 0.2 for width in widths)


def test_every_interval_cell_can_be_set_up():
    for name, cell in interval_cells.INTERVAL_CELLS.items():
        law, truth = interval_cells.LAWS[cell.law]
        runs = interval_cells.DESIGNS[cell.design]
        assert set(truth) == set(law.names) and set(law.columns) <= set(runs), name
        rows = np.full(len(runs["c"]), cell.rows or 3)
        columns, run = interval_cells.checkpoints(runs, rows, cell.same)
        assert len(run) == len(columns["c"]) == rows.sum()
        assert (np.bincount(run) == rows).all()
        ends = np.array([columns["c"][run == k].max() for k in range(len(rows))])
        assert ends == pytest.approx(runs["c"])


@pytest.mark.parametrize("name", tiered(["score-7-1.25-0.01", "score-5-2-0.003"], ["score-7-1.25-0.01"]))
def test_what_is_scored_is_one_run_at_the_target(name):
    """It lies in the interval of one run as often as promised, where the lowest of several sizes does not."""
    cell = score_cells.SCORE_CELLS[name]
    found = score_cells.summary(cell, score_cells.simulate(cell, 0, 400, 3))
    assert found["nearest"]["coverage"] == pytest.approx(0.95, abs=0.033)  # three standard errors
    assert found["nearest"]["mean_distance"] == pytest.approx(0, abs=0.15)
    if cell.factor == 1.25:
        assert found["lowest"]["coverage"] < 0.93
        assert found["lowest"]["mean_distance"] < -0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ladder-evaluations", "grid-uneven_checkpoints", "grid-squared"])
def test_intervals_of_clustered_rows_and_other_objectives_cover_the_truth(name):
    kept = interval_cells.simulate(name, 0, 200, 5)
    for method, figures in interval_cells.summary(name, kept)["methods"].items():
        assert figures["coverage"] == pytest.approx(0.95, abs=0.02 + 3 * figures["error"]), method
