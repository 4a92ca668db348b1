"""Predictions, allocations and the cost of a token."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from simulated import TRUTH, flops_per_token, law as true_loss

import laws
from laws.base.errors import FitFailed, InputError
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.inference.allocation import allocate
from laws.model.forms import find
from laws.model.law import Law, Param

CHINCHILLA = np.array([[477.826, 2143.417, 1.817218, 0.3473105, 0.3671724], [400.0, 400.0, 1.7, 0.34, 0.28]])
KAPLAN = np.array([[8.8e13, 5.4e13, 0.076, 0.095]])
COMPUTE = np.array([1e18, 5.76e23])


@pytest.mark.parametrize(("name", "constants"), [("chinchilla", CHINCHILLA), ("kaplan", KAPLAN)])
def test_closed_form_is_the_numeric_minimum(name, constants):
    law = find(name)
    closed = allocate(law, constants, COMPUTE, TokenCost(), (1e8, 1e10))
    numeric = allocate(dataclasses.replace(law, optimal_n=None), constants, COMPUTE, TokenCost(), (1e8, 1e10))
    for field in ("n", "d", "loss", "a", "b"):
        assert getattr(numeric, field) == pytest.approx(getattr(closed, field), rel=1e-6)
    assert 6 * closed.n * closed.d == pytest.approx(np.broadcast_to(COMPUTE, closed.n.shape), rel=1e-9)


def test_exact_flops_move_the_optimum_as_a_search_says(sweep):
    """With exact FLOPs the optimum is the minimum along the sweep's own curve, found here by brute force."""
    cost = fit_token_cost(laws.load(sweep))
    truth = np.array([[TRUTH[k] for k in ("A", "B", "E", "alpha", "beta")]])
    compute = np.array([3e11, 3e11 * 1.01])
    found = allocate(find("chinchilla"), truth, compute, cost, (1e4, 1e5))
    width = np.linspace(8, 120, 200_001)
    n = 24 * width**2 + 512 * width
    best = [n[np.argmin(true_loss(n, c / flops_per_token(width)))] for c in compute]
    assert found.n[0] == pytest.approx(best, rel=0.02)
    slope = np.log(found.n[0, 1] / found.n[0, 0]) / np.log(1.01)
    assert found.a[0, 0] == pytest.approx(slope, abs=2e-3)
    drift = np.log(found.d[0, 1] / found.d[0, 0]) / np.log(1.01)
    assert found.b[0, 0] == pytest.approx(drift, abs=2e-3)
    of_six_nd = allocate(find("chinchilla"), truth, compute, TokenCost(), (1e4, 1e5))
    assert abs(of_six_nd.a[0, 0] - found.a[0, 0]) > 1e-3


def test_cost_curve_follows_the_sweep_and_is_tame_beyond_it(sweep):
    table = laws.load(sweep)
    cost = fit_token_cost(table)
    assert not cost.six_nd
    assert cost.error < 0.01
    per_token = np.exp(cost.log_flops_per_token(np.log(table.values["n"])))
    assert per_token == pytest.approx(table.values["c"] / table.values["d"], rel=0.01)
    far = np.linspace(np.log(1e2), np.log(1e8), 400)
    assert (np.diff(cost.log_flops_per_token(far)) > 0).all()
    assert TokenCost.from_dict(cost.to_dict()) == cost
    assert TokenCost.from_dict(TokenCost().to_dict()) == TokenCost()


def test_one_flag_switches_the_convention(sweep):
    exact = laws.load(sweep)
    switched = laws.load(sweep, n="params_non_embedding", c="flops_6nd")
    assert switched.values["n"] is not exact.values["n"]
    assert fit_token_cost(laws.load(sweep, c="flops_6nd")).six_nd
    assert not fit_token_cost(switched).six_nd


def test_both_exponents_are_printed_with_exact_compute(fitted):
    p = fitted.params
    derived = fitted.derived["value"]
    assert derived["a_6nd"] == pytest.approx(p["beta"] / (p["alpha"] + p["beta"]), rel=1e-9)
    assert derived["a"] != pytest.approx(derived["a_6nd"], abs=1e-3)


def test_a_law_without_an_optimum():
    law = Law(
        name="size_only_matters",
        formula="L = k / N^p + 0 / D",
        source="",
        columns=("n", "d"),
        params=(Param("k", ""), Param("p", "", 0.0, 2.0, "linear", (0.1, 0.5))),
        value=lambda p, x: p["k"] * x["n"] ** -p["p"] * x["d"] ** 0.0,
        linear=("k",),
    )
    n = np.geomspace(1e6, 1e9, 12)
    frame = pd.DataFrame({"n": n, "d": 20 * n, "c": 120 * n**2, "loss": 5 * n**-0.1})
    fit = laws.load(frame, n="n", d="d", c="c").fit(law, resamples=0)
    with pytest.raises(FitFailed, match="no compute-optimal size"):
        fit.forecast(compute=1e18)


def test_prediction_of_a_run(fitted):
    n, d = 3e4, 2e6
    forecast = fitted.forecast(n=n, d=d)
    assert forecast.value == pytest.approx(true_loss(n, d), rel=5e-3)
    low, high = forecast.interval
    assert low < true_loss(n, d) < high
    assert forecast.level == 0.95 and forecast.split is None
    assert (forecast.inputs["n"], forecast.inputs["d"]) == (n, d)
    assert forecast.extrapolation == {"n": 1.0, "d": 1.0, "c": 1.0}
    assert forecast.warnings == ()


def test_prediction_of_a_budget(fitted, sweep):
    forecast = fitted.forecast(compute=1e12)
    split = forecast.split
    best = sweep[sweep.budget == 1e12].loss.min()
    assert forecast.value == pytest.approx(best, rel=1e-2)
    assert split.n_interval[0] < split.n < split.n_interval[1]
    assert split.d_interval[0] < split.d < split.d_interval[1]
    assert forecast.inputs == {"n": split.n, "d": split.d, "c": 1e12}
    assert forecast.extrapolation["c"] == pytest.approx(1e12 / sweep[sweep.budget < 1e12].flops_exact.max())
    assert any("extrapolation beyond the fitted runs" in text for text in forecast.warnings)
    with_cost = np.exp(fitted.predictor.cost.log_flops_per_token(np.log(split.n)))
    assert split.d * with_cost == pytest.approx(1e12, rel=1e-9)


def test_the_interval_holds_noise_and_grows_with_distance(fitted):
    near = fitted.forecast(compute=3e11)
    width = np.ptp(near.interval) / near.value
    assert width > 2 * 1.9 * fitted.predictor.noise.deviation * 0.9
    far = fitted.forecast(compute=1e15)
    assert np.ptp(far.interval) / far.value > 1.5 * width


@pytest.mark.parametrize(
    "request_", [{}, {"n": 1e4, "d": 1e6, "compute": 1e12}, {"n": 1e4}, {"n": -1.0, "d": 1e6}, {"compute": 0.0}]
)
def test_bad_requests(fitted, request_):
    with pytest.raises(InputError):
        fitted.forecast(**request_)


def test_a_law_of_compute_predicts_from_compute(sweep):
    fit = laws.load(sweep).fit("power_c", resamples=0)
    forecast = fit.forecast(compute=1e12)
    assert forecast.value == pytest.approx(fit.params["k"] * 1e12 ** -fit.params["p"])
    assert any("no resamples" in text for text in forecast.warnings)
