"""The backtest of a law: what it would have forecast of the largest budget from the smaller ones."""

import numpy as np
import pandas as pd
import pytest

import laws


def test_every_forecast_is_that_of_a_fit_to_the_budgets_up_to_there(fitted, below):
    backtest = fitted.report.backtest
    top = below[below.budget == below.budget.max()]
    best = top.groupby(["params_total", "tokens"]).loss.mean()
    assert backtest.measured == pytest.approx(best.min())
    assert (backtest.target["n"], backtest.target["d"]) == best.idxmin()
    assert [origin.n_runs for origin in backtest.origins] == [7, 14, 21, 28]
    assert [origin.target_was_fitted for origin in backtest.origins] == [False, False, False, True]
    target = {variable: backtest.target[variable] for variable in ("n", "d")}
    assert backtest.origins[-1].value == pytest.approx(fitted.predict(pd.DataFrame([target]))[0], rel=1e-6)
    third = below[below.budget < 5e11]
    alone = laws.load(third).fit("chinchilla", resamples=0)
    assert backtest.origins[2].value == pytest.approx(alone.predict(pd.DataFrame([target]))[0], rel=1e-4)
    assert backtest.origins[2].max_fitted == third.flops_exact.max()


def test_intervals_narrow_as_budgets_are_added_and_hold_the_truth(fitted):
    from simulated import law

    backtest = fitted.report.backtest
    truth = law(backtest.target["n"], backtest.target["d"])
    widths = [np.ptp(origin.interval) for origin in backtest.origins]
    assert widths == sorted(widths, reverse=True)
    assert all(origin.interval[0] < origin.value < origin.interval[1] for origin in backtest.origins)
    assert sum(origin.interval[0] < truth < origin.interval[1] for origin in backtest.origins) >= 3


def test_a_held_out_budget_is_forecast_and_never_seen(sweep, held):
    backtest = held.report.backtest
    top = sweep[sweep.budget == sweep.budget.max()]
    assert backtest.measured == pytest.approx(top.groupby("params_total").loss.mean().min())
    assert backtest.target["c"] == pytest.approx(1e12, rel=1e-3)
    assert [origin.target_was_fitted for origin in backtest.origins] == [False] * 4
    assert max(origin.max_fitted for origin in backtest.origins) < 6e11


def test_too_few_runs_below_the_top_have_none():
    c = np.geomspace(1e18, 1e20, 5)
    table = laws.load(pd.DataFrame({"c": c, "loss": 3 * (c / 1e18) ** -0.05}), c="c")
    assert table.fit("power_offset_c", resamples=40).report.backtest is None
