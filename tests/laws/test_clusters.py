"""Rows of one run as a cluster, against formulas that are written out."""

import doctest

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import laws
from laws.base import uncertainty_config
from laws.estimation.estimate import estimate
from laws.estimation.objectives import OBJECTIVES
from laws.inference import clusters
from laws.inference.clusters import between_share, design_effect, effective_runs, nearest_rank_rows
from laws.inference.noise import noise_of, residual_scale, seed_deviation
from laws.inference.profile import profiles
from laws.inference.resampling import DesignFits, leave_one_out
from laws.model.forms import find


def test_effective_runs():
    assert effective_runs(np.arange(7)) == 7
    assert effective_runs(np.repeat(np.arange(7), 5)) == pytest.approx(7)
    assert effective_runs(np.r_[np.zeros(200, int), 1, 2, 3]) == pytest.approx(203**2 / 40_003)


def one_way(runs: int, rows: int, between: float, within: float, tables: int):
    """Simulated errors of a one-way layout, and what least squares with a line over the runs leaves of them."""
    rng, run = np.random.default_rng(0), np.repeat(np.arange(runs), rows)
    error = between * rng.standard_normal((tables, runs))[:, run]
    error += within * rng.standard_normal((tables, len(run)))
    design = np.stack([np.ones(len(run)), np.linspace(-1, 1, runs)[run]], axis=1)
    return run, error - error @ np.linalg.pinv(design).T @ design.T


@pytest.mark.parametrize(("between", "within"), [(1.0, 0.0), (0.6, 0.8), (0.0, 1.0)])
def test_the_residual_scale_of_clusters_is_unbiased(between, within):
    """Of one row: variances between and within runs together, whatever their shares."""
    run, residual = one_way(10, 6, between, within, 4000)
    variance = np.mean(residual_scale(residual, run, 2, "log_squared", 1e-3) ** 2)
    assert variance == pytest.approx(between**2 + within**2, rel=0.02)


def test_where_every_row_is_a_run_it_is_the_textbook_scale():
    run, residual = one_way(12, 1, 1.0, 0.0, 3)
    expected = np.sqrt(np.sum(residual**2, axis=1) / 10)
    assert residual_scale(residual, run, 2, "log_squared", 1e-3) == pytest.approx(expected)


@pytest.mark.parametrize(("between", "within"), [(1.0, 0.0), (0.6, 0.8), (0.0, 1.0)])
def test_scale_times_design_effect_is_the_variance_of_a_runs_sum(between, within):
    run, residual = one_way(10, 6, between, within, 4000)
    correction = np.array([10 / 8])
    variance = residual_scale(residual, run, 2, "log_squared", 1e-3) ** 2
    of_sum = 6 * variance * design_effect(residual, run, correction)
    floor = 6 * (between**2 + within**2)  # the design effect is not taken below one
    expected = 36 * between**2 + 6 * within**2
    assert np.mean(of_sum) == pytest.approx(expected, rel=0.03 if expected > floor else 0.3)
    share = np.mean(between_share(residual, run, correction))
    assert share == pytest.approx((between**2 + within**2 / 6) / (between**2 + within**2), abs=0.04)


def test_rows_of_a_donor_stand_in_by_rank():
    run = np.array([2, 0, 0, 0, 1, 1])
    found = nearest_rank_rows(run, np.array([1, 0, 2]))
    assert list(found) == [0, 4, 5, 5, 1, 3]
    assert list(nearest_rank_rows(run, np.arange(3))) == list(range(6))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_score_is_the_derivative_of_the_objective(name):
    """By central differences, away from the corners at the threshold."""
    residual, step = np.array([-0.3, -2e-3, -5e-4, 0.0, 4e-4, 2e-3, 0.2]), 1e-7
    objective = OBJECTIVES[name]
    expected = (objective(residual + step, 1e-3) - objective(residual - step, 1e-3)) / (2 * step)
    assert objective.psi(residual, 1e-3) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.fixture(scope="module")
def clustered():
    """Ten runs of six rows, whose errors are nearly those of their runs."""
    run, rng = np.repeat(np.arange(10), 6), np.random.default_rng(3)
    c = np.geomspace(1e18, 1e21, 10)[run]
    error = 0.01 * rng.standard_normal(10)[run] + 0.001 * rng.standard_normal(60)
    loss = 3 * (c / 1e20) ** -0.05 * np.exp(error)
    return laws.load(pd.DataFrame({"c": c, "loss": loss, "run": run}), c="c", run="run")


def test_the_profile_of_clustered_rows_is_the_cluster_robust_interval(clustered):
    """Of the slope of a line: sums over runs, the factor G / (G - k), and t with G - k degrees of freedom."""
    law = find("power_c")
    optimum = estimate(law, clustered, "log_squared")
    fits, noise = DesignFits.of(optimum, clustered), noise_of(optimum, clustered, np.ones(60))
    assert noise.dof == pytest.approx(8)
    slope = {"p": lambda params: params[:, 1]}
    profile = profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, slope)["p"]
    x, y = np.log(clustered.values["c"]), np.log(clustered.loss)
    design = np.stack([np.ones(60), -x], axis=1)
    constants = np.linalg.lstsq(design, y, rcond=None)[0]
    means = (y - design @ constants).reshape(10, 6).mean(axis=1)
    # With one x a run, the variance of runs' means is the same for all: the cluster-robust one if runs are alike.
    variance = 10 / 8 * np.mean(means**2) * np.linalg.inv(design[::6].T @ design[::6])[1, 1]
    expected = constants[1] + student.ppf([0.025, 0.975], 8) * np.sqrt(variance)
    assert profile.interval(0.95) == pytest.approx(tuple(expected), rel=5e-3)


@pytest.mark.parametrize("objective", ["log_squared", "squared"])
def test_the_profile_of_squares_does_not_depend_on_delta(clustered, objective):
    """It plays no part there, also where rows repeat a run."""
    widths = []
    for delta in (1e-4, 1e-1):
        optimum = estimate(find("power_c"), clustered, objective, delta)
        fits, noise = DesignFits.of(optimum, clustered), noise_of(optimum, clustered, np.ones(60))
        slope = {"p": lambda params: params[:, 1]}
        profile = profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, slope)["p"]
        widths.append(np.ptp(profile.interval(0.95)))
    assert widths[0] == pytest.approx(widths[1], rel=1e-6)


def test_the_profile_of_relative_squares_is_that_of_log_squares(clustered):
    """At noise of one percent the two objectives differ by the weights of the runs alone."""
    intervals = []
    for objective in ("log_squared", "squared"):
        optimum = estimate(find("power_c"), clustered, objective)
        fits, noise = DesignFits.of(optimum, clustered), noise_of(optimum, clustered, np.ones(60))
        slope = {"p": lambda params: params[:, 1]}
        profile = profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, slope)["p"]
        intervals.append(profile.interval(0.95))
    assert np.ptp(intervals[1]) == pytest.approx(np.ptp(intervals[0]), rel=0.15)


def test_repeated_rows_of_a_run_are_not_repeated_runs():
    """Evaluations of one run say nothing of seeds; two seeds at the same checkpoints are one repetition."""
    rng = np.random.default_rng(0)
    c = np.tile(np.repeat([1e18, 1e19, 1e20], 4), 2)
    frame = pd.DataFrame({"c": c, "loss": 3 + 1e-4 * rng.standard_normal(24), "run": np.repeat(np.arange(2), 12)})
    alone = laws.load(frame[frame.run == 0], c="c", run="run")
    assert seed_deviation(alone, np.ones(12, bool)) == (None, 0)
    frame.loc[frame.run == 1, "loss"] *= np.exp(0.02)
    deviation, dof = seed_deviation(laws.load(frame, c="c", run="run"), np.ones(24, bool))
    assert deviation == pytest.approx(0.02 / np.sqrt(2), rel=0.02)
    assert dof == 1


def test_approach_2_counts_evaluations_of_one_run_once(sweep):
    """Twelve evaluations of every run that differ by next to nothing: the noise is that of the seeds as before."""
    rows = pd.concat([sweep.assign(loss=sweep.loss * (1 + 1e-9 * k), step=k) for k in range(12)])
    once, often = (laws.isoflop_profiles(laws.load(table)) for table in (sweep, rows))
    assert often.noise == pytest.approx(once.noise, rel=1e-6)
    assert often.a == pytest.approx(once.a, abs=1e-6)
    assert often.a_interval == pytest.approx(once.a_interval, abs=1e-3)


def forked(seed: int) -> pd.DataFrame:
    """Two trunks a size with branches at four horizons: errors of one percent are a trunk's, and a fifth is a run's own."""
    rng, rows = np.random.default_rng(seed), []
    for trunk, n in enumerate(np.repeat(np.geomspace(1e6, 1e8, 6), 2)):
        error = 0.01 * rng.standard_normal()
        for k, d in enumerate(np.geomspace(1e8, 1.6e9, 5)[::-1]):
            loss = 3 * (n / 1e7) ** -0.1 * np.exp(error + 0.002 * rng.standard_normal())
            of = f"t{trunk}" if k else None  # the longest horizon is the trunk
            rows.append({"run_id": f"b{trunk}{k}" if k else f"t{trunk}", "trunk": of, "params_total": n, "tokens": d})
            rows[-1] |= {"fork_step": 80.0 if k else None, "loss": loss}
    return pd.DataFrame(rows)


def exponent_of(frame, **options):
    """The profile interval of the exponent of the size, whose truth is 0.1."""
    table = laws.load(frame, **options)
    optimum = estimate(find("power_n"), table, "log_squared")
    fits, noise = DesignFits.of(optimum, table), noise_of(optimum, table, np.ones(len(table)))
    exponent = {"p": lambda params: params[:, 1]}
    return profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, exponent)["p"].interval(0.95)


def test_branches_of_one_trunk_are_dependent_by_default_and_a_line_says_so():
    runs = laws.load(forked(0))
    assert len(set(runs.run)) == 12 and len(runs) == 60 and runs.columns["run"] == "trunk"
    assert runs.run[0] == runs.run[1] == "t0" and not runs.differing
    (line,) = [text for text in runs.warnings if "trunk" in text]
    assert line.startswith("60 runs of 12 trunks") and "--run_column=run_id takes every run by itself" in line
    alone = laws.load(forked(0), run="run_id")
    assert len(set(alone.run)) == 60 and not any("trunk" in text for text in alone.warnings)
    without = laws.load(forked(0).assign(trunk=None))
    assert len(set(without.run)) == 60 and without.columns["run"] == "run_id"
    assert (
        laws.load(forked(0).drop(columns="trunk"), run="trunk").columns["run"] == "run_id"
    )  # read as a fit of branches


def test_intervals_that_take_branches_as_independent_undercover_and_those_by_trunk_do_not():
    """Exact intervals leave the truth out in more than 4 of 24 tables six times in a thousand."""
    tables = [forked(seed) for seed in range(24)]
    missed = {
        run: sum(not low <= 0.1 <= high for low, high in (exponent_of(table, run=run) for table in tables))
        for run in ("trunk", "run_id")
    }
    assert missed["trunk"] <= 4 and missed["run_id"] >= 8


def test_examples_in_docstrings():
    for module in (clusters, uncertainty_config):
        results = doctest.testmod(module)
        assert results.attempted > 0 and results.failed == 0
