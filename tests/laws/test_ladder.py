"""Ladders: runs whose parameters and tokens are in step are forecast along their line, by a posterior of its law."""

import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY
from laws.data.ladder import ladder_of
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.forecasting import frontier, posterior
from laws.forecasting.frontier import FRONTIER, frontier_member, frontier_prior
from laws.forecasting.priors import prior_of
from laws.inference.allocation import allocate
from laws.model.forms import LAWS
from laws.results.report_parts import WarningKind

TRUTHS = {
    "chinchilla": {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28},
    "coupled": {"A": 22600.0, "B": 216000.0, "E": 1.69, "alpha": 0.6, "beta": 0.62, "kappa": 0.5},
}
NOISE = 0.003


def true_loss(law, n, d):
    params = np.array([[TRUTHS[law][name] for name in LAWS[law].names]])
    return np.exp(log_predictions(LAWS[law], params, {"n": np.asarray(n), "d": np.asarray(d)})[0])


def ladder(law="chinchilla", runs=8, seed=0, ratio=20.0, decades=2.0):
    """Runs of one number of tokens a parameter."""
    c = np.geomspace(1e18, 1e18 * 10**decades, runs)
    n = np.sqrt(c / (6 * ratio))
    noise = np.exp(NOISE * np.random.default_rng(seed).standard_normal(runs))
    return pd.DataFrame({"n": n, "d": ratio * n, "c": c, "loss": true_loss(law, n, ratio * n) * noise})


def fit_of(frame, law="chinchilla", **options):
    return laws.load(frame, n="n", d="d", c="c").fit(law, resamples=20, **options)


@pytest.fixture(scope="module")
def fit():
    return fit_of(ladder())


@pytest.mark.parametrize("law", ["chinchilla", "coupled", "chinchilla_tied", "kaplan"])
def test_laws_of_size_and_data_are_fitted_along_the_line(law):
    fit = fit_of(ladder(), law)
    (warning,) = (warning for warning in fit.warnings if warning.kind == WarningKind.IN_STEP)
    assert f"do not determine law '{law}'" in str(warning)
    assert fit.law.name == "power_offset_c" and fit.report.asked_law == law
    assert fit.report.ladder is not None and fit.report.ladder.slope == pytest.approx(0.5)


def test_the_forecast_along_the_line_holds_the_truth(fit):
    c = 1e22
    n = np.sqrt(c / 120)
    forecast = fit.forecast(compute=c)
    assert forecast.interval[0] < true_loss("chinchilla", n, 20 * n) < forecast.interval[1]
    assert np.ptp(forecast.interval) < 0.1 * forecast.value
    assert any("in step" in text for text in forecast.warnings)
    assert forecast.inputs["n"] == pytest.approx(n, rel=1e-6) and forecast.inputs["d"] == pytest.approx(
        20 * n, rel=1e-6
    )
    by_size = fit.forecast(n=n, d=20 * n)
    assert by_size.value == pytest.approx(forecast.value, rel=1e-9)


def test_a_run_off_the_line_is_refused(fit):
    with pytest.raises(laws.InputError, match=r"a factor 3\.16 off their line .*give compute") as refusal:
        fit.forecast(n=1e9, d=2e11)
    assert (refusal.value.flag or "").startswith("--compute=")
    with pytest.raises(laws.InputError, match="off their line"):
        fit.get_prediction(pd.DataFrame({"n": [1e8, 1e9], "d": [2e9, 2e11]}))


def test_runs_off_one_line_are_no_ladder():
    frame = ladder()
    wide = frame.assign(n=frame.n * np.tile([0.8, 1.25], 4))
    values = {name: wide[name].to_numpy() for name in "nd"}
    assert ladder_of(values | {"c": 6 * values["n"] * values["d"]}) is None
    assert ladder_of({name: frame[name].to_numpy()[:3] for name in "ndc"}) is None, "three runs"
    assert ladder_of({"n": np.full(8, 1e8), "d": frame.d.to_numpy(), "c": 6e8 * frame.d.to_numpy()}) is None, "one size"


def test_a_held_constant_determines_the_others():
    fixed = {"alpha": 0.34, "beta": 0.28, "E": 1.69}
    fit = fit_of(ladder(runs=12), fixed=fixed)
    assert fit.law.name == "chinchilla"


def test_commands_exit_zero_and_agree_with_the_function(fit, tmp_path, capsys):
    ladder().to_csv(tmp_path / "ladder.csv", index=False)
    columns = ("--n_column=n", "--d_column=d", "--c_column=c", "--resamples=20")
    out = tmp_path / "fit.json"
    assert cli.main(["fit", str(tmp_path / "ladder.csv"), *columns, f"--out={out}"]) == 0
    assert "warning: n and d of the runs are in step" in capsys.readouterr().out
    assert cli.main(["predict", str(out), "--compute=1e22", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["interval"] == pytest.approx(fit.forecast(compute=1e22).interval, rel=1e-6)
    assert cli.main(["predict", str(out), "--n=1e9", "--d=2e11"]) == 2
    assert "--compute=" in capsys.readouterr().err


def test_slopes_of_the_frontier_are_those_of_finite_differences():
    prior = frontier_prior(prior_of("public"))
    inputs, points = np.log(np.geomspace(1e18, 1e21, 7))[None], prior.mean[None, None]
    frame = posterior.Frame.of(inputs, np.zeros((1, 7)), np.ones((1, 7)))
    slopes = frontier.slopes(frame, points, inputs)[0, 0]
    for i, shift in enumerate(1e-6 * np.eye(points.shape[2])):
        above, below = (FRONTIER.log_losses(frame, points + sign * shift, inputs)[0, 0] for sign in (1, -1))
        assert slopes[:, i] == pytest.approx((above - below) / 2e-6, abs=1e-8), frontier.COORDINATES[i]


def test_the_frontiers_exponent_is_that_of_the_best_split():
    """1 / p = 1 / alpha + 1 / beta, of the exponents along each axis: against the split itself, which is found apart."""
    compute = np.array([1e20, 1e21])
    for law, (alpha, beta) in {"chinchilla": (0.34, 0.28), "coupled": (0.3, 0.31)}.items():
        params = np.array([[TRUTHS[law][name] for name in LAWS[law].names]])
        best = allocate(LAWS[law], params, compute, TokenCost(), (1e7, 1e10)).loss[0] - TRUTHS[law]["E"]
        prior = prior_of("public")
        prior.mean[:2] = np.log([alpha, beta])
        slope = -np.log(best[1] / best[0]) / np.log(10)
        assert np.exp(frontier_prior(prior).mean[frontier.EXPONENT]) == pytest.approx(slope, rel=1e-6)


def test_the_member_is_the_law_of_compute():
    c = np.geomspace(1e18, 1e21, 10)
    truth = np.array([[20.0, 1.7, 0.08]])
    law = LAWS["power_offset_c"]
    truth[0, 0] = 1.2 * 1e18**0.08
    loss = np.exp(log_predictions(law, truth, {"c": c})[0])
    member = frontier_member(
        "frontier", c, loss * np.exp(1e-3 * np.sin(np.arange(10))), prior_of("public"), DEFAULT_UNCERTAINTY, 0
    )
    ahead = {"c": np.array([1e22])}
    low, high = np.quantile(log_predictions(law, member.draws[0], ahead)[:, 0], [0.025, 0.975])
    assert low < log_predictions(law, truth, ahead)[0, 0] < high


@pytest.mark.slow
@pytest.mark.parametrize("law", list(TRUTHS))
def test_intervals_along_simulated_ladders_hold_what_they_promise(law):
    """Of 120 ladders, at 10 and 100 times the compute, in one new run each."""
    rng, inside = np.random.default_rng(3), {10: [], 100: []}
    for seed in range(120):
        fit = fit_of(ladder(law, seed=seed))
        for factor, hits in inside.items():
            c = factor * 1e20
            n = np.sqrt(c / 120)
            new = true_loss(law, n, 20 * n) * np.exp(NOISE * rng.standard_normal())
            low, high = fit.forecast(compute=c).interval
            hits.append(low < new < high)
    coverage = {factor: np.mean(hits) for factor, hits in inside.items()}
    assert all(0.95 - 2 * np.sqrt(0.95 * 0.05 / 120) - 0.02 < share for share in coverage.values()), coverage
