"""Figures: drawn for what a fit holds, left out for what it does not, and made of the right numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import laws
from laws.inference.allocation import allocate
from laws.inference.noise import interval
from laws.plotting.figures import FIGURES
from laws.plotting.surface import surface_of
from laws.plotting.uncertainty import clouds, pairs_of

ALL = {
    "isoflop", "loss_vs_compute", "optimum_vs_compute", "surface", "residuals", "learning_curves", "profiles", "clouds",
    "backtest",
}  # fmt: skip


def suits(fit):
    """Names of the figures that a fit has data for."""
    return {name for name, draw in FIGURES.items() if draw(fit, None)}


@pytest.fixture(scope="module")
def drawn(fitted):
    """The panels of the figures of a sweep, by name."""
    figures = {name: draw(fitted, None) for name, draw in FIGURES.items()}
    return lambda name: figures[name].axes


@pytest.fixture(scope="module")
def one_column_law(sweep):
    return laws.load(sweep).fit("power_offset_c", resamples=40)


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(found.get_xdata(), float), np.array(found.get_ydata(), float)


def test_a_sweep_gives_every_figure_and_its_file_the_same_ones(fitted, curves, tmp_path):
    first = fitted.plot_all(tmp_path / "figures", laws.load_curves(curves))
    assert [file.stem for file in first[::2]] == [name for name in FIGURES if name in ALL]
    assert {file.suffix for file in first} == {".png", ".svg"}
    assert all(file.stat().st_size > 5000 for file in first)
    again = laws.read_fit(fitted.save(tmp_path / "fit.json")).plot_all(tmp_path / "again")
    assert {file.stem for file in again} == ALL - {"learning_curves"}
    for file in again:
        if file.suffix == ".svg" and file.stem != "loss_vs_compute":  # which shows learning curves where there are any
            assert file.read_bytes() == (tmp_path / "figures" / file.name).read_bytes(), file.name


def test_a_law_of_one_column(one_column_law):
    assert suits(one_column_law) == {"residuals", "law", "profiles", "clouds", "backtest"}


def test_a_table_without_budgets_and_a_fit_without_resamples():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 9, 20), 10 ** rng.uniform(9, 11, 20)
    frame = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 1500 / d**0.37})
    found = laws.load(frame, n="n", d="d").fit("chinchilla", resamples=0)
    assert suits(found) == {"loss_vs_compute", "optimum_vs_compute", "surface", "residuals"}


def test_a_fit_without_profile_curves_and_without_a_backtest(fitted):
    report = replace(fitted.report, backtest=None, profile=replace(fitted.report.profile, curves={}))
    assert suits(laws.FitResult(fitted.law, report)) == ALL - {"learning_curves", "profiles", "backtest"}


def test_the_frontier_is_the_best_split_of_every_compute(fitted, drawn):
    (axes,) = drawn("surface")
    n, d = line(axes, "best split")
    predictor = fitted.predictor
    compute = d * np.exp(predictor.cost.log_flops_per_token(np.log(n)))
    best = allocate(fitted.law, predictor.constants[None], compute, predictor.cost, predictor.ranges["n"])
    assert n == pytest.approx(best.n[0], rel=1e-6)
    assert d == pytest.approx(best.d[0], rel=1e-6)
    assert compute[[0, -1]] == pytest.approx(predictor.ranges["c"], rel=0.1)
    (star,) = [mark for mark in axes.lines if mark.get_marker() == "*"]
    assert star.get_xdata() == pytest.approx(fitted.derived["value"]["n_opt"], rel=1e-6)
    assert star.get_ydata() == pytest.approx(fitted.derived["value"]["d_opt"], rel=1e-6)


def test_the_surface_is_the_law_and_holds_every_run(fitted, below, drawn):
    (axes,) = drawn("surface")
    found = surface_of(fitted)
    say = lambda n, d: fitted.law.value(fitted.params, {"n": n, "d": d})
    assert found.loss == pytest.approx(say(found.n[None], found.d[:, None]), rel=1e-9)
    runs, lines = axes.collections[1:], axes.collections[0]
    assert sum(len(side.get_offsets()) for side in runs) == len(below)
    for side, sign in zip(runs, (1, -1), strict=True):
        n, d = np.array(side.get_offsets()).T
        measured = [below.loss[(below.params_total == a) & (below.tokens == b)] for a, b in zip(n, d, strict=True)]
        assert all((sign * (loss - say(a, b)) > 0).any() for loss, a, b in zip(measured, n, d, strict=True))
    for level, path in zip(found.levels, lines.get_paths(), strict=True):
        assert say(*path.vertices.T) == pytest.approx(level, rel=2e-3)


def test_profiles_cross_their_level_at_the_ends_of_the_intervals(fitted, drawn):
    profile = fitted.report.profile
    cut, panels = student.ppf(0.975, profile.dof) ** 2, drawn("profiles")
    names = [*fitted.law.names, "a", "n_opt", "loss_opt"]
    assert len(panels) == len(names)
    for axes, name in zip(panels, names, strict=True):
        values, deviance = line(axes, "all other constants fitted anew")
        best = fitted.table()["value"][name]
        for end in (profile.params | profile.derived)[name]:
            assert np.interp(end, values, deviance) == pytest.approx(cut, rel=0.1), name
        assert np.interp(best, values, deviance) < 0.05
        assert line(axes, "95% level")[1][0] == pytest.approx(cut)
        assert line(axes, "fit")[0][0] == best


def test_clouds_show_the_resamples_and_their_contours_hold_what_they_say(fitted, drawn):
    pairs = pairs_of(fitted)
    assert pairs == [("alpha", "beta"), ("E", "a"), ("n_opt", "loss_opt")]
    samples, ends = fitted.report.samples, fitted.report.intervals.derived
    for axes, (one, other) in zip(drawn("clouds"), pairs, strict=True):
        x, y = line(axes, "resample")
        for values, name in ((x, one), (y, other)):
            if name in samples:
                assert values == pytest.approx(samples[name])
            else:
                assert np.array(interval(values, 0.95)) == pytest.approx(ends[name], rel=1e-6)
        assert line(axes, "fit") == tuple(fitted.table()["value"][name] for name in (one, other))
        (contours,) = [c for c in axes.collections if hasattr(c, "levels")]
        inside = [sum(path.contains_points(np.stack([x, y], axis=1))) / len(x) for path in contours.get_paths()]
        assert inside == pytest.approx([0.95, 0.5], abs=0.04)


def test_a_resample_at_zero_is_not_on_a_logarithmic_axis(fitted):
    samples = dict(fitted.report.samples)
    samples["E"] = (0.0, *np.geomspace(0.1, 1.5, len(samples["E"]) - 1))
    figure = clouds(laws.FitResult(fitted.law, replace(fitted.report, samples=samples)))
    (axes,) = (axes for axes in figure.axes if axes.get_xlabel() == "$E$")
    assert axes.get_xscale() == "log"
    assert any(hasattr(collection, "levels") for collection in axes.collections)


def test_pairs_of_laws_with_one_exponent(one_column_law, below):
    assert pairs_of(one_column_law) == [("E", "p")]
    tied = laws.load(below).fit("chinchilla_tied", resamples=0)
    assert pairs_of(tied) == [("E", "alpha"), ("n_opt", "loss_opt")]


def test_the_backtest_is_drawn_beside_what_was_measured(fitted, drawn):
    (axes,) = drawn("backtest")
    backtest = fitted.report.backtest
    origins = [origin for origin in backtest.origins if not origin.target_was_fitted]
    assert line(axes, "measured")[1][0] == backtest.measured
    forecasts, fitted_with_target = axes.containers
    assert forecasts[0].get_ydata() == pytest.approx([origin.value for origin in origins])
    assert fitted_with_target[0].get_ydata() == pytest.approx([backtest.origins[-1].value])
    bars = [segment[:, 1] for segment in forecasts[2][0].get_segments()]
    assert np.array(bars) == pytest.approx(np.array([origin.interval for origin in origins]))
