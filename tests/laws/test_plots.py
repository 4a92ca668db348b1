"""Figures: drawn for what a fit holds, left out for what it does not, and made of the right numbers."""

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.stats import t as student

import laws
from laws.inference.noise import interval
from laws.plotting import plot_data
from laws.plotting.figures import FIGURES, RESULTS
from laws.plotting.missing import MissingFigureData
from laws.plotting.panels import file_panels
from laws.plotting.plot_data import pairs_of
from laws.uses.calibration import Calibration, CalibrationRow

ALL = {
    "isoflop", "loss_vs_compute", "optimum_vs_compute", "surface", "residuals", "learning_curves", "profiles", "clouds",
    "backtest", "floor",
}  # fmt: skip


# Methods of `fit.plot` for each file of `plot_all`.
METHODS = {name: name for name in FIGURES} | {"loss_vs_compute": "loss", "optimum_vs_compute": "optimum"}
SEVERAL = {"optimum_vs_compute", "transfer", "residuals", "profiles", "clouds"}


@pytest.fixture(scope="module", autouse=True)
def no_window():
    """Figures are drawn without a screen, and closed."""
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def suits(fit):
    """Names of the figures that a fit has data for."""
    names = set()
    for name, draw in FIGURES.items():
        try:
            names.add(name) if draw(fit, file_panels, None) else None
        except MissingFigureData as reason:
            assert "\n" not in str(reason)
    return names


@pytest.fixture(scope="module")
def drawn(fitted):
    """The panels of the figures of a sweep, by name."""
    figures = {name: FIGURES[name](fitted, file_panels, None) for name in ALL - {"learning_curves"}}
    return figures.__getitem__


@pytest.fixture(scope="module")
def one_column_law(sweep):
    return laws.load(sweep).fit("power_offset_c", resamples=40)


def line(axes, label):
    (matching,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(matching.get_xdata(), float), np.array(matching.get_ydata(), float)


@pytest.mark.slow  # `isoflop plot` draws them all in test_commands.py
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
    matching = laws.load(frame, n="n", d="d").fit("chinchilla", resamples=0)
    assert suits(matching) == {"loss_vs_compute", "optimum_vs_compute", "surface", "residuals"}


def test_a_fit_without_profile_curves_and_without_a_backtest(fitted):
    report = replace(fitted.report, backtest=None, profile=replace(fitted.report.profile, curves={}))
    assert suits(laws.FitResult(fitted.law, report)) == ALL - {"learning_curves", "profiles", "backtest"}


def test_the_frontier_is_the_best_split_of_every_compute(fitted, drawn):
    (axes,) = drawn("surface")
    n, d = line(axes, "best split")
    predictor = fitted.predictor
    compute = d * np.exp(predictor.cost.log_flops_per_token(np.log(n)))
    best = fitted.optimal(compute)
    assert n == pytest.approx(best.n.to_numpy(), rel=1e-6)
    assert d == pytest.approx(best.d.to_numpy(), rel=1e-6)
    assert compute[[0, -1]] == pytest.approx(predictor.ranges["c"], rel=0.1)
    (star,) = [mark for mark in axes.lines if mark.get_marker() == "*"]
    assert star.get_xdata() == pytest.approx(fitted.optimal([fitted.report.target_flops]).n.iloc[0], rel=1e-6)
    assert star.get_ydata() == pytest.approx(fitted.optimal([fitted.report.target_flops]).d.iloc[0], rel=1e-6)


def test_the_surface_is_the_law_and_holds_every_run(fitted, below, drawn):
    (axes,) = drawn("surface")
    plane = plot_data.surface(fitted)
    say = lambda n, d: fitted.law.value(fitted.params, {"n": n, "d": d})
    assert plane.loss == pytest.approx(say(plane.n[None], plane.d[:, None]), rel=1e-9)
    runs, lines = axes.collections[1:], axes.collections[0]
    assert sum(len(side.get_offsets()) for side in runs) == len(below)
    for side, sign in zip(runs, (1, -1), strict=True):
        n, d = np.array(side.get_offsets()).T
        measured = [below.loss[(below.params_total == a) & (below.tokens == b)] for a, b in zip(n, d, strict=True)]
        assert all((sign * (loss - say(a, b)) > 0).any() for loss, a, b in zip(measured, n, d, strict=True))
    for level, path in zip(plane.levels, lines.get_paths(), strict=True):
        assert say(*path.vertices.T) == pytest.approx(level, rel=2e-3)


def extrapolated_from(axes):
    """Where the shaded region of a panel begins; none if there is none."""
    return [patch.get_x() for patch in axes.patches]


def test_what_lies_beyond_the_fitted_runs_is_marked_and_nothing_else(fitted, sweep):
    end = fitted.predictor.ranges["c"][1]
    further = laws.load(sweep).fit("chinchilla", resamples=0, target=10 * end)
    for axes in (further.plot.loss(), *further.plot.optimum()):
        assert extrapolated_from(axes) == pytest.approx([further.predictor.ranges["c"][1]])
        assert any("extrapolation" in text.get_text() for text in axes.texts)
    within = laws.load(sweep).fit("chinchilla", resamples=0)
    assert not any(extrapolated_from(axes) for axes in (within.plot.loss(), *within.plot.optimum()))
    best = plot_data.surface(further).best
    assert (best["extrapolated"] == (best["c"] > further.predictor.ranges["c"][1])).all()
    assert not plot_data.surface(within).best["extrapolated"].any()


def test_axes_and_legends_name_units_and_intervals(fitted, drawn):
    (axes,) = drawn("surface")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters $N$", "training data $D$ (tokens)")
    for name, quantities in (
        ("surface", ("equal loss (nats)", "95% interval")),
        ("isoflop", ("measured minimum, 95% interval", "forecast optimum")),
        ("optimum_vs_compute", ("95% interval", "approach 2: minima of the budgets")),
    ):
        legend = [text.get_text() for text in drawn(name)[0].get_legend().get_texts()]
        assert set(quantities) <= set(legend), name
    assert [axes.get_ylabel() for axes in drawn("optimum_vs_compute")] == [
        "compute-optimal $N^*$ (parameters)",
        "compute-optimal $D^*$ (tokens)",
    ]


def test_the_interval_of_the_target_is_that_of_the_forecast(fitted):
    split = plot_data.target_optimum(fitted)
    optimal = fitted.optimal([fitted.report.target_flops]).iloc[0]
    assert split["n"].iloc[0] == pytest.approx(optimal["n"])
    assert split["n"].iloc[[1, -1]].tolist() == pytest.approx([optimal["n_ci_lower"], optimal["n_ci_upper"]])
    per_token = np.exp(fitted.predictor.cost.log_flops_per_token(np.log(split["n"].to_numpy())))
    assert split["d"].to_numpy() * per_token == pytest.approx(fitted.report.target_flops, rel=1e-6)


def test_the_calibration_of_one_forecast_shows_its_interval_and_its_level():
    forecast = CalibrationRow(
        frozen_at=0.0, target={"c": 1e12}, abs_rel_error=0.01, covered=True, relative_width=0.1, preregistered=True,
        predicted=2.0, interval_of_loss=(1.9, 2.1), level=0.9, measured=2.02, distance=0.2, bias=0.2, coverage=1.0,
        interval=(0.025, 1.0), nominal=0.9,
    )  # fmt: skip
    errors, coverage = RESULTS[Calibration](Calibration((forecast,), "", 1, ()), file_panels)
    assert line(errors, "measured, inside")[1] == pytest.approx([1.0])
    (interval,) = errors.collections
    assert interval.get_segments()[0][:, 1] == pytest.approx([-5.0, 5.0])
    bars, nominal = (collection.get_segments()[0] for collection in coverage.collections)
    assert bars[:, 1] == pytest.approx([2.5, 100.0])
    assert nominal[:, 1] == pytest.approx([90.0, 90.0]) and np.ptp(nominal[:, 0]) == 1, "a line that can be seen"
    assert all(tick == round(tick) for axes in (errors, coverage) for tick in axes.get_xticks())


def test_minima_of_budgets_have_tokens_at_both_ends(fitted):
    minima = plot_data.budget_minima(fitted)
    per_token = lambda n: np.exp(fitted.predictor.cost.log_flops_per_token(np.log(n)))
    assert (minima["n_low"] < minima["n"]).all() and (minima["n"] < minima["n_high"]).all()
    for n, d in (("n_low", "d_high"), ("n", "d"), ("n_high", "d_low")):
        assert (minima[d] * per_token(minima[n])).to_numpy() == pytest.approx(minima["c"].to_numpy(), rel=1e-6)


def test_many_budgets_are_thinned_out_and_few_runs_on_budgets_are_none(fitted):
    compute = np.repeat(np.geomspace(1e11, 1e14, 20), 4)
    n = np.tile([1e4, 2e4, 4e4, 8e4], 20)
    runs = pd.DataFrame({"run": range(80), "n": n, "d": compute / 6 / n, "c": compute, "loss": 2.0, "fitted": True})
    runs = plot_data.with_residuals_and_budgets(runs, None)
    assert runs["residual"].isna().all()
    curves = plot_data.budget_curves(runs, None)
    assert [curve.compute for curve in curves] == pytest.approx(compute[::4])
    assert all(len(curve.n) == 0 for curve in curves), "no law, no curve"
    drawn = plot_data.drawn_budgets(curves, runs)
    assert len(drawn) == plot_data.MOST_BUDGETS and (drawn[0], drawn[-1]) == (curves[0], curves[-1])
    alone = runs.assign(c=np.geomspace(1e11, 1e18, 80))
    alone.loc[:7, "c"] = compute[:8]
    alone = plot_data.with_residuals_and_budgets(alone, None)
    assert plot_data.drawn_budgets(plot_data.budget_curves(alone, None), alone) == []


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
    panels = laws.FitResult(fitted.law, replace(fitted.report, samples=samples)).plot.clouds()
    (axes,) = (axes for axes in panels if axes.get_xlabel() == "$E$")
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


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_method_draws_its_figure_into_given_axes_and_returns_them(fitted, curves, drawn, name):
    options = {"curves": laws.load_curves(curves)} if name == "learning_curves" else {}
    method = getattr(fitted.plot, METHODS[name])
    new_axes = method(**options)
    panels = list(np.ravel(new_axes))
    assert isinstance(new_axes, np.ndarray) == (name in SEVERAL)
    if name in ALL - {"learning_curves"}:
        labels = [[line.get_label() for line in axes.lines] for axes in drawn(name)]
        assert [[line.get_label() for line in axes.lines] for axes in panels] == labels
    assert panels[0].figure.number in plt.get_fignums()

    count, (figure, axes) = len(plt.get_fignums()), plt.subplots(1, len(panels) + 1, squeeze=False)
    given, other = axes[0, :-1], axes[0, -1]
    returned = method(**{"axes" if name in SEVERAL else "ax": given if name in SEVERAL else given[0]}, **options)
    assert list(np.ravel(returned)) == list(given)
    assert len(plt.get_fignums()) == count + 1, "no figure beside the one that is given"
    assert all(axes.lines or axes.collections for axes in given) and not other.lines
    assert not any(axes.spines["top"].get_visible() for axes in (*panels, *given)), "in the style"
    for one, two in zip(given, panels, strict=True):
        assert (one.get_xlabel(), one.get_xscale(), one.get_xlim()) == (
            two.get_xlabel(),
            two.get_xscale(),
            two.get_xlim(),
        )
        for a, b in zip(one.lines, two.lines, strict=True):
            assert a.get_xydata() == pytest.approx(b.get_xydata(), nan_ok=True)
    plt.close(figure)
    plt.close(panels[0].figure)


def test_the_style_is_that_of_the_figure_and_of_nothing_else(fitted):
    before = dict(matplotlib.rcParams)
    axes = fitted.plot.backtest()
    assert dict(matplotlib.rcParams) == before
    axes.figure.draw_without_rendering()
    sizes = {text.get_fontsize() for text in axes.get_xticklabels() + axes.get_yticklabels()}
    assert sizes == {8.5} != {before["xtick.labelsize"]}


def test_what_a_fit_does_not_hold_is_said_in_one_line(fitted, one_column_law, curves):
    plots = laws.FitResult(fitted.law, replace(fitted.report, backtest=None, profile=None)).plot
    for draw, reason in (
        (plots.backtest, "no backtest"),
        (plots.profiles, "the fit has no profile: fit with resamples above 0"),
        (plots.law, "law 'chinchilla' reads 2 columns"),
        (plots.transfer, "'transfer_joint'"),
        (lambda: plots.learning_curves({}), "no learning curves"),
        (lambda: plots.learning_curves({"other": next(iter(laws.load_curves(curves).values()))}), "their names differ"),
        (lambda: plots.optimum(plt.figure().subplots(1, 3)), "has 2 panels, and 3 axes are given"),
        (one_column_law.plot.isoflop, "law 'power_offset_c' has no compute-optimal split"),
        (one_column_law.plot.surface, "law 'power_offset_c' has no compute-optimal split"),
    ):
        before = plt.get_fignums()
        with pytest.raises(laws.InputError, match=reason) as refusal:
            draw()
        assert "\n" not in str(refusal.value)
        assert len(set(plt.get_fignums()) - set(before)) == ("3 axes" in reason), "no empty figure is left"
