"""Settings that shape intervals: kept in the fit, varied by the user, and the warnings and refusals about intervals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from simulated import simulate

import laws
from laws.base.errors import InputError
from laws.inference.methods import IntervalMethod
from laws.results.diagnostics import CHECKS
from laws.results.report_parts import WarningKind


def test_settings_are_kept_in_the_fit_and_followed(below, tmp_path):
    runs = laws.load(below)
    usual = runs.fit("power_c", resamples=20)
    assert usual.report.uncertainty == laws.UncertaintyConfig()
    assert usual.report.intervals.method == IntervalMethod.PAIRS
    cautious = laws.UncertaintyConfig(runs_per_constant=20, departures=(1.0,))
    fit = runs.fit("power_c", resamples=20, uncertainty=cautious)
    assert fit.report.intervals.method == IntervalMethod.WILD
    again = laws.read_fit(fit.save(tmp_path / "fit.json"))
    assert again.report.uncertainty == cautious == again.predictor.config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"stratum_prior_runs": 0.0}, "stratum_prior_runs must be positive, and is 0.0"),
        ({"smoothing": -1.0}, "smoothing must be positive, and is -1.0"),
        ({"law_weight": 1.5}, "law_weight is a share of one, and is 1.5"),
        ({"departures": ()}, "departures must be positive"),
        ({"pool_shrinkage": float("nan")}, "pool_shrinkage must be positive, and is nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        laws.UncertaintyConfig(**setting)
    assert laws.UncertaintyConfig(departures=(0.0,), law_weight=1.0).law_weight == 1


def test_settings_of_the_other_approaches_are_followed(below):
    """A parabola through all sizes, not those near the lowest loss alone; and minima of which none is exact."""
    table, flat = laws.load(below), laws.UncertaintyConfig(isoflop_near=10.0, isoflop_least_spread=5.0)
    usual = laws.isoflop_profiles(table, method="parabola", draws=200)
    other = laws.isoflop_profiles(table, method="parabola", draws=200, uncertainty=flat)
    assert usual.a != other.a
    spread = lambda fit: np.array([minimum.spread for minimum in fit.minima if minimum.flaw is None])
    assert (spread(other) > 3 * spread(usual).min()).all() and np.ptp(spread(other)) < 0.5 * spread(other).mean()
    strict = laws.UncertaintyConfig(isoflop_budget_share=1.0, isoflop_same_size=2.0)
    with pytest.raises(InputError, match="not an iso-FLOP table"):
        laws.isoflop_profiles(table, uncertainty=strict)


def test_a_narrower_pool_gives_narrower_forecasts(below):
    fitted = laws.load(below).fit("chinchilla_tied", resamples=100)

    def width(shrinkage):
        settings = dataclasses.replace(fitted.report.uncertainty, pool_shrinkage=shrinkage)
        report = dataclasses.replace(fitted.report, uncertainty=settings)
        return np.ptp(dataclasses.replace(fitted, report=report).forecast(compute=1e12).mean_interval)

    assert width(0.5) < 0.9 * width(1.0)  # the forms differ among themselves as before


@pytest.mark.parametrize("objective", ["log_huber", "log_asymmetric"])
def test_the_jackknife_is_refused_where_it_is_not_valid(below, objective):
    """The delete-one jackknife is inconsistent for medians and their like."""
    with pytest.raises(InputError, match="take ci_method wild") as refusal:
        laws.load(below).fit("power_c", objective=objective, ci_method="jackknife")
    assert "\n" not in str(refusal.value) and objective in str(refusal.value)
    assert laws.load(below).fit("power_c", objective="log_squared", ci_method="jackknife", resamples=20).n_runs == 28


def test_fits_without_resamples_are_not_compared(below):
    fit = laws.load(below).fit("chinchilla", resamples=0)
    with pytest.raises(InputError, match="has no resamples"):
        laws.compare(fit, fit)


@pytest.mark.parametrize(("inflation", "warned"), [(0.0, False), (0.1, False), (0.4, True)])
def test_a_small_inflation_is_no_warning(fitted, inflation, warned):
    """At a tenth of the run's noise an e-fold it adds 2.6% to the width of an interval at ten times the compute."""
    average = dataclasses.replace(
        fitted.report.model_average, extrapolation_inflation=inflation * fitted.report.noise.deviation, prior=None
    )
    report = dataclasses.replace(fitted.report, model_average=average)
    kinds = {warning.kind for check in CHECKS for warning in check(report)}
    assert (WarningKind.INFLATION in kinds) == warned


def test_draws_without_an_optimum_are_counted_and_said():
    """Against a search along the line of equal compute, wide enough for any optimum that could be meant."""
    fit = laws.load(simulate(noise=0.4, seed=1)).fit("chinchilla", resamples=60)
    draws, target = {name: np.array(v)[:, None] for name, v in fit.report.samples.items()}, fit.report.target_flops
    log_n = np.linspace(np.log(fit.report.ranges["n"][0]) - 9, np.log(fit.report.ranges["n"][1]) + 9, 4000)
    d = target / np.exp(fit.report.token_cost.log_flops_per_token(log_n))
    loss = draws["E"] + draws["A"] / np.exp(log_n) ** draws["alpha"] + draws["B"] / d ** draws["beta"]
    lowest = loss.argmin(axis=1)
    none = int(np.sum((lowest == 0) | (lowest == len(log_n) - 1)))
    assert none > 0
    counted = fit.derived["n_without_optimum"]
    assert counted.dtype.kind == "i" and list(counted.loc[["n_opt", "a"]]) == [pytest.approx(none, abs=1)] * 2
    assert set(counted) == {fit.report.intervals.n_without_optimum}
    assert list(fit.table().columns) == ["value", "low", "high"]  # what is printed; the count is in a warning
    (said,) = [warning.text for warning in fit.warnings if warning.kind == WarningKind.RESAMPLES]
    assert f"{fit.report.intervals.n_without_optimum} have no compute-optimal size" in said
    row, forecast = fit.optimal([target, 3 * target]).loc[target], fit.forecast(compute=target)
    assert row.n_without_optimum == forecast.split.n_without_optimum
    assert (row.loss_run_ci_lower, row.loss_run_ci_upper) == pytest.approx(forecast.interval, rel=1e-9)


def test_uneven_runs_are_counted_as_fewer(below):
    """One run with many rows: the fit follows it, and its degrees of freedom say so."""
    rng = np.random.default_rng(0)
    longest = below.iloc[[0] * 8]
    rows = longest.assign(tokens=longest.tokens * np.linspace(0.5, 0.9, 8))
    rows = rows.assign(flops_exact=longest.flops_exact * np.linspace(0.5, 0.9, 8))
    rows = rows.assign(loss=longest.loss * np.exp(1e-3 * rng.standard_normal(8)))
    table = laws.load(pd.concat([below, rows]))
    fit = table.fit("power_c", resamples=0)
    sizes = np.array([9, *[1] * 27])
    assert fit.dof_resid == pytest.approx(sizes.sum() ** 2 / np.sum(sizes**2) - 2)
    (said,) = [warning.text for warning in fit.warnings if warning.kind == WarningKind.ROWS_OF_ONE_RUN]
    assert "as 12 of equal numbers of rows" in said
