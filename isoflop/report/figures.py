"""The interactive figures of the report: each a function of a study, and None where the study lacks what it shows.

Their numbers come from `laws.plotting.plot_data`, as those of the printed figures do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from isoflop.report.formats import count, exponent, number, power_of_ten
from isoflop.report.plotly_primitives import (
    AXES,
    MEASURED,
    axis,
    band,
    colour_of,
    cross,
    error_bars,
    hover_texts,
    line,
    log_range,
    markers,
    run_markers,
)
from isoflop.report.study import Study
from laws.data.curves import load_curves
from laws.plotting import plot_data
from laws.plotting.style import LAW, NAIVE, SECOND as MINIMA, THIRD as ENVELOPE

NAIVE_NAMES = {"power_law": "power law without offset", "best_so_far": "best loss so far"}
BAND_POINTS = 25  # of a band, so that the page stays light
BEFORE = 10.0  # factor by which learning curves are followed below the compute of the smallest run
BEYOND = 2.0  # and one over compute beyond the first and the last run or target


def isoflop(study: Study) -> go.Figure | None:
    """Loss against size at every budget, with the law's curves and both kinds of minima."""
    points, fit = study.points, study.fit
    if not {"n", "c", "budget"} <= set(points) or points.empty:
        return None
    figure, colours = go.Figure(), colour_of(points)
    figure.update_layout(height=540, xaxis=axis("n", points["n"]), yaxis_title=AXES["loss"])
    curves = {curve.budget: curve for curve in plot_data.budget_curves(points, fit)}
    for budget, runs in points.groupby("budget"):
        fitted, curve = bool(runs["fitted"].any()), curves.get(budget)
        name = f"{power_of_ten(float(runs['c'].median()), 2)} FLOPs" + ("" if fitted or fit is None else " (held out)")
        if curve is not None and len(curve.n):
            dash = "solid" if fitted else "dash"
            law_line = line(curve.n, curve.loss, name, colours[budget], dash, legendgroup=str(budget), showlegend=False)
            figure.add_trace(law_line)
        group: dict[str, Any] = {"legendgroup": str(budget), "name": name, "showlegend": curve is not None}
        figure.add_trace(run_markers(runs, "n", "loss", colours[budget], **group))
    if fit is not None and fit.law.has_compute_optimum and curves:
        best = plot_data.optimum(fit, np.array([curve.compute for curve in curves.values()]))
        hover = [f"law: N* = {count(n)}, loss {number(y, 4)}" for n, y in zip(best["n"], best["loss"], strict=True)]
        diamond = {"symbol": "diamond", "size": 11, "color": LAW, "line": {"width": 1, "color": "white"}}
        optimum = line(
            best["n"], best["loss"], "optimum of the law", LAW, "dot", 1.2, hoverinfo="text", hovertext=hover
        )
        figure.add_trace(optimum.update(mode="lines+markers", marker=diamond))
    minima = plot_data.budget_minima(fit)
    if len(minima):
        n, low, high = (minima[name] for name in ("n", "n_low", "n_high"))
        hover = [f"runs: N* = {count(a)} [{count(b)}, {count(c)}]" for a, b, c in zip(n, low, high, strict=True)]
        tick = {"symbol": "line-ns", "size": 15, "line": {"width": 3, "color": MINIMA}}
        options: dict[str, Any] = {"error_x": error_bars(n, low, high, MINIMA, 2), "hoverinfo": "text"}
        name = "minimum of the runs (approach 2)"
        figure.add_trace(markers(n, minima["loss"], name, tick, hovertext=hover, **options))
    return figure


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
    figure.update_layout(height=520, xaxis=axis("c", c), yaxis=axis("loss", points["loss"]))
    if curves:  # as one trace, gaps between them
        x, y = (np.concatenate([[*getattr(curve, name), np.nan] for curve in curves]) for name in ("compute", "loss"))
        figure.add_trace(line(x, y.round(5), "learning curves", NAIVE, width=0.8, opacity=0.6))
    law = plot_data.loss_band(fit, c) if fit else None
    if fit is not None and law is not None:
        name = f"{fit.report.intervals.level:.0%} interval of {'a run' if law.of_one_run else 'the law'}"
        figure.add_traces([band(c, law.low, law.high, name), line(c, law.loss, "frontier of the law", LAW)])
    envelope = plot_data.envelope(fit)
    if len(envelope):
        sizes = zip(envelope["n"], envelope["d"], strict=True)
        hover: dict[str, Any] = {"hovertext": [f"envelope: N = {count(n)}, D = {count(d)}" for n, d in sizes]}
        name = "envelope (approach 1)"
        figure.add_trace(markers(envelope["c"], envelope["loss"], name, cross(ENVELOPE), hoverinfo="text", **hover))
    for budget, runs in points.groupby("budget"):
        figure.add_trace(run_markers(runs, "c", "loss", colours[budget], showlegend=False))
    if fit is not None:
        naive = plot_data.naive_power_law(fit, c)
        figure.add_traces([] if naive is None else [line(c, naive, "naive: power law", NAIVE, "dash", 1.6)])
        best = np.full(2, fit.report.baselines.best_loss)
        figure.add_trace(line(c[[0, -1]], best, "naive: best so far", NAIVE, "dot", 1.6))
    expected = _add_forecast(figure, study)
    figure.update_xaxes(range=[np.log10(points["c"].min() / (BEFORE if curves else BEYOND)), np.log10(c[-1])])
    figure.update_yaxes(range=log_range(np.r_[points["loss"], expected], 0.08, 0.25))
    return figure


def _compute_grid(study: Study) -> np.ndarray:
    """Compute from below the smallest run to beyond the largest run or target."""
    return plot_data.compute_grid(study.points, study.fit, BEYOND, BEYOND, BAND_POINTS)


def _add_forecast(figure: go.Figure, study: Study) -> list[float]:
    """The frozen prediction, and what was measured; the ends of its interval."""
    forecast, score = (study.prediction or {}).get("prediction", {}), study.score
    c = forecast.get("inputs", {}).get("c")
    if c is None:
        return []
    low, high = forecast["interval"]
    diamond = {"symbol": "diamond-open", "size": 14, "color": LAW, "line": {"width": 2}}
    bars = error_bars([forecast["value"]], [low], [high], LAW, 2)
    figure.add_trace(markers([c], [forecast["value"]], "frozen prediction", diamond, error_y=bars))
    if score:
        star = {"symbol": "star", "size": 13, "color": MEASURED}
        figure.add_trace(markers([score["measured"].get("c", c)], [score["measured"]["loss"]], "measured", star))
    return [low, high]


def allocation(study: Study) -> go.Figure | None:
    """The best size and data at each compute, by the law, by the minima of the runs and by the envelope."""
    points, fit = study.points, study.fit
    if fit is None or not fit.law.has_compute_optimum or "c" not in points:
        return None
    c = _compute_grid(study)
    best, minima, envelope = plot_data.optimum(fit, c), plot_data.budget_minima(fit), plot_data.envelope(fit)
    interval_name = f"{fit.report.intervals.level:.0%} interval of the law"
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    for column, name in enumerate(("n", "d"), start=1):
        first: dict[str, Any] = {"showlegend": column == 1}
        low, high = best[f"{name}_low"].to_numpy(), best[f"{name}_high"].to_numpy()
        traces = [
            band(c, low, high, interval_name, legendgroup="band", **first),
            line(c, best[name], "the law (approach 3)", LAW, legendgroup="law", **first),
        ]
        if len(envelope):
            options = {"legendgroup": "envelope"} | first
            traces.append(markers(envelope["c"], envelope[name], "envelope (approach 1)", cross(ENVELOPE), **options))
        if len(minima):
            bars = error_bars(minima[name], minima[f"{name}_low"], minima[f"{name}_high"], MINIMA)
            options = {"legendgroup": "minima", "error_y": bars} | first
            dot = {"symbol": "circle", "size": 9, "color": MINIMA}
            traces.append(markers(minima["c"], minima[name], "minima of the runs (approach 2)", dot, **options))
        figure.add_traces(traces, rows=1, cols=column)
        values = np.concatenate([np.asarray(trace.y, float) for trace in traces])
        title = {"title": {"text": f"compute-optimal {AXES[name]}*"}}
        figure.update_yaxes(axis(name, values[np.isfinite(values)]) | title, row=1, col=column)
    figure.update_xaxes(axis("c", np.r_[c, envelope["c"]]))
    figure.update_layout(height=440)
    return figure


def residuals(study: Study) -> go.Figure | None:
    """Residuals of each run against its size, data and compute."""
    points, fit = study.points, study.fit
    if fit is None or points["residual"].isna().all():
        return None
    data = plot_data.residuals(points, fit)
    points = points.assign(percent=data.percent, budget=points.get("budget", 0))
    variables = [variable for variable in data.variables if variable in AXES]
    figure, colours = make_subplots(1, len(variables), shared_yaxes=True, horizontal_spacing=0.03), colour_of(points)
    noise = max(data.seed_sd or 0.0, data.residual_sd)
    for column, variable in enumerate(variables, start=1):
        for budget, runs in points.groupby("budget"):
            dots = run_markers(runs, variable, "percent", colours[budget], showlegend=False)
            figure.add_trace(dots, row=1, col=column)
        panel: dict[str, Any] = {"layer": "below", "row": 1, "col": column}
        figure.add_hrect(-noise, noise, fillcolor=NAIVE, opacity=0.18, line_width=0, **panel)
        figure.add_hline(0, line={"color": NAIVE, "width": 1}, **panel)
        figure.update_xaxes(axis(variable, points[variable]), row=1, col=column)
    figure.update_yaxes(title_text="loss above the law (%)", row=1, col=1)
    figure.update_layout(height=340)
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
    figure.update_layout(height=480, xaxis=axis("d", tokens), yaxis=axis("loss", tokens))
    figure.update_yaxes(title_text="smoothed loss (nats)")
    computes = study.points.groupby("budget")["c"].median()
    named: set[int] = set()
    for curve in smooth:
        budget = curve.run["budget"]
        group: dict[str, Any] = {"legendgroup": str(budget), "showlegend": budget not in named}
        hover = {"hoverinfo": "text", "hovertext": hover_texts(pd.DataFrame([curve.run]))[0]}
        x, y, name = curve.tokens.round(0), curve.loss.round(5), f"{power_of_ten(computes[budget], 2)} FLOPs"
        figure.add_trace(line(x, y, name, colours[budget], width=1.3, **group, **hover))
        named.add(budget)
    return figure


SURFACE_STRIDE = 3  # of the surface's grid, so that the page stays light
CONTOURS = 14  # lines of equal loss, about


def surface(study: Study) -> go.Figure | None:
    """Lines of equal loss over sizes and data, the runs, and the best split of every compute."""
    points, fit = study.points, study.fit
    if fit is None or "budget" not in points or not fit.law.has_compute_optimum:
        return None
    plane = plot_data.surface(fit)
    figure, colours, best = go.Figure(), colour_of(points), plane.best
    n, d, loss = plane.n[::SURFACE_STRIDE], plane.d[::SURFACE_STRIDE], plane.loss[::SURFACE_STRIDE, ::SURFACE_STRIDE]
    figure.update_layout(height=540, xaxis=axis("n", n), yaxis=axis("d", d))
    figure.add_trace(
        go.Contour(
            x=n, y=d, z=loss.round(4), ncontours=CONTOURS, showscale=False, name="equal loss",
            colorscale=[[0, NAIVE], [1, NAIVE]], line={"width": 1}, hoverinfo="skip", showlegend=True,
            contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 11, "color": NAIVE}},
        )
    )  # fmt: skip
    for budget, runs in points.groupby("budget"):
        figure.add_trace(run_markers(runs, "n", "d", colours[budget], showlegend=False))
    hover = [
        f"C = {power_of_ten(c)}<br>N* = {count(n)}, D* = {count(d)}<br>loss {number(loss, 4)}"
        for c, n, d, loss in best[["c", "n", "d", "loss"]].itertuples(index=False)
    ]
    options: dict[str, Any] = {"hoverinfo": "text", "hovertext": hover}
    figure.add_trace(line(best["n"], best["d"], "efficient frontier", LAW, width=2.4, **options))
    return figure


def exponents(rows: list[tuple[str, float, list[float] | None, str]]) -> go.Figure | None:
    """The exponent of N*(C) by each approach, with intervals, from the top down."""
    if not rows:
        return None
    figure = _intervals([(name, value, ends or [value, value], colour) for name, value, ends, colour in rows], exponent)
    figure.add_vline(0.5, line={"color": NAIVE, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="exponent a of N*(C) = G Cᵃ")
    return figure


def forecasts(score: dict[str, Any]) -> go.Figure:
    """What was forecast by the law and by its naive rivals, beside what was measured."""
    predicted, naive = score["predicted"], score["baselines"]
    rows = [("the law", predicted["loss"], predicted["interval"], LAW)]
    rows += [
        (title, naive[key]["loss"], [naive[key]["loss"]] * 2, NAIVE)
        for key, title in NAIVE_NAMES.items()
        if naive.get(key)
    ]
    figure = _intervals(rows, lambda value: number(value, 5))
    measured = score["measured"]["loss"]
    label: dict[str, Any] = {"annotation_text": f"measured {number(measured, 5)}", "annotation_position": "top"}
    figure.add_vline(measured, line={"color": MEASURED, "width": 3}, layer="below", **label)
    figure.update_xaxes(title_text=AXES["loss"])
    return figure


def _intervals(rows: list[tuple[str, float, list[float], str]], write: Callable[[float], str]) -> go.Figure:
    """Values with intervals, from the top down.

    Args:
        rows: name, value, ends and colour of each.
        write: a value as text.
    """
    figure = go.Figure()
    for name, value, (low, high), colour in rows:
        hover = f"{write(value)} [{write(low)}, {write(high)}]" if high > low else write(value)
        options: dict[str, Any] = {"error_x": error_bars([value], [low], [high], colour, 2), "hovertext": hover}
        dot = {"size": 11, "color": colour}
        figure.add_trace(markers([value], [name], name, dot, hoverinfo="text", showlegend=False, **options))
    figure.update_layout(height=96 + 42 * len(rows))
    figure.update_yaxes(autorange="reversed")
    return figure
