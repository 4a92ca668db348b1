"""Rival forms: who is believed, and what growth of forecast errors does to predictions."""

import dataclasses
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import laws
from laws.base.uncertainty_config import UncertaintyConfig
from laws.forecasting.model_averaging import RIVALS
from laws.forecasting.rolling_origin import INFLATIONS, _scores, forecast_origins
from laws.inference.resampling import DesignFits
from laws.model.forms import LAWS, find
from laws.results.report_parts import WarningKind


def test_every_rival_is_a_law():
    for name, forms in RIVALS.items():
        for form in forms:
            assert name in LAWS
            assert set(form.zero) | set(form.tie) <= set(LAWS[form.law].names)


def test_cuts_leave_runs_on_both_sides():
    compute = np.repeat(np.geomspace(1e18, 1e20, 6), 5)
    found = forecast_origins(compute, np.arange(30), 8)
    assert [int(rows.sum()) for rows in found] == [10, 15, 20, 25]
    assert forecast_origins(compute, np.arange(30), 31) == []
    ladder = forecast_origins(np.geomspace(1, 100, 40), np.arange(40), 7)
    assert len(ladder) <= 6
    assert 7 <= ladder[0].sum() < ladder[-1].sum() < 40


def test_the_law_is_believed_where_it_is_true(below):
    fitted = laws.load(below).fit("chinchilla_tied", resamples=100)
    forms = fitted.report.model_average.forms
    assert forms[0].label == forms[0].law == "chinchilla_tied"
    assert sum(form.weight for form in forms) == pytest.approx(1)
    assert all(form.weight >= UncertaintyConfig().equal_weight / len(forms) - 1e-12 for form in forms)
    assert fitted.report.model_average.extrapolation_inflation < 0.005
    assert len(forms[0].samples) == 0 < len(forms[1].samples["E"])


@pytest.fixture(scope="module")
def misfitted():
    """A power law without a floor, fitted to runs whose loss has one: its forecasts miss by more and more."""
    c = np.repeat(np.geomspace(1e17, 1e21, 9), 3)
    loss = (1.5 + 40 * (c / 1e12) ** -0.3) * np.exp(0.004 * np.random.default_rng(0).standard_normal(27))
    return laws.load(pd.DataFrame({"c": c, "loss": loss}), c="c").fit("power_c", resamples=100)


def test_a_rival_that_forecasts_better_takes_over(misfitted):
    law, rival = misfitted.report.model_average.forms
    assert rival.label == "power_offset_c"
    assert rival.weight > 0.9 > 0.1 > law.weight
    assert rival.params["E"] == pytest.approx(1.5, abs=0.1)
    assert WarningKind.RIVALS in {warning.kind for warning in misfitted.warnings}
    forecast = misfitted.forecast(c=1e23)
    truth = 1.5 + 40 * 1e11**-0.3
    assert forecast.interval[0] < truth < forecast.interval[1]
    assert forecast.sd_components["form"] > forecast.sd_components["constants"]
    assert any("'power_offset_c' forecast better" in text for text in forecast.warnings)


def test_growth_widens_by_the_log_of_the_extrapolation_factor(misfitted):
    alone = dataclasses.replace(misfitted.predictor, rivals=(), extrapolation_inflation=0.0)
    growing = dataclasses.replace(alone, extrapolation_inflation=0.05)
    for factor in (1.0, 10.0, 100.0):
        at = {"c": np.array([1e21 * factor])}
        added = np.var(growing.log_losses(at)) - np.var(alone.log_losses(at))
        assert added == pytest.approx((0.05 * np.log(factor)) ** 2, rel=0.25, abs=1e-5)


def test_a_saved_ensemble_predicts_the_same(misfitted, tmp_path):
    again = laws.read_fit(misfitted.save(tmp_path / "fit.json"))
    assert again.forecast(c=1e23).interval == pytest.approx(misfitted.forecast(c=1e23).interval, rel=1e-9)


def line(runs: int, rows: int = 1):
    """A straight line through noisy runs, half of them forecast from the other half: the arguments of a score.

    Args:
        runs: how many.
        rows: copies of each.
    """
    run = np.arange(runs).repeat(rows)
    x = np.linspace(-1, 1, runs)[run]
    slopes = np.stack([np.ones(len(x)), x], axis=1)[None]
    error = 0.01 * np.random.default_rng(0).standard_normal((1, runs))[:, run]
    one, params = np.ones(len(x)), np.ones((1, 2))
    fits = DesignFits(find("power_c"), {"c": np.exp(x)}, error, run, run, one, params, "log_squared")
    return fits, x < 0, np.zeros((1, len(x))), slopes, np.maximum(x, 0), 1e-6 * np.eye(2)[None]


def test_a_score_is_the_density_of_a_multivariate_t():
    from scipy.stats import multivariate_t

    fits, inside, _, slopes, far, prior = given = line(20)
    seen, new = slopes[:, inside], slopes[0, ~inside]
    variance = np.sum(fits.log_loss[:, inside] ** 2) / 8  # unbiased with two constants fitted
    unsure = new @ np.linalg.inv(seen[0].T @ seen[0] / variance + prior[0]) @ new.T
    for extrapolation_inflation, found in zip(INFLATIONS, _scores(*given)[0], strict=True):
        moved = extrapolation_inflation * far[~inside]
        shape = unsure + np.outer(moved, moved) + variance * np.eye(10)
        expected = multivariate_t.logpdf(fits.log_loss[0, ~inside], np.zeros(10), shape, df=8)
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_score_counts_runs_and_not_their_rows():
    """Copies of every row tell nothing more: neither of the constants, nor of the runs beyond."""
    assert _scores(*line(20, 3))[0] == pytest.approx(_scores(*line(20))[0], rel=1e-6)


def test_scores_of_many_rows_take_memory_as_the_rows_do():
    tracemalloc.start()
    assert np.isfinite(_scores(*line(100_000))).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e8  # a covariance of the forecasts would hold 2e10 bytes
