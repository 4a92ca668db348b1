"""The law of the frontier beside surfaces: what it is fitted to, and intervals that hold both where the two disagree."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.inference.allocation import allocate
from laws.model.forms import LAWS
from laws.results.report_parts import WarningKind

TRUTH = {"A": 22600.0, "B": 216000.0, "E": 1.69, "alpha": 0.6, "beta": 0.62, "kappa": 0.5}
PARAMS = np.array([[TRUTH[name] for name in LAWS["coupled"].names]])


def profiles(budgets=6, sizes=7):
    c = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.3, 3.3, sizes), budgets)
    frame = pd.DataFrame({"n": n, "d": c / (6 * n), "c": c})
    mean = log_predictions(LAWS["coupled"], PARAMS, {"n": n, "d": c / (6 * n)})[0]
    return frame.assign(loss=np.exp(mean + 0.002 * np.random.default_rng(4).standard_normal(len(c))))


def best_loss(compute: float) -> float:
    return allocate(LAWS["coupled"], PARAMS, np.array([compute]), TokenCost(), (1e7, 1e10)).loss[0, 0]


@pytest.fixture(scope="module")
def fit():
    return laws.load(profiles(), n="n", d="d", c="c").fit("chinchilla", resamples=20)


def test_it_is_fitted_to_the_best_runs_and_to_the_minima(fit):
    points = fit.report.frontier.points
    best = points["frontier of the best runs"]
    assert [loss for _, loss in best] == pytest.approx(profiles().groupby("c").loss.min().to_numpy())
    minima = points["frontier of the minima of profiles"]
    assert len(minima) == 6
    assert [loss for _, loss in minima] == pytest.approx([best_loss(c) for c, _ in minima], rel=0.01)


def test_both_forecasts_hold_the_best_loss(fit):
    forecast = fit.forecast(compute=1e22)
    beside, truth = forecast.frontier, best_loss(1e22)
    assert beside.mean_interval[0] < truth < beside.mean_interval[1]
    assert beside.surfaces_interval[0] < truth < beside.surfaces_interval[1]
    assert not beside.disagrees and forecast.mean_interval == beside.surfaces_interval
    row = fit.optimal([1e22]).iloc[0]
    assert row.frontier_loss == pytest.approx(beside.value)
    assert (row.frontier_loss_ci_lower, row.frontier_loss_ci_upper) == pytest.approx(beside.mean_interval)
    assert fit.forecast(n=3e9, d=6e10).frontier is None, "the frontier is of budgets"
    assert WarningKind.FRONTIER_DISAGREES not in {warning.kind for warning in fit.warnings}


def test_where_they_disagree_the_intervals_hold_both(fit):
    """A frontier whose floor lies a half lower in every draw."""
    frontier = fit.report.frontier
    lower = tuple(
        dataclasses.replace(form, samples=form.samples | {"E": tuple(value - 0.5 for value in form.samples["E"])})
        for form in frontier.forms
    )
    report = dataclasses.replace(fit.report, frontier=dataclasses.replace(frontier, forms=lower))
    apart = dataclasses.replace(fit, report=report)
    forecast, before = apart.forecast(compute=1e22), fit.forecast(compute=1e22)
    assert forecast.frontier.disagrees and forecast.value == before.value
    assert forecast.mean_interval == (forecast.frontier.mean_interval[0], before.mean_interval[1])
    assert forecast.interval == (forecast.frontier.interval[0], before.interval[1])
    assert any("disagree" in text for text in forecast.warnings)
    row = apart.optimal([1e22]).iloc[0]
    assert (row.loss_ci_lower, row.loss_ci_upper) == pytest.approx(forecast.mean_interval)
    assert (row.loss_run_ci_lower, row.loss_run_ci_upper) == pytest.approx(forecast.interval)


def test_a_frontier_that_leaves_the_surface_raises_an_alarm():
    """The largest budgets fall by a factor faster than any surface of the others, and so does the frontier alone."""
    frame = profiles()
    best = frame.groupby("c").loss.transform("min") == frame.loss
    odd = frame.assign(loss=np.where(best, frame.loss * (frame.c / 1e18) ** -0.03, frame.loss))
    fit = laws.load(odd, n="n", d="d", c="c").fit("chinchilla", resamples=20, target=1e21)
    assert fit.report.frontier is not None
    assert fit.report.frontier.disagree == (WarningKind.FRONTIER_DISAGREES in {w.kind for w in fit.warnings})
    assert fit.report.frontier.disagree


def test_too_few_budgets_have_no_frontier():
    fit = laws.load(profiles(budgets=3), n="n", d="d", c="c").fit("chinchilla", resamples=20)
    assert fit.report.frontier is None and fit.forecast(compute=1e21).frontier is None


def test_the_file_and_the_commands_show_both(fit, tmp_path, capsys):
    path = fit.save(tmp_path / "fit.json")
    assert laws.read_fit(path).forecast(compute=1e22) == fit.forecast(compute=1e22)
    assert cli.main(["predict", str(path), "--compute=1e22"]) == 0
    assert "by the law of the frontier" in capsys.readouterr().out
    profiles().to_csv(tmp_path / "runs.csv", index=False)
    columns = ("--n_column=n", "--d_column=d", "--c_column=c", "--resamples=20")
    assert cli.main(["fit", str(tmp_path / "runs.csv"), *columns, f"--out={tmp_path / 'again.json'}"]) == 0
    assert "mean loss at 1e+20 FLOPs: surfaces" in capsys.readouterr().out
