"""The interactive figures of the report: each a function of a study, and None where the study lacks what it shows."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from isoflop.report.markup import count, exponent, number, power_of_ten
from isoflop.report.marks import (
    AXES,
    ENVELOPE,
    LAW,
    MEASURED,
    MINIMA,
    NAIVE,
    axis,
    band,
    colour_of,
    labelled,
    line,
    marks,
    whiskers,
)
from isoflop.report.study import Study
from laws.fit import log_predictions
from laws.fitted import Fitted
from laws.precision import float64
from laws.uncertainty import interval

NAIVE_NAMES = {"power_law": "power law without offset", "best_so_far": "best loss so far"}
POINTS_PER_CURVE, POINTS_BEHIND = 90, 40  # of a learning curve: in its own figure, and behind another
CURVE_POINTS, BAND_POINTS = 80, 25
FEWEST_SIZES = 4  # runs of equal compute with fewer sizes are no curve
MARGIN = 1.35  # by how much a fitted curve reaches beyond the sizes of its budget
BEYOND = 2.0  # and one over compute beyond the last run or target


def law_loss(fit: Fitted, columns: dict[str, np.ndarray]) -> np.ndarray:
    """What the law says of some runs."""
    return np.exp(log_predictions(fit.law, fit.predictor.constants[None], columns)[0])


def log_flops_per_token(fit: Fitted, n: np.ndarray) -> np.ndarray:
    """Log of what a token costs at some sizes, as the fit counts it."""
    with float64():
        return np.asarray(fit.predictor.cost.log_flops_per_token(np.log(n)))


def minima_of(fit: Fitted | None) -> list[dict[str, Any]]:
    """The minima of approach 2 that are used."""
    if fit is None:
        return []
    found = fit.report.get("approaches", {}).get("isoflop_akima", {})
    return [m for m in found.get("minima", []) if m["reason"] is None]


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
        group = {"legendgroup": str(budget), "name": f"{power_of_ten(compute, 2)} FLOPs{held}"}
        group["showlegend"] = bool(sizes[budget] >= FEWEST_SIZES)
        if fit is not None and fit.law.allocates and group["showlegend"]:
            n = np.geomspace(rows["n"].min() / MARGIN, rows["n"].max() * MARGIN, CURVE_POINTS)
            loss = law_loss(fit, {"n": n, "d": compute / np.exp(log_flops_per_token(fit, n))})
            dash = "solid" if seen else "dash"
            shown.add_trace(
                line(n, loss, group["name"], colours[budget], dash, legendgroup=str(budget), showlegend=False)
            )
        shown.add_trace(marks(rows, "n", "loss", colours[budget], **group))
    computes = points.groupby("budget")["c"].median()[sizes >= FEWEST_SIZES].to_numpy()
    if fit is not None and fit.law.allocates and len(computes):
        best = fit.predictor.allocation(computes)
        shown.add_trace(
            go.Scatter(
                x=best.n[0],
                y=best.loss[0],
                mode="lines+markers",
                name="optimum of the law",
                marker={"symbol": "diamond", "size": 10, "color": LAW},
                line={"color": LAW, "width": 1.2, "dash": "dot"},
                hovertext=[
                    f"law: N* = {count(n)}, loss {number(y, 4)}" for n, y in zip(best.n[0], best.loss[0], strict=True)
                ],
                hoverinfo="text",
            )
        )
    minima = minima_of(fit)
    if minima:
        n, low, high, loss = (np.array([m[key] for m in minima], float) for key in ("n", "low", "high", "loss"))
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


def thinned(curves: pd.DataFrame, per_run: int = POINTS_PER_CURVE) -> pd.DataFrame:
    """Curves averaged in bins of equal width in log tokens, as run_id, tokens, loss."""
    curves = curves.dropna(subset=["tokens", "loss"])
    curves = curves[(curves["tokens"] > 0) & (curves["loss"] > 0)]
    if curves.empty:
        return curves[["run_id", "tokens", "loss"]]
    log_tokens = np.log(curves["tokens"])
    first = log_tokens.groupby(curves["run_id"]).transform("min")
    width = (log_tokens.groupby(curves["run_id"]).transform("max") - first) / per_run
    bins = ((log_tokens - first) / width.where(width > 0, 1.0)).astype(int)
    kept = curves.groupby([curves["run_id"], bins.rename("bin")])[["tokens", "loss"]].mean()
    return kept.reset_index()[["run_id", "tokens", "loss"]]


def _curve_groups(study: Study, per_run: int = POINTS_PER_CURVE):
    """Every run that has a curve and a point, as (point, tokens, loss)."""
    by_run = {str(row["run"]): row for row in study.points.to_dict("records")}
    for run_id, curve in thinned(study.curves, per_run).groupby("run_id") if len(study.curves) else ():
        if str(run_id) in by_run:
            yield by_run[str(run_id)], curve["tokens"].to_numpy(), curve["loss"].to_numpy()


def _joined(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves as one trace, gaps between them."""
    gap = [np.nan]
    return tuple(np.concatenate([part for curve in curves for part in (curve[i], gap)]).round(6) for i in (0, 1))


def reach(study: Study) -> np.ndarray:
    """Compute from the smallest run to beyond the largest run or target."""
    target = ((study.fit.report.get("target") or {}).get("c") or 0.0) if study.fit else 0.0
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
    for point, tokens, loss in _curve_groups(study, POINTS_BEHIND) if "d" in points else ():
        late = tokens > 0.05 * tokens[-1]
        curves.append((point["c"] / point["d"] * tokens[late], loss[late]))
    if curves:
        shown.add_trace(line(*_joined(curves), "learning curves (training loss)", NAIVE, width=0.8, opacity=0.45))
    if fit is not None:
        _frontier(shown, fit, c)
    envelope = (fit.report.get("approaches", {}).get("envelope", {}) if fit else {}).get("points")
    if envelope:
        shown.add_trace(
            go.Scatter(
                x=envelope["c"],
                y=envelope["loss"],
                mode="markers",
                name="envelope of the curves (approach 1)",
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
    naive = (fit.report.get("baselines") if fit else None) or {}
    if naive.get("power_law"):
        law = naive["power_law"]
        shown.add_trace(line(c, law["k"] * c ** -law["p"], "naive: power law without offset", NAIVE, "dash", 1.6))
    if naive:
        best = np.full(2, naive["best_loss"])
        shown.add_trace(line(c[[0, -1]], best, "naive: best loss so far", NAIVE, "dot", 1.6))
    _forecast(shown, study)
    shown.update_yaxes(range=_log_range(points["loss"], 0.12, 0.3))
    return shown


def _forecast(shown: go.Figure, study: Study) -> None:
    """The frozen prediction, and what was measured."""
    said, score = (study.prediction or {}).get("prediction", {}), study.score
    if "c" not in said:
        return
    bars = whiskers([said["loss"]], [said["interval"][0]], [said["interval"][1]]) | {"color": LAW, "thickness": 2}
    mark = {"symbol": "diamond", "size": 11, "color": LAW}
    shown.add_trace(
        go.Scatter(
            x=[said["c"]],
            y=[said["loss"]],
            mode="markers",
            name="blind prediction",
            marker=mark,
            error_y=bars,
            hoverinfo="x+y",
        )
    )
    if score:
        star = {"symbol": "star", "size": 14, "color": MEASURED, "line": {"width": 1, "color": "#1c2127"}}
        at = {"x": [score["measured"].get("c", said["c"])], "y": [score["measured"]["loss"]]}
        shown.add_trace(go.Scatter(**at, mode="markers", name="measured", marker=star, hoverinfo="x+y"))


def _log_range(values, below: float, above: float) -> list[float]:
    """Ends of a logarithmic axis: the values with room in log10 units of their span."""
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(high - low, 0.05)
    return [low - below * room, high + above * room]


def _frontier(shown: go.Figure, fit: Fitted, c: np.ndarray) -> None:
    """The loss that the law promises to the best use of each compute."""
    level = fit.report["intervals"]["level"]
    name = f"{level:.0%} interval of the law"
    if fit.law.allocates:
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
    if fit is None or not fit.law.allocates or "c" not in points:
        return None
    c, level = reach(study), fit.report["intervals"]["level"]
    best = fit.predictor.allocation(c)
    draws = fit.predictor.allocation(c, draws=True) if len(fit.predictor.draws) else best
    shown = make_subplots(1, 2, subplot_titles=("N*(C), best number of parameters", "D*(C), best number of tokens"))
    minima, envelope = minima_of(fit), fit.report.get("approaches", {}).get("envelope", {}).get("points")
    for column, role in enumerate(("n", "d"), start=1):
        first = {"showlegend": column == 1}
        traces = [
            band(
                c,
                *interval(getattr(draws, role), level),
                f"{level:.0%} interval of the law",
                legendgroup="band",
                **first,
            ),
            line(c, getattr(best, role)[0], "the law (approach 3)", LAW, legendgroup="law", **first),
        ]
        if envelope:
            style = {"symbol": "x-thin", "size": 7, "line": {"width": 1.6, "color": ENVELOPE}}
            traces.append(
                go.Scatter(
                    x=envelope["c"], y=envelope[role], mode="markers", marker=style, hoverinfo="x+y",
                    name="envelope (approach 1)", legendgroup="envelope", **first,
                )
            )  # fmt: skip
        if minima:
            at = np.array([m["c"] for m in minima])
            middle, low, high = (np.array([m[key] for m in minima]) for key in ("n", "low", "high"))
            if role == "d":  # at given compute a smaller model sees more tokens
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
        shown.update_yaxes(axis(role, drawn[np.isfinite(drawn)]) | {"title": None}, row=1, col=column)
    shown.update_xaxes(axis("c", c))
    shown.update_layout(height=440)
    return shown


def residuals(study: Study) -> go.Figure | None:
    """How far each run lies from the law, against all that could explain it."""
    points, fit = study.points, study.fit
    if fit is None or points["residual"].isna().all():
        return None
    roles = [role for role in ("n", "d", "c") if role in points]
    shown = make_subplots(1, len(roles), shared_yaxes=True, horizontal_spacing=0.03)
    colours = colour_of(points) if "budget" in points else {0: ENVELOPE}
    noise = 100 * max(fit.report["noise"].get("seeds") or 0.0, fit.report["noise"]["residual"])
    for column, role in enumerate(roles, start=1):
        for budget, rows in points.groupby("budget") if "budget" in points else ((0, points),):
            dots = marks(rows, role, "residual", colours[budget], scale=100, showlegend=False)
            shown.add_trace(dots, row=1, col=column)
        shown.add_hrect(-noise, noise, fillcolor=NAIVE, opacity=0.18, line_width=0, layer="below", row=1, col=column)
        shown.add_hline(0, line={"color": NAIVE, "width": 1}, layer="below", row=1, col=column)
        shown.update_xaxes(axis(role, points[role]), row=1, col=column)
    shown.update_yaxes(title_text="loss above the law (%)", row=1, col=1)
    shown.update_layout(height=340)
    return shown


def curves(study: Study) -> go.Figure | None:
    """Training loss against tokens."""
    if "budget" not in study.points or study.curves.empty:
        return None
    groups: dict[int, list] = {}
    for point, tokens, loss in _curve_groups(study):
        groups.setdefault(point["budget"], []).append((point, tokens, loss))
    if not groups:
        return None
    shown, colours = go.Figure(), colour_of(study.points)
    tokens = np.concatenate([tokens for members in groups.values() for _, tokens, _ in members])
    shown.update_layout(height=480, xaxis=axis("d", tokens), yaxis=axis("loss", tokens))
    shown.update_yaxes(title_text="training loss (nats per token)")
    computes = study.points.groupby("budget")["c"].median()
    for budget, members in sorted(groups.items()):
        for i, (point, tokens, loss) in enumerate(sorted(members, key=lambda member: member[0].get("n", 0))):
            name = f"{power_of_ten(computes[budget], 2)} FLOPs"
            shown.add_trace(
                line(
                    tokens.round(0), loss.round(4), name, colours[budget], width=1.3, legendgroup=str(budget),
                    showlegend=i == 0, hoverinfo="text", hovertext=labelled(pd.DataFrame([point]))[0],
                )
            )  # fmt: skip
    return shown


def exponents(rows: list[tuple[str, float, list[float] | None, str]]) -> go.Figure | None:
    """The exponent of N*(C) by each way of finding it, with intervals, from the top down."""
    if not rows:
        return None
    names, values, colours = ([row[i] for row in rows] for i in (0, 1, 3))
    low, high = (np.array([ends[i] if ends else value for _, value, ends, _ in rows], float) for i in (0, 1))
    shown = _intervals(names, values, low, high, colours, exponent)
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
    names, values, ends, colours = zip(*rows, strict=True)
    low, high = np.array(ends, float).T
    shown = _intervals(list(names), np.array(values, float), low, high, list(colours), lambda value: number(value, 5))
    measured = score["measured"]["loss"]
    label = {"annotation_text": f"measured {number(measured, 5)}", "annotation_position": "top"}
    shown.add_vline(measured, line={"color": MEASURED, "width": 3}, layer="below", **label)
    shown.update_xaxes(title_text=AXES["loss"])
    return shown


def _intervals(names: list[str], values, low, high, colours: list[str], write) -> go.Figure:
    """Values with intervals, from the top down."""
    shown = go.Figure()
    rows = zip(names, values, low, high, colours, strict=True)
    for name, value, start, end, colour in rows:
        bars = whiskers([value], [start], [end]) | {"color": colour, "thickness": 2}
        said = f"{write(value)} [{write(start)}, {write(end)}]" if end > start else write(value)
        mark = {"size": 11, "color": colour}
        shown.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers",
                marker=mark,
                error_x=bars,
                hovertext=said,
                hoverinfo="text",
                showlegend=False,
            )
        )
    shown.update_layout(height=96 + 42 * len(names))
    shown.update_yaxes(autorange="reversed")
    return shown
