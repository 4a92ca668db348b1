"""Groups of runs that share a law: exact recovery, coverage of efficiencies, comparison, and refusals."""

import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY
from laws.estimation.refit import refit
from laws.inference.noise import interval, residual_scale
from laws.inference.resampling import DesignFits, draw_bootstrap_errors, leave_one_out, wild_refits
from laws.model.forms import find
from laws.model.grouped import grouped
from laws.results.report_parts import WarningKind

TRUTH = {"A": 400.0, "B": 410.0, "E": 1.7, "alpha": 0.34, "beta": 0.28}
FACTORS = {"adamw": (1.0, 1.0), "muon": (1.3, 1.6), "soap": (0.9, 1.2)}


def runs(noise=0.0, seed=0, factors=FACTORS, places=12):
    """A sweep of each group at the same sizes and data; the first has a run more, so that it is the reference."""
    rng, frames = np.random.default_rng(seed), []
    for k, (name, (size, data)) in enumerate(factors.items()):
        n = np.repeat(np.geomspace(1e7, 1e9, places // 4), 4)
        d = np.tile(np.geomspace(1e9, 1e11, 4), places // 4)
        if k == 0:
            n, d = np.r_[n, 1e8], np.r_[d, 5e9]
        loss = TRUTH["E"] + TRUTH["A"] / (size * n) ** TRUTH["alpha"] + TRUTH["B"] / (data * d) ** TRUTH["beta"]
        loss = loss * np.exp(noise * rng.standard_normal(len(n)))
        frames.append(pd.DataFrame({"n": n, "d": d, "c": 6 * n * d, "loss": loss, "optimizer": name}))
    return pd.concat(frames, ignore_index=True)


def load(frame):
    return laws.load(frame, n="n", d="d", c="c")


@pytest.fixture(scope="module")
def fit():
    return load(runs(noise=0.002)).fit("chinchilla", group="optimizer", resamples=60)


def test_factors_are_recovered_exactly_without_noise():
    fit = load(runs()).fit("chinchilla", group="optimizer", resamples=0)
    assert fit.params[list(TRUTH)].to_dict() == pytest.approx(TRUTH, rel=1e-4)
    groups = fit.groups
    assert list(groups.index) == ["adamw", "muon", "soap"] and groups.n_runs.tolist() == [13, 12, 12]
    assert groups["size"].tolist() == pytest.approx([1, 1.3, 0.9], rel=1e-4)
    assert groups["data"].tolist() == pytest.approx([1, 1.6, 1.2], rel=1e-4)
    assert groups["compute"].tolist() == pytest.approx([1, 2.08, 1.08], rel=1e-4)
    assert groups[["compute_low", "compute_high"]].isna().all(axis=None)


def test_runs_of_two_groups_at_one_point_are_all_fitted(fit):
    """Without groups only the better optimizer of each point is."""
    assert fit.n_runs == 37
    assert load(runs(noise=0.002)).fit("chinchilla", resamples=0).n_runs < 37


def test_two_groups_of_a_fit_are_compared(fit):
    comparison = laws.compare(fit, compute=[1e19, 1e22], groups=("adamw", "muon"))
    expected = fit.groups.loc["muon"]
    for point in comparison.points:  # constant in compute, as rho_N rho_D: the interval as well
        assert point.multiplier == pytest.approx(expected["compute"], rel=2e-3)
        assert point.interval == pytest.approx((expected["compute_low"], expected["compute_high"]), rel=0.02)
    between = laws.compare(fit, compute=[1e20], groups=("soap", "muon")).points[0].multiplier
    assert between == pytest.approx(fit.groups.compute["muon"] / fit.groups.compute["soap"], rel=2e-3)


def test_intervals_of_efficiencies_cover():
    """300 sweeps of two groups, each with 60 resamples: three Monte-Carlo errors are 4 points."""
    factors, sweeps, resamples, noise = {"adamw": (1.0, 1.0), "muon": (1.3, 1.6)}, 300, 60, 0.004
    exact = runs(factors=factors)
    columns = {name: exact[name].to_numpy(float) for name in ("n", "d")}
    columns["group"] = (exact.optimizer == "muon").to_numpy(float)
    law, rng = grouped(find("chinchilla"), 2), np.random.default_rng(1)
    log_loss = np.log(exact.loss.to_numpy()) + noise * rng.standard_normal((sweeps, len(exact)))
    start = np.tile([*TRUTH.values(), 1.3, 1.6], (sweeps, 1))
    every = np.ones((1, len(exact)))
    params = refit(law, columns, log_loss, every, refit(law, columns, log_loss, every, start, delta=0.1).params).params
    row = np.arange(len(exact))
    fits = DesignFits(law, columns, log_loss, row, np.zeros(len(row), int), np.ones(len(row)), params)
    dof = len(row) - len(law.names)
    deviation = residual_scale(log_loss - fits.predicted, row, len(law.names), "log_huber", 1e-3, DEFAULT_UNCERTAINTY)
    errors = draw_bootstrap_errors(fits, leave_one_out(fits), deviation, dof, resamples, rng)
    draws = wild_refits(fits, errors).params.reshape(sweeps, resamples, -1)
    low, high = interval(np.moveaxis(draws[..., -2] * draws[..., -1], 1, 0), 0.95)
    covered = np.mean((low <= 1.3 * 1.6) & (high >= 1.3 * 1.6))
    assert 0.91 <= covered <= 0.99


def test_a_fit_with_groups_is_written_and_read(fit, tmp_path, capsys):
    path = fit.save(tmp_path / "fit.json")
    again = laws.read_fit(path)
    assert again.groups.equals(fit.groups) and again.law.names == fit.law.names
    frame = pd.DataFrame({"n": [1e8], "d": [1e10], "group": [1]})
    assert again.predict(frame)[0] == pytest.approx(fit.predict(frame)[0])
    argv = ["compare", str(path), "--compute=1e20", f"--out={tmp_path / 'm.json'}"]
    assert cli.main([*argv, "--group_a=adamw", "--group_b=muon"]) == 0
    (point,) = json.loads((tmp_path / "m.json").read_text())["points"]
    assert point["multiplier"] == pytest.approx(fit.groups.compute["muon"], rel=2e-3)
    assert cli.main([*argv, "--group_a=adamw"]) == 2
    assert cli.main([*argv, "--group_a=adamw", "--group_b=mun"]) == 2
    assert "no group is called 'mun'" in capsys.readouterr().err


def test_a_fit_with_groups_says_that_the_surfaces_do_not_forecast(fit):
    """Their forecasts are those of the shared law, whatever the prior; each is asked for by the number of its group."""
    (warning,) = (warning for warning in fit.warnings if warning.kind == WarningKind.FORECAST_OF_GROUPS)
    assert "law 'chinchilla' as the groups share it" in str(warning)
    assert "0 is adamw, 1 is muon, 2 is soap" in str(warning)
    assert fit.report.model_average.surface is None
    weak = load(runs(noise=0.002)).fit("chinchilla", group="optimizer", resamples=60, prior="weak")
    ahead = pd.DataFrame({"n": [1e10], "d": [1e12], "group": [1]})
    assert weak.get_prediction(ahead).summary_frame().equals(fit.get_prediction(ahead).summary_frame())
    with pytest.raises(InputError, match="needs group for a prediction"):
        fit.predict(ahead[["n", "d"]])
    plain = load(runs(factors={"adamw": (1.0, 1.0)})).fit(resamples=0)
    assert WarningKind.FORECAST_OF_GROUPS not in {warning.kind for warning in plain.warnings}


def test_the_command_fits_groups(tmp_path, capsys):
    runs(noise=0.002).to_csv(tmp_path / "runs.csv", index=False)
    argv = ["fit", str(tmp_path / "runs.csv"), "--n_column=n", "--d_column=d", "--c_column=c", "--resamples=0"]
    assert cli.main([*argv, "--group=optimizer", f"--out={tmp_path / 'fit.json'}"]) == 0
    assert "one of each group in those of adamw" in capsys.readouterr().out
    assert cli.main([*argv, "--group=optimiser", f"--out={tmp_path / 'none.json'}"]) == 2
    assert "no column 'optimiser' of groups" in capsys.readouterr().err and not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("change", "law", "message"),
    [
        (lambda f: f.drop(columns="optimizer"), "chinchilla", "no column 'optimizer' of groups"),
        (lambda f: f[f.optimizer == "muon"], "chinchilla", "holds one group, 'muon'"),
        (lambda f: pd.concat([f, f.iloc[:1].assign(optimizer="lion")]), "chinchilla", "group 'lion' .* has 1 runs"),
        (lambda f: f.assign(optimizer=f.optimizer.where(f.index != 4)), "chinchilla", "empty in row 5"),
        (lambda f: f, "power_offset_c", "groups scale size and data, and law 'power_offset_c' reads c"),
    ],
)
def test_groups_that_cannot_be_fitted_are_refused(change, law, message):
    with pytest.raises(InputError, match=message):
        load(change(runs()).reset_index(drop=True)).fit(law, group="optimizer", resamples=0)


def test_groups_are_asked_of_a_fit_that_has_them(fit):
    plain = load(runs(factors={"adamw": (1.0, 1.0)})).fit(resamples=0)
    assert plain.groups.empty
    with pytest.raises(InputError, match="the fit has no groups"):
        laws.compare(plain, groups=("adamw", "muon"))
    with pytest.raises(InputError, match="two fits, or of two groups of one fit"):
        laws.compare(fit)
