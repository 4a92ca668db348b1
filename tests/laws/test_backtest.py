"""The roll-out of a law: what it would have forecast of the largest budget from the smaller ones."""

import numpy as np
import pandas as pd
import pytest

import laws


def test_every_forecast_is_that_of_a_fit_to_the_budgets_up_to_there(fitted, below):
    found = fitted.report["rollout"]
    top = below[below.budget == below.budget.max()]
    best = top.groupby(["params_total", "tokens"]).loss.mean()
    assert found["measured"] == pytest.approx(best.min())
    assert (found["target"]["n"], found["target"]["d"]) == best.idxmin()
    assert [cut["runs"] for cut in found["cuts"]] == [7, 14, 21, 28]
    assert [cut["seen"] for cut in found["cuts"]] == [False, False, False, True]
    at = {variable: found["target"][variable] for variable in ("n", "d")}
    assert found["cuts"][-1]["loss"] == pytest.approx(fitted.predict(**at)["loss"], rel=1e-6)
    third = below[below.budget < 5e11]
    alone = laws.load(third).fit("chinchilla", resamples=0)
    assert found["cuts"][2]["loss"] == pytest.approx(alone.predict(**at)["loss"], rel=1e-4)
    assert found["cuts"][2]["at"] == third.flops_exact.max()


def test_intervals_narrow_as_budgets_are_added_and_hold_the_truth(fitted):
    from simulated import law

    found = fitted.report["rollout"]
    truth = law(found["target"]["n"], found["target"]["d"])
    widths = [np.ptp(cut["interval"]) for cut in found["cuts"]]
    assert widths == sorted(widths, reverse=True)
    assert all(cut["interval"][0] < cut["loss"] < cut["interval"][1] for cut in found["cuts"])
    assert sum(cut["interval"][0] < truth < cut["interval"][1] for cut in found["cuts"]) >= 3


def test_a_held_out_budget_is_forecast_and_never_seen(sweep, held):
    found = held.report["rollout"]
    top = sweep[sweep.budget == sweep.budget.max()]
    assert found["measured"] == pytest.approx(top.groupby("params_total").loss.mean().min())
    assert found["target"]["c"] == pytest.approx(1e12, rel=1e-3)
    assert [cut["seen"] for cut in found["cuts"]] == [False] * 4
    assert max(cut["at"] for cut in found["cuts"]) < 6e11


def test_too_few_runs_below_the_top_have_none():
    c = np.geomspace(1e18, 1e20, 5)
    found = laws.load(pd.DataFrame({"c": c, "loss": 3 * (c / 1e18) ** -0.05}), c="c").fit(
        "power_offset_c", resamples=40
    )
    assert found.report["rollout"] is None
