"""Runs that were not tuned: a law of the loss with the learning rate in it learns from what misleads the plain one."""

import numpy as np
import pandas as pd
import pytest

import laws
from laws.base.errors import FitFailed, InputError
from laws.model.forms import LAWS

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
TUNING = {"h_lr": 0.02, "k_lr": 1.79, "p": 0.713, "q": 0.307}  # the optimum of Li et al. 2025
A = 0.28 / (0.34 + 0.28)
RATES = (3e-4, 1.2e-3)  # the same for all sizes: each is right for some and wrong for the others


@pytest.fixture(scope="module")
def untuned() -> pd.DataFrame:
    """An iso-FLOP sweep in which every size was trained at two rates that nobody tuned."""
    rng = np.random.default_rng(0)
    compute = np.repeat(np.geomspace(1e18, 1e20, 4), 5)
    n = 0.11 * compute**0.47 * np.tile(np.geomspace(0.25, 4, 5), 4)
    columns = {"n": np.tile(n, 2), "d": np.tile(compute / (6 * n), 2), "peak_lr": np.repeat(RATES, len(n))}
    loss = LAWS["chinchilla_lr"].value(TRUTH | TUNING, columns) * np.exp(0.001 * rng.standard_normal(2 * len(n)))
    return pd.DataFrame(
        {
            "params_total": columns["n"],
            "tokens": columns["d"],
            "peak_lr": columns["peak_lr"],
            "loss": loss,
            "steps": 1000.0,
        }
    )


@pytest.fixture(scope="module")
def joint(untuned):
    return laws.load(untuned).fit("chinchilla_lr", resamples=40)


@pytest.mark.slow
def test_the_exponent_comes_out_of_untuned_runs(untuned, joint):
    """The plain law misses it even where it sees the better of the two rates only."""
    best = untuned.loc[untuned.groupby(["params_total", "tokens"]).loss.idxmin()]
    of_six_nd = laws.load(best).fit("chinchilla", resamples=0).derived["value"]["a"]
    assert abs(joint.derived["value"]["a"] - A) < 0.012
    assert abs(of_six_nd - A) > 0.05
    low, high = joint.report.intervals.derived["a"]
    assert low < A < high
    assert joint.params["p"] == pytest.approx(TUNING["p"], abs=0.05)
    assert joint.params["h_lr"] == pytest.approx(TUNING["h_lr"], rel=0.1)


@pytest.mark.slow
def test_a_prediction_may_leave_the_rate_out(joint):
    """It is then the best there is; with a rate it is never better."""
    at = {"n": 2e9, "d": 4e10}
    tuned = joint.forecast(**at).value
    assert tuned == pytest.approx(LAWS["chinchilla"].value(TRUTH, at), rel=0.01)
    others = [joint.forecast(**at, peak_lr=rate).value for rate in (1e-4, 4e-4, 1e-3, 1e-2)]
    assert min(others) >= tuned and max(others) > 1.02 * tuned
    forecast = joint.forecast(compute=1e21)
    assert forecast.interval[0] < forecast.value < forecast.interval[1] and forecast.split.n > 1e9
    with pytest.raises(InputError, match="needs n for a prediction"):
        joint.forecast(d=4e10)


def test_a_column_that_never_changes_is_named(untuned):
    """The batch follows from tokens and steps where no column holds it."""
    assert laws.load(untuned).need(("batch_tokens",), "any").values["batch_tokens"] == pytest.approx(
        untuned.tokens / 1000
    )
    fixed = untuned.assign(peak_lr=1e-3)
    with pytest.raises(FitFailed, match="'peak_lr' is the same in all its runs"):
        laws.load(fixed).fit("chinchilla_lr", resamples=0)
