"""Laws of size and data that the runs do not determine: a simpler law is fitted, and surfaces forecast by their prior."""

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.estimation.estimate import log_predictions
from laws.model.forms import LAWS
from laws.results.report_parts import WarningKind

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
NOISE = 0.003


def true_loss(n, d):
    law = LAWS["chinchilla"]
    return np.exp(log_predictions(law, np.array([[TRUTH[name] for name in law.names]]), {"n": n, "d": d})[0])


def runs(n, d, seed=3):
    noise = np.exp(NOISE * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"n": n, "d": d, "c": 6 * n * d, "loss": true_loss(n, d) * noise})


def parallel_ladders(ratios=(20.0, 25.0), steps=6):
    """Ladders of two numbers of tokens a parameter."""
    c, ratio = np.tile(np.geomspace(1e18, 1e20, steps), len(ratios)), np.repeat(ratios, steps)
    n = np.sqrt(c / (6 * ratio))
    return runs(n, ratio * n)


def one_value(variable, count=8):
    """Runs of one number of tokens, or of one size."""
    other = np.geomspace(1e8, 1e9, count)
    return runs(*((other, np.full(count, 2e9)) if variable == "d" else (np.full(count, 2e8), 20 * other)))


def fit_of(frame, law, resamples=40):
    return laws.load(frame, n="n", d="d", c="c").fit(law, resamples=resamples)


def the_warning(fit):
    (warning,) = (warning for warning in fit.warnings if warning.kind == WarningKind.NOT_DETERMINED)
    return str(warning)


def test_parallel_ladders_do_not_determine_the_coupled_law():
    frame = parallel_ladders()
    with pytest.raises(laws.FitFailed, match="not at an optimum"):
        fit_of(frame, "coupled", resamples=0)
    fit = fit_of(frame, "coupled")
    assert (fit.law.name, fit.report.asked_law) == ("chinchilla", "coupled")
    assert "do not determine law 'coupled'; fitted is 'chinchilla'" in the_warning(fit)
    on_line = {"n": np.array([1e10]), "d": np.array([2e11])}
    forecast = fit.forecast(n=1e10, d=2e11)
    assert forecast.interval[0] < true_loss(**on_line)[0] < forecast.interval[1]
    assert fit_of(frame, "chinchilla").forecast(n=1e10, d=2e11).interval == pytest.approx(forecast.interval)


@pytest.mark.parametrize(("variable", "other", "law"), [("d", "n", "chinchilla"), ("n", "d", "coupled")])
def test_runs_of_one_value_are_forecast_by_the_prior_along_it(variable, other, law):
    fit = fit_of(one_value(variable), law)
    assert fit.law.name == f"power_offset_{other}"
    assert f"{variable} is the same in all of them" in the_warning(fit)
    assert not any(warning.kind == WarningKind.RIVALS for warning in fit.warnings)
    here, largest = fit.data[variable].iloc[0], fit.data[other].max()
    within = {other: 10 * largest, variable: here}
    beyond = {other: 10 * largest, variable: 10 * here}
    low, high = fit.forecast(**within).interval
    assert low < true_loss(*(np.array([within[name]]) for name in "nd"))[0] < high
    widths = [
        np.ptp(forecast.interval) / forecast.value for forecast in (fit.forecast(**at) for at in (within, beyond))
    ]
    assert widths[1] > 1.5 * widths[0], "of the variable that never varied only the prior speaks"


def test_it_is_read_back_and_needs_both_variables(tmp_path, capsys):
    fit = fit_of(one_value("d"), "chinchilla")
    path = fit.save(tmp_path / "fit.json")
    again = laws.read_fit(path)
    assert again.forecast(compute=1e21).interval == pytest.approx(fit.forecast(compute=1e21).interval, rel=2e-3)
    assert again.forecast(compute=1e21).split is not None
    with pytest.raises(laws.InputError, match="needs d for a prediction"):
        again.forecast(n=1e10)
    assert cli.main(["predict", str(path), "--n=1e10"]) == 2
    assert "--d" in capsys.readouterr().err


def test_without_resamples_there_is_no_prior_to_speak():
    with pytest.raises(laws.FitFailed, match="'d' is the same in all its runs"):
        fit_of(one_value("d"), "chinchilla", resamples=0)
