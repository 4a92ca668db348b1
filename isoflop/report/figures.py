"""The interactive figures of the report: each a function of a study, and None where the study lacks what it shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from isoflop.report.marks import (
    AXES,
    MEASURED,
    axis,
    band,
    colour_of,
    labelled,
    line,
    marks,
    whiskers,
)
from isoflop.report.markup import count, exponent, number, power_of_ten
from isoflop.report.study import Study
from laws.base.x64 import float64
from laws.data.curves import levelled, load_curves, smoothed
from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.plotting.style import LAW, NAIVE, SECOND as MINIMA, THIRD as ENVELOPE
from laws.results.report import ApproachReport, BudgetMinimum
from laws.results.results import FitResult

NAIVE_NAMES = {"power_law": "power law without offset", "best_so_far": "best loss so far"}
CURVE_POINTS, BAND_POINTS = 80, 25
FEWEST_SIZES = 4  # runs of equal compute with fewer sizes are no curve
MARGIN = 1.35  # by how much a fitted curve reaches beyond the sizes of its budget
BEFORE = 10.0  # by how much learning curves are followed below the compute of the smallest run
BEYOND = 2.0  # and one over compute beyond the last run or target


def law_loss(fit: FitResult, columns: dict[str, np.ndarray]) -> np.ndarray:
    """What the law says of some runs."""
    return np.exp(log_predictions(fit.law, fit.predictor.constants[None], columns)[0])


def log_flops_per_token(fit: FitResult, n: np.ndarray) -> np.ndarray:
    """Log of what a token costs at some sizes, as the fit counts it."""
    with float64():
        return np.asarray(fit.predictor.cost.log_flops_per_token(np.log(n)))


def minima_of(fit: FitResult | None) -> tuple[BudgetMinimum, ...]:
    """The minima of approach 2 that are used."""
    return fit.report.approaches.get("isoflop_akima", ApproachReport()).minima if fit else ()


def envelope_of(fit: FitResult | None) -> dict[str, tuple[float, ...]] | None:
    """The points of approach 1."""
    return fit.report.approaches.get("envelope", ApproachReport()).points if fit else None


def isoflop(study: Study) -> go.Figure | None:
    """Loss against size at every budget, with the law's curves and both kinds of minima."""
    points, fit = study.points, study.fit
    if not {"n", "c", "budget"} <= set(points) or points.empty:
        return None
    shown, colours = go.Figure(), colour_of(points)
    shown.update_layout(height=540, xaxis=axis("n", points["n"]), yaxis_title=AXES["loss"])
    sizes = points.groupby("budget")["n"].nunique()
    for budget, rows in points.groupby("budget"):
        compute, seen = float(rows["c"].median()), bool(rows["fitted"].any())
        held = "" if seen or fit is None else " (held out)"
        group: dict[str, Any] = {"legendgroup": str(budget), "name": f"{power_of_ten(compute, 2)} FLOPs{held}"}
        group["showlegend"] = bool(sizes[budget] >= FEWEST_SIZES)
        if fit is not None and fit.law.has_compute_optimum and group["showlegend"]:
            n = np.geomspace(rows["n"].min() / MARGIN, rows["n"].max() * MARGIN, CURVE_POINTS)
            loss = law_loss(fit, {"n": n, "d": compute / np.exp(log_flops_per_token(fit, n))})
            dash = "solid" if seen else "dash"
            shown.add_trace(
                line(n, loss, group["name"], colours[budget], dash, legendgroup=str(budget), showlegend=False)
            )
        shown.add_trace(marks(rows, "n", "loss", colours[budget], **group))
    computes = points.groupby("budget")["c"].median()[sizes >= FEWEST_SIZES].to_numpy()
    if fit is not None and fit.law.has_compute_optimum and len(computes):
        best = fit.predictor.allocation(computes)
        shown.add_trace(
            go.Scatter(
                x=best.n[0],
                y=best.loss[0],
                mode="lines+markers",
                name="optimum of the law",
                marker={"symbol": "diamond", "size": 11, "color": LAW, "line": {"width": 1, "color": "white"}},
                line={"color": LAW, "width": 1.2, "dash": "dot"},
                hovertext=[
                    f"law: N* = {count(n)}, loss {number(y, 4)}" for n, y in zip(best.n[0], best.loss[0], strict=True)
                ],
                hoverinfo="text",
            )
        )
    minima = minima_of(fit)
    if minima:
        n, low, high, loss = (np.array([getattr(m, key) for m in minima]) for key in ("n", "low", "high", "loss"))
        shown.add_trace(
            go.Scatter(
                x=n,
                y=loss,
                mode="markers",
                name="minimum of the runs (approach 2)",
                marker={"symbol": "line-ns", "size": 15, "line": {"width": 3, "color": MINIMA}},
                error_x=whiskers(n, low, high) | {"color": MINIMA, "thickness": 2},
                hovertext=[
                    f"runs: N* = {count(a)} [{count(b)}, {count(c)}]" for a, b, c in zip(n, low, high, strict=True)
                ],
                hoverinfo="text",
            )
        )
    return shown


def smooth_curves(study: Study, number: int = CURVE_POINTS) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """Every completed run that has a curve, as (point, tokens, loss): smoothed, ending at the run's own loss."""
    logged, found = load_curves(study.curves) if len(study.curves) else {}, []
    for point in study.points.to_dict("records"):
        if str(point["run"]) in logged:
            log_tokens, log_loss = levelled(*logged[str(point["run"])], point["loss"])
            at = np.linspace(log_tokens[0], log_tokens[-1], number)
            smooth = smoothed(log_tokens, log_loss, at)
            known = np.isfinite(smooth)
            found.append((point, np.exp(at[known]).round(0), np.exp(smooth[known]).round(5)))
    return found


def _joined(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves as one trace, gaps between them."""
    gap = np.array([np.nan])
    x, y = (np.concatenate([part for curve in curves for part in (curve[i], gap)]) for i in (0, 1))
    return x, y


def reach(study: Study) -> np.ndarray:
    """Compute from the smallest run to beyond the largest run or target."""
    target = (study.fit.report.target_flops or 0.0) if study.fit else 0.0
    c = study.points["c"]
    return np.geomspace(c.min() / BEYOND, max(c.max(), target) * BEYOND, BAND_POINTS)


def compute(study: Study) -> go.Figure | None:
    """Loss against compute: every curve, the envelope, the law's frontier and the naive forecasts."""
    points, fit = study.points, study.fit
    if "c" not in points or points.empty:
        return None
    shown, c = go.Figure(), reach(study)
    shown.update_layout(height=520, xaxis=axis("c", c), yaxis=axis("loss", points["loss"]))
    curves = []
    for point, tokens, loss in smooth_curves(study) if "d" in points else ():
        curves.append((point["c"] / point["d"] * tokens, loss))
    if curves:
        shown.add_trace(line(*_joined(curves), "learning curves", NAIVE, width=0.8, opacity=0.6))
    if fit is not None:
        _frontier(shown, fit, c)
    envelope = envelope_of(fit)
    if envelope:
        shown.add_trace(
            go.Scatter(
                x=envelope["c"],
                y=envelope["loss"],
                mode="markers",
                name="envelope (approach 1)",
                marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.6, "color": ENVELOPE}},
                hovertext=[
                    f"envelope: N = {count(n)}, D = {count(d)}"
                    for n, d in zip(envelope["n"], envelope["d"], strict=True)
                ],
                hoverinfo="text",
            )
        )
    for budget, rows in points.groupby("budget"):
        shown.add_trace(marks(rows, "c", "loss", colour_of(points)[budget], showlegend=False))
    naive = fit.report.baselines if fit else None
    if naive and naive.power_law:
        law = naive.power_law
        shown.add_trace(line(c, law.k * c**-law.p, "naive: power law", NAIVE, "dash", 1.6))
    if naive:
        best = np.full(2, naive.best_loss)
        shown.add_trace(line(c[[0, -1]], best, "naive: best so far", NAIVE, "dot", 1.6))
    expected = _forecast(shown, study)
    shown.update_xaxes(range=[np.log10(points["c"].min() / (BEFORE if curves else BEYOND)), np.log10(c[-1])])
    shown.update_yaxes(range=_log_range(np.r_[points["loss"], expected], 0.08, 0.25))
    return shown


def _forecast(shown: go.Figure, study: Study) -> list[float]:
    """The frozen prediction, and what was measured; the losses that are shown."""
    said, score = (study.prediction or {}).get("prediction", {}), study.score
    compute = said.get("inputs", {}).get("c")
    if compute is None:
        return []
    bars = whiskers([said["value"]], [said["interval"][0]], [said["interval"][1]]) | {"color": LAW, "thickness": 2}
    mark = {"symbol": "diamond-open", "size": 14, "color": LAW, "line": {"width": 2}}
    shown.add_trace(
        go.Scatter(
            x=[compute],
            y=[said["value"]],
            mode="markers",
            name="frozen prediction",
            marker=mark,
            error_y=bars,
            hoverinfo="x+y",
        )
    )
    if score:
        star = {"symbol": "star", "size": 13, "color": MEASURED}
        at = {"x": [score["measured"].get("c", compute)], "y": [score["measured"]["loss"]]}
        shown.add_trace(go.Scatter(**at, mode="markers", name="measured", marker=star, hoverinfo="x+y"))
    return said["interval"]


def _log_range(values, below: float, above: float) -> list[float]:
    """Ends of a logarithmic axis: the values with room in log10 units of their span."""
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(high - low, 0.05)
    return [low - below * room, high + above * room]


def _frontier(shown: go.Figure, fit: FitResult, c: np.ndarray) -> None:
    """The loss that the law promises to the best use of each compute."""
    level = fit.report.intervals.level
    name = f"{level:.0%} interval of the law"
    if fit.law.has_compute_optimum:
        best = fit.predictor.allocation(c).loss[0]
        low, high = (
            interval(fit.predictor.allocation(c, draws=True).loss, level) if len(fit.predictor.draws) else (best, best)
        )
    elif fit.law.columns == ("c",):
        best, low, high = fit.predictor.losses({"c": c})
        name = f"{level:.0%} interval of a run"
    else:
        return
    shown.add_trace(band(c, low, high, name))
    shown.add_trace(line(c, best, "frontier of the law", LAW))


def allocation(study: Study) -> go.Figure | None:
    """The best size and data at each compute, by the law, by the minima of the runs and by the envelope."""
    points, fit = study.points, study.fit
    if fit is None or not fit.law.has_compute_optimum or "c" not in points:
        return None
    c, level = reach(study), fit.report.intervals.level
    best = fit.predictor.allocation(c)
    draws = fit.predictor.allocation(c, draws=True) if len(fit.predictor.draws) else best
    shown = make_subplots(1, 2, horizontal_spacing=0.12)
    minima, envelope = minima_of(fit), envelope_of(fit)
    for column, variable in enumerate(("n", "d"), start=1):
        first: dict[str, Any] = {"showlegend": column == 1}
        low, high = interval(getattr(draws, variable), level)
        traces = [
            band(c, low, high, f"{level:.0%} interval of the law", legendgroup="band", **first),
            line(c, getattr(best, variable)[0], "the law (approach 3)", LAW, legendgroup="law", **first),
        ]
        if envelope:
            style = {"symbol": "x-thin", "size": 7, "line": {"width": 1.6, "color": ENVELOPE}}
            traces.append(
                go.Scatter(
                    x=envelope["c"], y=envelope[variable], mode="markers", marker=style, hoverinfo="x+y",
                    name="envelope (approach 1)", legendgroup="envelope", **first,
                )
            )  # fmt: skip
        if minima:
            at = np.array([m.c for m in minima])
            middle, low, high = (np.array([getattr(m, key) for m in minima]) for key in ("n", "low", "high"))
            if variable == "d":  # at given compute a smaller model sees more tokens
                middle, low, high = (at / np.exp(log_flops_per_token(fit, n)) for n in (middle, high, low))
            traces.append(
                go.Scatter(
                    x=at, y=middle, mode="markers", error_y=whiskers(middle, low, high) | {"color": MINIMA},
                    marker={"symbol": "circle", "size": 9, "color": MINIMA}, hoverinfo="x+y",
                    name="minima of the runs (approach 2)", legendgroup="minima", **first,
                )
            )  # fmt: skip
        shown.add_traces(traces, rows=1, cols=column)
        drawn = np.concatenate([np.asarray(trace.y, float) for trace in traces])
        title = {"title": {"text": f"compute-optimal {AXES[variable]}*"}}
        shown.update_yaxes(axis(variable, drawn[np.isfinite(drawn)]) | title, row=1, col=column)
    shown.update_xaxes(axis("c", np.r_[c, envelope["c"] if envelope else c]))
    shown.update_layout(height=440)
    return shown


def residuals(study: Study) -> go.Figure | None:
    """How far each run lies from the law, against all that could explain it."""
    points, fit = study.points, study.fit
    if fit is None or points["residual"].isna().all():
        return None
    variables = [variable for variable in ("n", "d", "c") if variable in points]
    shown = make_subplots(1, len(variables), shared_yaxes=True, horizontal_spacing=0.03)
    colours = colour_of(points) if "budget" in points else {0: ENVELOPE}
    noise = 100 * max(fit.report.noise.seeds or 0.0, fit.report.noise.residual)
    for column, variable in enumerate(variables, start=1):
        for budget, rows in points.groupby("budget") if "budget" in points else ((0, points),):
            dots = marks(rows, variable, "residual", colours[budget], scale=100, showlegend=False)
            shown.add_trace(dots, row=1, col=column)
        panel: dict[str, Any] = {"layer": "below", "row": 1, "col": column}
        shown.add_hrect(-noise, noise, fillcolor=NAIVE, opacity=0.18, line_width=0, **panel)
        shown.add_hline(0, line={"color": NAIVE, "width": 1}, **panel)
        shown.update_xaxes(axis(variable, points[variable]), row=1, col=column)
    shown.update_yaxes(title_text="loss above the law (%)", row=1, col=1)
    shown.update_layout(height=340)
    return shown


def curves(study: Study) -> go.Figure | None:
    """Training loss against tokens."""
    if "budget" not in study.points or study.curves.empty:
        return None
    groups: dict[int, list] = {}
    for point, tokens, loss in smooth_curves(study):
        groups.setdefault(point["budget"], []).append((point, tokens, loss))
    if not groups:
        return None
    shown, colours = go.Figure(), colour_of(study.points)
    tokens = np.concatenate([tokens for members in groups.values() for _, tokens, _ in members])
    shown.update_layout(height=480, xaxis=axis("d", tokens), yaxis=axis("loss", tokens))
    shown.update_yaxes(title_text="smoothed loss (nats)")
    computes = study.points.groupby("budget")["c"].median()
    for budget, members in sorted(groups.items()):
        for i, (point, tokens, loss) in enumerate(sorted(members, key=lambda member: member[0].get("n", 0))):
            name = f"{power_of_ten(computes[budget], 2)} FLOPs"
            shown.add_trace(
                line(
                    tokens, loss, name, colours[budget], width=1.3, legendgroup=str(budget),
                    showlegend=i == 0, hoverinfo="text", hovertext=labelled(pd.DataFrame([point]))[0],
                )
            )  # fmt: skip
    return shown


def exponents(rows: list[tuple[str, float, list[float] | None, str]]) -> go.Figure | None:
    """The exponent of N*(C) by each way of finding it, with intervals, from the top down."""
    if not rows:
        return None
    shown = _intervals([(name, value, ends or [value, value], colour) for name, value, ends, colour in rows], exponent)
    shown.add_vline(0.5, line={"color": NAIVE, "dash": "dash", "width": 1})
    shown.update_xaxes(title_text="exponent a of N*(C) = G Cᵃ")
    return shown


def forecasts(score: dict[str, Any]) -> go.Figure:
    """What was forecast by the law and by its naive rivals, beside what was measured."""
    said, naive = score["predicted"], score["baselines"]
    rows = [("the law", said["loss"], said["interval"], LAW)]
    rows += [
        (title, naive[key]["loss"], [naive[key]["loss"]] * 2, NAIVE)
        for key, title in NAIVE_NAMES.items()
        if naive.get(key)
    ]
    shown = _intervals(rows, lambda value: number(value, 5))
    measured = score["measured"]["loss"]
    label: dict[str, Any] = {"annotation_text": f"measured {number(measured, 5)}", "annotation_position": "top"}
    shown.add_vline(measured, line={"color": MEASURED, "width": 3}, layer="below", **label)
    shown.update_xaxes(title_text=AXES["loss"])
    return shown


def _intervals(rows: list[tuple[str, float, list[float], str]], write: Callable[[float], str]) -> go.Figure:
    """Values with intervals and colours, from the top down."""
    shown = go.Figure()
    for name, value, (low, high), colour in rows:
        shown.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers",
                marker={"size": 11, "color": colour},
                error_x=whiskers([value], [low], [high]) | {"color": colour, "thickness": 2},
                hovertext=f"{write(value)} [{write(low)}, {write(high)}]" if high > low else write(value),
                hoverinfo="text",
                showlegend=False,
            )
        )
    shown.update_layout(height=96 + 42 * len(rows))
    shown.update_yaxes(autorange="reversed")
    return shown
