"""The bootstrap over runs and the noise of a run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated import TRUTH, simulate

import laws
from laws.estimation.estimate import estimate
from laws.estimation.refit import RefitResult
from laws.inference.noise import RunNoise, interval, m_estimator_moments, noise_of, residual_scale, seed_deviation
from laws.inference.resampling import (
    DesignFits,
    _resamples,
    draw_bootstrap_errors,
    leave_one_out,
    method_for,
    pairs_bootstrap,
    pairs_weights,
    resample,
)
from laws.model.forms import find


def test_runs_are_resampled_with_all_their_rows():
    run = np.array(["a", "a", "a", "b", "c", "c"])
    weights = pairs_weights(run, np.ones(6), 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 3, 4]].sum(axis=1) == 3).all()
    holdout_errors = pairs_weights(run, np.array([1, 1, 1, 1, 0, 0.0]), 50, seed=0)
    assert (holdout_errors[:, 4:] == 0).all()


def test_rows_of_a_run_do_not_make_the_interval_narrower():
    """Trap 5: copies of a run's points carry no new information."""
    rng = np.random.default_rng(0)
    c = np.geomspace(1e18, 1e21, 30)
    loss = 3 * c**-0.05 * np.exp(0.01 * rng.standard_normal(30))
    single = pd.DataFrame({"c": c, "loss": loss, "run": range(30)})
    copies = pd.concat(
        [single.assign(c=single.c * (1 + 1e-5 * k), loss=single.loss * (1 + 1e-7 * k)) for k in range(3)]
    )

    def width(frame, **columns):
        table = laws.load(frame, c="c", **columns)
        drawn = pairs_bootstrap(estimate(find("power_c"), table), table, np.ones(len(table)), resamples=300)
        return np.ptp(interval(drawn.params[:, 1], 0.95))

    alone = width(single, run="run")
    assert width(copies, run="run") == pytest.approx(alone, rel=0.15)
    assert width(copies) < 0.75 * alone


def test_bootstrap_matches_refitting(below):
    """Warm starts reach the optimum that a whole fit of the resample reaches."""
    table, law = laws.load(below), find("chinchilla")
    optimum = estimate(law, table)
    drawn = pairs_bootstrap(optimum, table, np.ones(len(table)), resamples=6, seed=3)
    weights = pairs_weights(table.run, np.ones(len(table)), 6, seed=3)
    assert drawn.not_converged == 0
    for row, weight in zip(drawn.params, weights, strict=True):
        again = estimate(law, table, weight=weight)
        assert again.params[3:] == pytest.approx(row[3:], rel=1e-3)  # a hundredth of a standard error


def test_the_same_seed_gives_the_same_intervals(below):
    table = laws.load(below)
    first, second, other = (table.fit("power_c", resamples=50, seed=s).report.intervals for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_noise_from_repeated_seeds(sweep):
    many = pd.concat(
        [
            sweep.assign(loss=sweep.loss * np.exp(0.02 * np.random.default_rng(k).standard_normal(len(sweep))))
            for k in range(20)
        ]
    )
    table = laws.load(many.drop(columns="run_id"))
    found, dof = seed_deviation(table, np.ones(len(table), bool))
    assert found == pytest.approx(0.02, rel=0.1)
    assert dof == len(table) - 25
    no_seeds = laws.load(sweep[sweep.seed == 0])
    assert seed_deviation(no_seeds, np.ones(len(no_seeds), bool)) == (None, 0)


def test_interval_ignores_what_is_not_finite():
    low, high = interval(np.array([np.nan, *np.linspace(0, 1, 101), np.inf]), 0.9)
    assert (low, high) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()


@pytest.fixture(scope="module")
def line():
    """A power law by least squares: linear in its constants, so that theory is exact."""
    c = np.geomspace(1e18, 1e21, 12)
    loss = 3 * (c / 1e20) ** -0.05 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    table = laws.load(pd.DataFrame({"c": c, "loss": loss}), c="c")
    optimum = estimate(find("power_c"), table, "log_squared")
    x = np.log(c) - np.log(c).mean()
    noise = noise_of(optimum, table, np.ones(12))
    return DesignFits.of(optimum, table), noise, noise.residual / np.sqrt(np.sum(x**2))


@pytest.mark.parametrize("method", ["wild", "jackknife"])
def test_the_spread_of_resamples_is_the_analytic_one(line, method):
    """Of the slope of a straight line, with the t distribution's wider tails."""
    fits, noise, expected = line
    drawn = resample(fits, noise, leave_one_out(fits), method, 4000, seed=1)
    assert drawn.method == method
    inner = np.diff(interval(drawn.params[:, 1], 0.5))[0] / (2 * 0.6998)  # quartiles of t with 10 degrees of freedom
    assert inner == pytest.approx(expected, rel=0.06 if method == "wild" else 0.3)
    assert np.median(drawn.params[:, 1]) == pytest.approx(fits.params[0, 1], abs=0.1 * expected)


def test_few_runs_are_not_drawn_with_replacement():
    assert method_for("auto", 39, 5, "log_huber") == "wild"
    assert method_for("auto", 40, 5, "log_huber") == "pairs"
    assert method_for("jackknife", 40, 5, "log_squared") == "jackknife"
    with pytest.raises(laws.InputError, match=r"no interval method is called 'bca' \(methods: auto, pairs"):
        method_for("bca", 40, 5, "log_huber")


def test_errors_follow_the_scatter_of_their_stratum(line):
    """Signs are fair, the deviation is the noise's, and a noisy stratum draws larger errors."""
    fits, _, _ = line
    left = leave_one_out(fits)
    rng, deviation = np.random.default_rng(0), np.array([0.02])
    drawn = draw_bootstrap_errors(fits, left, deviation, 1e6, 4000, rng)[0]
    assert drawn.std() == pytest.approx(0.02, rel=0.05)
    assert abs(drawn.mean()) < 0.001
    uneven = DesignFits(**{**vars(fits), "stratum": np.repeat([0, 1], 6)})
    loud = type(left)(left.params, left.residual * np.repeat([1.0, 5.0], 6), 0, 0)
    ratio = draw_bootstrap_errors(uneven, loud, deviation, 1e6, 4000, rng)[0].std(axis=0)
    assert ratio[6:].mean() > 1.5 * ratio[:6].mean()


@pytest.mark.parametrize("between", [0.0, 0.7, 1.0])
def test_rows_of_a_run_are_drawn_as_alike_as_they_are(between):
    """The drawn errors have the variance and the correlation of those that made the table."""
    run, rng = np.repeat(np.arange(300), 4), np.random.default_rng(1)
    error = np.sqrt(between) * rng.standard_normal(300)[run] + np.sqrt(1 - between) * rng.standard_normal(1200)
    c = np.geomspace(1e18, 1e21, 300)[run]
    log_loss = np.log(3 * (c / 1e20) ** -0.05)[None] + 0.01 * error
    one, zero = np.ones(1200), np.zeros(1200, int)
    fits = DesignFits(find("power_c"), {"c": c}, log_loss, run, zero, one, np.array([[30.0, 0.05]]), "log_squared")
    fits = replace(fits, params=fits.refit(log_loss, one[None], fits.params).params)
    drawn = draw_bootstrap_errors(fits, leave_one_out(fits), np.array([0.01]), 1e6, 100, np.random.default_rng(0))[0]
    assert drawn.std() == pytest.approx(0.01, rel=0.03)
    rows = drawn.reshape(100, 300, 4)
    assert np.mean(rows[..., 0] * rows[..., 3]) / np.mean(drawn**2) == pytest.approx(between, abs=0.08)
    assert abs(np.mean(rows[:, 0] * rows[:, 1]) / np.mean(drawn**2)) < 0.2  # different runs


def test_the_variance_of_hubers_estimator():
    """Half pi times that of the mean where the threshold is small, the mean's own where it is large."""
    normal = np.random.default_rng(0).standard_normal((1, 20_000))
    for delta, ratio in ((1e-3, np.pi / 2), (10.0, 1.0)):
        square, curve = m_estimator_moments(normal, np.array([1.0]), "log_huber", delta)
        assert square / curve**2 == pytest.approx([ratio], rel=0.03)
    assert m_estimator_moments(normal, np.array([2.0]), "log_squared", 1e-3)[0] == pytest.approx([4.0])


def test_the_noise_of_a_robust_fit_is_not_inflated():
    """The residuals of medians are larger than those of means by what the two differ."""
    drawn = np.random.default_rng(0).standard_normal((4000, 9))
    for objective, centre in (("log_squared", drawn.mean(axis=1)), ("log_huber", np.median(drawn, axis=1))):
        found = residual_scale(drawn - centre[:, None], np.arange(9), 1, objective, 1e-3)
        assert np.sqrt(np.mean(found**2)) == pytest.approx(1.0, rel=0.02)


def test_noise_is_that_of_the_seeds_where_they_scatter_more():
    assert RunNoise(0.02, 0.01, 20, 4).deviation == 0.02
    assert RunNoise(0.005, 0.01, 20, 4).deviation == 0.01
    assert RunNoise(None, 0.01, 20).deviation == 0.01


def test_refits_that_fail_are_counted_and_kept():
    params = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, 1.0]])
    bound = np.array([[False, True], [False, False], [False, False]])
    found = _resamples(RefitResult(params, np.ones(3), np.array([True, False, True]), bound, None), 3, 0, "wild")
    assert (found.asked, found.not_converged, found.at_bound) == (3, 2, 1)
    assert len(found.params) == 2


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Nominal 80% intervals of the exponents on simulated sweeps of the demo's size: coverage within sampling error."""
    inside = {"alpha": 0, "beta": 0}
    for seed in range(100):
        fit = laws.load(simulate(seed=seed)).fit("chinchilla", resamples=200, level=0.8)
        for name in inside:
            low, high = fit.report.intervals.params[name]
            inside[name] += low <= TRUTH[name] <= high
    assert all(0.62 <= count / 100 <= 0.95 for count in inside.values()), inside


def test_many_runs_are_left_out_by_folds(below):
    """So memory grows with the rows: what each row is compared with is the fit without its fold."""
    from laws.inference import resampling as uncertainty

    config = laws.UncertaintyConfig(leave_out_folds=5)
    table = laws.load(below)
    fits = uncertainty.DesignFits.of(estimate(find("chinchilla"), table), table, config=config)
    left = uncertainty.leave_one_out(fits)
    assert left.params.shape == (1, 5, 5) and left.residual.shape == (1, len(table))
    rows = fits.run % 5 == 3
    alone = estimate(find("chinchilla"), table.take(~rows))
    missed = np.log(table.loss[rows]) - alone.predict({variable: v[rows] for variable, v in table.values.items()})
    assert left.residual[0, rows] == pytest.approx(missed, abs=1e-4)
