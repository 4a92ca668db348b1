"""The interactive figures of the report: each a function of a study, and None where the study lacks what it shows.

Their numbers come from `laws.plotting.plot_data`, as those of the printed figures do.
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from isoflop.report.formats import count, number, power_of_ten
from isoflop.report.plotly_primitives import (
    MEASURED,
    axis,
    band,
    colour_of,
    cross,
    error_bars,
    hover_texts,
    label,
    line,
    log_range,
    mark_extrapolation,
    markers,
    run_legend,
    run_markers,
    starred_label,
    wrapped,
)
from isoflop.report.study import Study
from laws.data.curves import load_curves
from laws.plotting import plot_data
from laws.plotting.style import LAW, NAIVE, SECOND as MINIMA, THIRD as ENVELOPE
from laws.results.results import FitResult

BAND_POINTS = 25  # of a band, so that the page stays light
BEFORE = 10.0  # factor by which learning curves are followed below the compute of the smallest run
BEYOND = 2.0  # and one over compute beyond the first and the last run or target
SURFACE_STRIDE = 3  # of the surface's grid, so that the page stays light
CONTOURS = 14  # lines of equal loss, about
MOST_WIDE_PANELS = 3  # in a row that have room for ticks between powers of ten
DIAMOND = {"symbol": "diamond", "size": 11, "color": LAW, "line": {"width": 1, "color": "white"}}


def isoflop(study: Study) -> go.Figure | None:
    """Loss against size at every budget, with the law's curves and both kinds of minima."""
    points, fit = study.points, study.fit
    if not {"n", "c", "budget"} <= set(points) or points.empty:
        return None
    figure, colours = go.Figure(), colour_of(points)
    figure.update_layout(height=540, xaxis=axis(label(study, "n"), "n", points["n"]), yaxis_title=label(study, "loss"))
    curves = plot_data.drawn_budgets(plot_data.budget_curves(points, fit), points)
    curve_of, computes = {curve.budget: curve for curve in curves}, plot_data.budget_compute(points)
    for budget, runs in points.groupby("budget"):
        fitted, curve = bool(runs["fitted"].any()), curve_of.get(budget)
        name = f"{power_of_ten(computes[budget], 2)} FLOPs" + ("" if fitted or fit is None else " (held out)")
        if curve is not None and len(curve.n):
            dash = "solid" if fitted else "dash"
            law_line = line(curve.n, curve.loss, name, colours[budget], dash, legendgroup=str(budget), showlegend=False)
            figure.add_trace(law_line)
        group: dict[str, Any] = {"legendgroup": str(budget), "name": name, "showlegend": curve is not None}
        figure.add_trace(run_markers(runs, "n", "loss", colours[budget], **group))
    if fit is not None and fit.law.has_compute_optimum and curves:
        figure.add_trace(_optima_of_budgets(fit, np.array([curve.compute for curve in curves])))
    figure.add_traces([*_minima_of_budgets(fit), *([] if curves else run_legend(points, colours))])
    return figure


def _optima_of_budgets(fit: FitResult, compute: np.ndarray) -> go.Scatter:
    """The law's optimum of each budget."""
    best = plot_data.optimum(fit, compute)
    hover = [f"law: N* = {count(n)}, loss {number(y, 4)}" for n, y in zip(best["n"], best["loss"], strict=True)]
    options: dict[str, Any] = {"hoverinfo": "text", "hovertext": hover}
    trace = line(best["n"], best["loss"], "forecast optimum", LAW, "dot", 1.2, **options)
    return trace.update(mode="lines+markers", marker=DIAMOND)


def _minima_of_budgets(fit: FitResult | None) -> list[go.Scatter]:
    """The measured minimum of each budget with its interval."""
    minima = plot_data.budget_minima(fit)
    if not len(minima):
        return []
    n, low, high = (minima[name] for name in ("n", "n_low", "n_high"))
    hover = [f"runs: N* = {count(a)} [{count(b)}, {count(c)}]" for a, b, c in zip(n, low, high, strict=True)]
    tick = {"symbol": "line-ns", "size": 15, "line": {"width": 3, "color": MINIMA}}
    options: dict[str, Any] = {"error_x": error_bars(n, low, high, MINIMA, 2), "hoverinfo": "text"}
    return [markers(n, minima["loss"], "minimum of the runs (approach 2)", tick, hovertext=hover, **options)]


def smooth_curves(study: Study) -> list[plot_data.LearningCurve]:
    """The learning curves of the completed runs."""
    return plot_data.learning_curves(study.points, load_curves(study.curves) if len(study.curves) else None)


def compute(study: Study) -> go.Figure | None:
    """Loss against compute: every curve, the envelope, the law at its optimum and the naive forecasts."""
    points, fit = study.points, study.fit
    if "c" not in points or points.empty:
        return None
    c, curves = _compute_grid(study), smooth_curves(study) if "d" in points else []
    figure, colours = go.Figure(), colour_of(points)
    loss_axis = axis(label(study, "loss"), "loss", points["loss"])
    figure.update_layout(height=520, xaxis=axis(label(study, "c"), "c", c), yaxis=loss_axis)
    if curves:  # as one trace, gaps between them
        x, y = (np.concatenate([[*getattr(curve, name), np.nan] for curve in curves]) for name in ("compute", "loss"))
        figure.add_trace(line(x, y.round(5), "learning curves", NAIVE, width=0.8, opacity=0.6))
    figure.add_traces(_law_along_compute(fit, c) if fit else [])
    for budget, runs in points.groupby("budget"):
        figure.add_trace(run_markers(runs, "c", "loss", colours[budget], showlegend=False))
    figure.add_traces(run_legend(points, colours))
    figure.add_traces(_naive_along_compute(fit, c) if fit else [])
    shown = np.r_[points["loss"], _add_forecast(figure, study), _loss_at_the_end(fit, c)]
    figure.update_xaxes(range=[np.log10(points["c"].min() / (BEFORE if curves else BEYOND)), np.log10(c[-1])])
    figure.update_yaxes(range=log_range(shown, 0.08, 0.25))
    if fit is not None:
        mark_extrapolation(figure, plot_data.extrapolation_start(fit, c), c[-1], "top")
    return figure


def _compute_grid(study: Study) -> np.ndarray:
    """Compute from below the smallest run to beyond the largest run or target."""
    return plot_data.compute_grid(study.points, study.fit, BEYOND, BEYOND, BAND_POINTS)


def _law_along_compute(fit: FitResult, c: np.ndarray) -> list[go.Scatter]:
    """The law at its optimum with its interval, and the envelope of the learning curves."""
    law, envelope, traces = plot_data.loss_band(fit, c), plot_data.envelope(fit), []
    if law is not None:
        name = f"{fit.report.intervals.level:.0%} interval of {'a run' if law.of_one_run else 'the mean'}"
        traces += [band(c, law.low, law.high, name), line(c, law.loss, "frontier of the law", LAW)]
    if len(envelope):
        sizes = zip(envelope["n"], envelope["d"], strict=True)
        hover: dict[str, Any] = {"hovertext": [f"envelope: N = {count(n)}, D = {count(d)}" for n, d in sizes]}
        name = "envelope (approach 1)"
        traces.append(markers(envelope["c"], envelope["loss"], name, cross(ENVELOPE), hoverinfo="text", **hover))
    return traces


def _loss_at_the_end(fit: FitResult | None, c: np.ndarray) -> list[float]:
    """The law's loss at the largest compute, with the lower end of its interval, as the frame has to hold them."""
    law = plot_data.loss_band(fit, c[-1:]) if fit else None
    return [] if law is None else [loss for loss in (law.loss[0], law.low[0]) if np.isfinite(loss) and loss > 0]


def _naive_along_compute(fit: FitResult, c: np.ndarray) -> list[go.Scatter]:
    """Forecasts without a law: a power law without offset, and the best loss so far."""
    naive, best = plot_data.naive_power_law(fit, c), np.full(2, fit.report.baselines.best_loss)
    power_law = [] if naive is None else [line(c, naive, "naive: power law", NAIVE, "dash", 1.6)]
    return [*power_law, line(c[[0, -1]], best, "naive: best so far", NAIVE, "dot", 1.6)]


def _add_forecast(figure: go.Figure, study: Study) -> list[float]:
    """The frozen predictions, and what was measured; the ends of their intervals."""
    frozen = [forecast for forecast in study.forecasts if forecast.compute is not None and forecast.prediction]
    if not frozen:
        return []
    c = [forecast.compute for forecast in frozen]
    values = [forecast.prediction["prediction"]["value"] for forecast in frozen if forecast.prediction]
    ends = [forecast.prediction["prediction"]["interval"] for forecast in frozen if forecast.prediction]
    low, high = zip(*ends, strict=True)
    diamond = {"symbol": "diamond-open", "size": 14, "color": LAW, "line": {"width": 2}}
    bars = error_bars(values, low, high, LAW, 2)
    figure.add_trace(markers(c, values, "frozen prediction", diamond, error_y=bars))
    scored = [(forecast.score["measured"], at) for forecast, at in zip(frozen, c, strict=True) if forecast.score]
    if scored:
        star = {"symbol": "star", "size": 13, "color": MEASURED}
        at = [measured.get("c", budget) for measured, budget in scored]
        figure.add_trace(markers(at, [measured["loss"] for measured, _ in scored], "measured", star))
    return [*low, *high]


def allocation(study: Study) -> go.Figure | None:
    """The best size and data at each compute, by the law, by the minima of the runs and by the envelope."""
    points, fit = study.points, study.fit
    if fit is None or not fit.law.has_compute_optimum or "c" not in points:
        return None
    c, envelope = _compute_grid(study), plot_data.envelope(fit)
    best, minima = plot_data.optimum(fit, c), plot_data.budget_minima(fit)
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    figure.update_xaxes(axis(label(study, "c"), "c", np.r_[c, envelope["c"]]))
    for column, name in enumerate(("n", "d"), start=1):
        traces = _optimum_traces(fit, name, best, minima, envelope, showlegend=column == 1)
        figure.add_traces(traces, rows=1, cols=column)
        values = np.concatenate([np.asarray(trace.y, float) for trace in traces])
        figure.update_yaxes(axis(starred_label(study, name), name, values[np.isfinite(values)]), row=1, col=column)
        mark_extrapolation(figure, plot_data.extrapolation_start(fit, c), c[-1], "bottom", row=1, col=column)
    figure.update_layout(height=440)
    return figure


def _optimum_traces(
    fit: FitResult,
    name: str,
    best: plot_data.Frame,
    minima: plot_data.Frame,
    envelope: plot_data.Frame,
    **legend: Any,
) -> list[go.Scatter]:
    """One optimum against compute by the three approaches.

    Args:
        fit: the fit.
        name: ``n`` or ``d``.
        best, minima, envelope: by the law, by approach 2 and by approach 1.
        legend: options of all traces.
    """
    interval_name = f"{fit.report.intervals.level:.0%} interval"
    low, high = best[f"{name}_low"].to_numpy(), best[f"{name}_high"].to_numpy()
    traces = [
        band(best["c"].to_numpy(), low, high, interval_name, legendgroup="band", **legend),
        line(best["c"], best[name], "forecast (approach 3)", LAW, legendgroup="law", **legend),
    ]
    if len(envelope):
        options = {"legendgroup": "envelope"} | legend
        traces.append(markers(envelope["c"], envelope[name], "envelope (approach 1)", cross(ENVELOPE), **options))
    if len(minima):
        bars = error_bars(minima[name], minima[f"{name}_low"], minima[f"{name}_high"], MINIMA)
        options = {"legendgroup": "minima", "error_y": bars} | legend
        dot = {"symbol": "circle", "size": 9, "color": MINIMA}
        traces.append(markers(minima["c"], minima[name], "minima of the runs (approach 2)", dot, **options))
    return traces


def residuals(study: Study) -> go.Figure | None:
    """Residuals of each run against its size, data, compute and what else the law reads."""
    points, fit = study.points, study.fit
    if fit is None or points["residual"].isna().all():
        return None
    data = plot_data.residuals(points, fit)
    points = points.assign(percent=data.percent, budget=points.get("budget", 0))
    figure = make_subplots(1, len(data.variables), shared_yaxes=True, horizontal_spacing=0.045)
    colours, sd = colour_of(points), data.residual_sd
    for column, variable in enumerate(data.variables, start=1):
        for budget, runs in points.groupby("budget"):
            dots = run_markers(runs, variable, "percent", colours[budget], showlegend=False)
            figure.add_trace(dots, row=1, col=column)
        panel: dict[str, Any] = {"layer": "below", "row": 1, "col": column}  # empty panels take no shapes
        band_name: dict[str, Any] = {"showlegend": column == 1, "name": "residual s.d."}
        figure.add_hrect(-sd, sd, fillcolor=LAW, opacity=0.14, line_width=0, **panel, **band_name)
        figure.add_hline(0, line={"color": NAIVE, "width": 1}, **panel)
        for side in (-1, 1) if data.seed_sd else ():
            dashes = {"color": MINIMA, "dash": "dash", "width": 1}
            named: dict[str, Any] = {"showlegend": column == 1 and side == 1, "name": "s.d. between seeds"}
            figure.add_hline(side * (data.seed_sd or 0.0), line=dashes, **panel, **named)
        crowded = len(data.variables) > MOST_WIDE_PANELS
        layout = axis(wrapped(label(study, variable)), variable, points[variable])
        figure.update_xaxes(layout | ({"dtick": 1} if crowded and variable == "c" else {}), row=1, col=column)
    figure.add_traces(run_legend(points, colours))
    figure.update_yaxes(title_text="measured over predicted (%)", row=1, col=1)
    figure.update_layout(height=360)
    return figure


def curves(study: Study) -> go.Figure | None:
    """Training loss against tokens."""
    if not {"budget", "d"} <= set(study.points) or study.curves.empty:
        return None
    smooth = sorted(smooth_curves(study), key=lambda curve: (curve.run["budget"], curve.run.get("n", 0)))
    if not smooth:
        return None
    figure, colours = go.Figure(), colour_of(study.points)
    tokens = np.concatenate([curve.tokens for curve in smooth])
    loss_axis = axis("smoothed loss (nats)", "loss", tokens)
    figure.update_layout(height=480, xaxis=axis(label(study, "d"), "d", tokens), yaxis=loss_axis)
    computes = plot_data.budget_compute(study.points)
    named: set[int] = set()
    for curve in smooth:
        budget = curve.run["budget"]
        group: dict[str, Any] = {"legendgroup": str(budget), "showlegend": budget not in named}
        hover = {"hoverinfo": "text", "hovertext": hover_texts(pd.DataFrame([curve.run]))[0]}
        x, y, name = curve.tokens.round(0), curve.loss.round(5), f"{power_of_ten(computes[budget], 2)} FLOPs"
        figure.add_trace(line(x, y, name, colours[budget], width=1.3, **group, **hover))
        named.add(budget)
    return figure


def surface(study: Study) -> go.Figure | None:
    """Lines of equal loss over sizes and data, the runs, and the best split of every compute."""
    points, fit = study.points, study.fit
    if fit is None or "budget" not in points or not fit.law.has_compute_optimum:
        return None
    plane = plot_data.surface(fit, points)
    n, d, loss = plane.n[::SURFACE_STRIDE], plane.d[::SURFACE_STRIDE], plane.loss[::SURFACE_STRIDE, ::SURFACE_STRIDE]
    figure, colours = go.Figure(), colour_of(points)
    figure.update_layout(height=540, xaxis=axis(label(study, "n"), "n", n), yaxis=axis(label(study, "d"), "d", d))
    figure.add_trace(
        go.Contour(
            x=n, y=d, z=loss.round(4), ncontours=CONTOURS, showscale=False, name=f"equal {label(study, 'loss')}",
            colorscale=[[0, NAIVE], [1, NAIVE]], line={"width": 1}, hoverinfo="skip", showlegend=True,
            contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 11, "color": NAIVE}},
        )
    )  # fmt: skip
    for budget, runs in points.groupby("budget"):
        figure.add_trace(run_markers(runs, "n", "d", colours[budget], showlegend=False))
    figure.add_traces([*run_legend(points, colours), *_best_splits(plane.best), *_target(fit)])
    return figure


def _best_splits(best: plot_data.Frame) -> list[go.Scatter]:
    """The efficient frontier, dashed beyond the fitted runs."""
    hover = np.array(
        [
            f"C = {power_of_ten(c)}<br>N* = {count(n)}, D* = {count(d)}<br>loss {number(loss, 4)}"
            for c, n, d, loss in best[["c", "n", "d", "loss"]].itertuples(index=False)
        ]
    )
    beyond = best["extrapolated"].to_numpy()
    joined = beyond | np.r_[beyond[1:], False]  # from the last split within the runs
    traces = []
    for part, name, dash in (
        (~beyond, "efficient frontier", "solid"),
        (joined, "efficient frontier, extrapolated", "dash"),
    ):
        if part.any():
            options: dict[str, Any] = {"hoverinfo": "text", "hovertext": hover[part]}
            traces.append(line(best["n"][part], best["d"][part], name, LAW, dash, 2.4, **options))
    return traces


def _target(fit: FitResult) -> list[go.Scatter]:
    """The best split of the target, and its interval along the line of equal compute."""
    split, target = plot_data.target_optimum(fit), fit.report.target_flops
    if split.empty:
        return []
    (n, *_), (d, *_) = split["n"], split["d"]
    traces = []
    if len(split) > 1:
        name = f"{fit.report.intervals.level:.0%} interval of the best split"
        traces.append(line(split["n"][1:], split["d"][1:], name, MINIMA, width=2))
    hover = {"hoverinfo": "text", "hovertext": [f"N* = {count(n)}, D* = {count(d)}"]}
    return [*traces, markers([n], [d], f"best split at {power_of_ten(target, 2)} FLOPs", DIAMOND, **hover)]
