"""The simulation that measures coverage, at a size that only shows that it works."""

import json

import numpy as np
import pytest

from benchmarks import coverage, simulation

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
    found = coverage.report(work)
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


def test_a_miss_is_called_one(work):
    cell = coverage.report(work)["cells"]["chinchilla-isoflop-0.003"]
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
        assert 16 <= len(setting.columns["n"]) <= 30
