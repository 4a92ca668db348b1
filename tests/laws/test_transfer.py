"""What pre-training is worth: the joint law finds it in runs from scratch and from a parent, and the figure measures it."""

import numpy as np
import pandas as pd
import pytest

import laws
from laws.model.forms import find
from laws.plotting.plot_data import tokens_transferred as transferred

TRUTH = {"E": 1.1, "A": 80.0, "B": 300.0, "alpha": 0.5, "beta": 0.45, "k": 30.0, "a": 0.35, "b": 0.45}


def runs(noise=0.0, **constants):
    """A table of four sizes and five horizons, from scratch and from a parent."""
    grid = np.meshgrid([1e4, 2e4, 3.3e4, 6.8e4], [1.25e5, 2.5e5, 5e5, 1e6, 2e6], [0.0, 1.0])
    columns = dict(zip(("n", "d", "pretrained"), map(np.ravel, grid), strict=True))
    loss = find("transfer_joint").value(TRUTH | constants, columns)
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(loss)))
    return columns | {"loss": loss}


def fitted(rows, **options):
    names = {"n": "params_total", "d": "tokens", "pretrained": "pretrained", "loss": "loss"}
    frame = pd.DataFrame({names[variable]: values for variable, values in rows.items()})
    return laws.load(frame).fit("transfer_joint", **options)


def worth(constants, f=5e5, n=3.3e4):
    return find("transfer").value(constants, {"finetune_tokens": f, "n": n})


@pytest.fixture(scope="module")
def exact():
    return fitted(runs(), resamples=0)


def test_exponents_and_the_data_transferred_are_found_again(exact):
    assert exact.params.to_dict() == pytest.approx(TRUTH, rel=1e-6)
    noisy = fitted(runs(0.005), resamples=100)
    for name in ("alpha", "a", "b"):
        low, high = noisy.report.intervals.params[name]
        assert low < TRUTH[name] < high, name
        assert high - low < 0.3, name
    assert worth(noisy.params) == pytest.approx(worth(TRUTH), rel=0.15)


@pytest.mark.slow
def test_pre_training_that_is_worth_nothing_is_found_to_be():
    found = fitted(runs(0.005, k=0.0), resamples=0)
    assert worth(found.params) < 0.05 * 5e5


def test_the_data_transferred_is_read_off_the_runs_from_scratch():
    rows = runs()
    measured, truth = transferred(rows), find("transfer").value(TRUTH, {"finetune_tokens": rows["d"], "n": rows["n"]})
    assert np.isnan(measured[rows["pretrained"] == 0]).all()
    assert np.isnan(measured[(rows["pretrained"] == 1) & (rows["d"] == 2e6)]).all(), "nothing from scratch is as good"
    known = np.isfinite(measured)
    assert known.sum() >= 14
    assert measured[known] == pytest.approx(truth[known], rel=0.3)  # between runs, straight lines err
    dense = rows | {
        "loss": find("transfer_joint").value(TRUTH, rows | {"d": rows["d"] + (1 - rows["pretrained"]) * 1e3})
    }
    assert (transferred(dense)[known] < measured[known]).all(), "better runs from scratch need less data"


def test_the_figure_draws_every_run_and_says_which_it_cannot(exact):
    (losses, right), rows = exact.plot.transfer(), runs()
    drawn = sum(len(line.get_xdata()) for line in losses.lines if line.get_marker() == "o")
    assert drawn == len(rows["loss"])
    shown = sum(len(line.get_xdata()) for line in right.lines if line.get_marker() == "o")
    assert (
        right.get_title(loc="right") == f"{int((rows['pretrained'] == 1).sum()) - shown} runs beyond those from scratch"
    )
