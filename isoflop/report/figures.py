"""The interactive figures of the report: each a function of a study, and None where the study lacks what it shows.

Colours name no theme: paper, grid and text take theirs from the page, in light, in dark and in print.
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from isoflop.report.markup import count, number, percent, power_of_ten
from isoflop.report.study import Study
from laws.fitted import Fitted
from laws.precision import float64
from laws.uncertainty import interval

# Okabe and Ito's colours: told apart with any colour vision, and on white as on black.
LAW, OPTIMUM, ENVELOPE, NAIVE, TRUTH = "#D55E00", "#0072B2", "#009E73", "#999999", "#CC79A7"
BUDGETS, FROM_TO = "Viridis", (0.12, 0.84)  # neither so dark nor so light that it would vanish
AXES = {"n": "parameters N", "d": "tokens D", "c": "training FLOPs C", "loss": "loss (nats per token)"}
BAND = "rgba(213,94,0,0.16)"
POINTS_PER_CURVE = 90
CURVE_POINTS, BAND_POINTS = 80, 25
MARGIN = 1.35  # by how much a fitted curve reaches beyond the sizes of its budget
BEYOND = 2.0  # and one over compute beyond the last run or target


def colour_of(points: pd.DataFrame) -> dict[int, str]:
    """A colour for each budget, in order of compute."""
    numbers = sorted(points["budget"].unique())
    places = np.linspace(*FROM_TO, len(numbers)) if len(numbers) > 1 else [0.4]
    return dict(zip(numbers, sample_colorscale(BUDGETS, list(places)), strict=True))


def figure(x: str, y: str, height: int = 460, **layout: Any) -> go.Figure:
    """An empty figure with logarithmic x."""
    found = go.Figure()
    found.update_layout(height=height, xaxis_title=x, yaxis_title=y, **layout)
    found.update_xaxes(type="log")
    return found


def labelled(points: pd.DataFrame) -> list[str]:
    """What is shown of each run under the pointer."""
    lines = []
    for row in points.to_dict("records"):
        parts = [f"{role.upper()} = {count(row[role])}" for role in ("n", "d") if role in row]
        parts += [f"C = {power_of_ten(row['c'])}"] if "c" in row else []
        parts += [f"loss {number(row['loss'], 5)}"]
        parts += [f"{100 * row['residual']:+.2f}% of the law"] if np.isfinite(row["residual"]) else []
        name = str(row["run"]).replace("&", "&amp;").replace("<", "&lt;")
        lines.append("<br>".join([f"<b>run {name}</b>", *parts]))
    return lines


def marks(points: pd.DataFrame, x: str, y: str, colour: str, scale: float = 1.0, **more: Any) -> go.Scatter:
    """Runs as dots; a run that the fit did not see is an open one."""
    symbols = np.where(points["fitted"], "circle", "circle-open")
    return go.Scatter(
        x=points[x],
        y=scale * points[y],
        mode="markers",
        marker={"symbol": symbols, "size": 9, "color": colour, "line": {"width": 1.6, "color": colour}},
        hovertext=labelled(points),
        hoverinfo="text",
        **more,
    )


def line(x, y, name: str, colour: str, dash: str = "solid", width: float = 2, **more: Any) -> go.Scatter:
    """A curve."""
    style = {"color": colour, "dash": dash, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=style, **({"hoverinfo": "skip"} | more))


def band(x, low, high, name: str, colour: str = BAND, **more: Any) -> go.Scatter:
    """An area between two curves."""
    around = {"x": np.r_[x, x[::-1]], "y": np.r_[low, high[::-1]]}
    style = {"fill": "toself", "fillcolor": colour, "line": {"width": 0}, "mode": "lines", "hoverinfo": "skip"}
    return go.Scatter(**around, **style, name=name, **more)


def whiskers(middle, low, high) -> dict[str, Any]:
    """Error bars from the middle to both ends."""
    middle, low, high = (np.asarray(v, float) for v in (middle, low, high))
    ends = {"array": np.maximum(high - middle, 0), "arrayminus": np.maximum(middle - low, 0)}
    return {"type": "data", "symmetric": False, "thickness": 1.4, "width": 4, **ends}


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
    shown = figure(AXES["n"], AXES["loss"], 520)
    colours = colour_of(points)
    for budget, rows in points.groupby("budget"):
        compute, seen = float(rows["c"].median()), bool(rows["fitted"].any())
        held = "" if seen or fit is None else " (held out)"
        group = {"legendgroup": str(budget), "name": f"{power_of_ten(compute, 2)} FLOPs{held}"}
        if fit is not None and fit.law.allocates:
            n = np.geomspace(rows["n"].min() / MARGIN, rows["n"].max() * MARGIN, CURVE_POINTS)
            loss, _, _ = fit.predictor.losses({"n": n, "d": compute / np.exp(log_flops_per_token(fit, n))})
            dash = "solid" if seen else "dash"
            shown.add_trace(line(n, loss, group["name"], colours[budget], dash, legendgroup=str(budget), showlegend=False))
        shown.add_trace(marks(rows, "n", "loss", colours[budget], **group))
    if fit is not None and fit.law.allocates:
        computes = np.array([float(rows["c"].median()) for _, rows in points.groupby("budget")])
        best = fit.predictor.allocation(computes)
        shown.add_trace(
            go.Scatter(
                x=best.n[0],
                y=best.loss[0],
                mode="lines+markers",
                name="optimum of the law",
                marker={"symbol": "diamond", "size": 10, "color": LAW},
                line={"color": LAW, "width": 1.2, "dash": "dot"},
                hovertext=[f"law: N* = {count(n)}, loss {number(y, 4)}" for n, y in zip(best.n[0], best.loss[0], strict=True)],
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
                marker={"symbol": "line-ns", "size": 13, "line": {"width": 2.4, "color": OPTIMUM}},
                error_x=whiskers(n, low, high) | {"color": OPTIMUM},
                hovertext=[f"runs: N* = {count(a)} [{count(b)}, {count(c)}]" for a, b, c in zip(n, low, high, strict=True)],
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


def _curve_groups(study: Study):
    """Every run that has a curve and a point, as (point, tokens, loss)."""
    by_run = {str(row["run"]): row for row in study.points.to_dict("records")}
    for run_id, curve in thinned(study.curves).groupby("run_id") if len(study.curves) else ():
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
    shown, c = figure(AXES["c"], AXES["loss"], 480), reach(study)
    shown.update_yaxes(type="log")
    curves = []
    for point, tokens, loss in _curve_groups(study) if "d" in points else ():
        late = tokens > 0.02 * tokens[-1]
        curves.append((point["c"] / point["d"] * tokens[late], loss[late]))
    if curves:
        shown.add_trace(line(*_joined(curves), "learning curves (training loss)", NAIVE, width=0.8, opacity=0.55))
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
                hovertext=[f"envelope: N = {count(n)}, D = {count(d)}" for n, d in zip(envelope["n"], envelope["d"], strict=True)],
                hoverinfo="text",
            )
        )
    for budget, rows in points.groupby("budget"):
        shown.add_trace(marks(rows, "c", "loss", colour_of(points)[budget], showlegend=False))
    law = ((fit.report.get("baselines") or {}).get("power_law") if fit else None) or {}
    if law:
        shown.add_trace(line(c, law["k"] * c ** -law["p"], "naive: power law without offset", NAIVE, "dash", 1.6))
    shown.update_yaxes(range=_log_range(points["loss"], 0.02, 0.35))
    return shown


def _log_range(values, below: float, above: float) -> list[float]:
    """Ends of a logarithmic axis: the values with room in log10 units of their span."""
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(high - low, 0.05)
    return [low - (below + 0.1) * room, high + above * room]


def _frontier(shown: go.Figure, fit: Fitted, c: np.ndarray) -> None:
    """The loss that the law promises to the best use of each compute."""
    level = fit.report["intervals"]["level"]
    name = f"{level:.0%} interval of the law"
    if fit.law.allocates:
        best = fit.predictor.allocation(c).loss[0]
        low, high = interval(fit.predictor.allocation(c, draws=True).loss, level) if len(fit.predictor.draws) else (best, best)
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
            band(c, *interval(getattr(draws, role), level), f"{level:.0%} interval of the law", legendgroup="band", **first),
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
                    x=at, y=middle, mode="markers", error_y=whiskers(middle, low, high) | {"color": OPTIMUM},
                    marker={"symbol": "circle", "size": 9, "color": OPTIMUM}, hoverinfo="x+y",
                    name="minima of the runs (approach 2)", legendgroup="minima", **first,
                )
            )  # fmt: skip
        shown.add_traces(traces, rows=1, cols=column)
    shown.update_xaxes(type="log", title_text=AXES["c"])
    shown.update_yaxes(type="log")
    shown.update_layout(height=440)
    return shown


def residuals(study: Study) -> go.Figure | None:
    """How far each run lies from the law, against all that could explain it."""
    points, fit = study.points, study.fit
    if fit is None or points["residual"].isna().all():
        return None
    roles = [role for role in ("n", "d", "c") if role in points]
    shown = make_subplots(1, len(roles), shared_yaxes=True, horizontal_spacing=0.03)
    colours = colour_of(points) if "budget" in points else {0: OPTIMUM}
    noise = 100 * max(fit.report["noise"].get("seeds") or 0.0, fit.report["noise"]["residual"])
    for column, role in enumerate(roles, start=1):
        for budget, rows in points.groupby("budget") if "budget" in points else ((0, points),):
            dots = marks(rows, role, "residual", colours[budget], scale=100, showlegend=False)
            shown.add_trace(dots, row=1, col=column)
        shown.add_hrect(-noise, noise, fillcolor=NAIVE, opacity=0.16, line_width=0, row=1, col=column)
        shown.add_hline(0, line={"color": NAIVE, "width": 1}, row=1, col=column)
        shown.update_xaxes(type="log", title_text=AXES[role], row=1, col=column)
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
    shown, colours = figure(AXES["d"], "training loss (nats per token)", 460), colour_of(study.points)
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
    shown.update_yaxes(type="log")
    return shown


def exponents(rows: list[tuple[str, float, list[float] | None]]) -> go.Figure | None:
    """The exponent of N*(C) by each way of finding it, with intervals, from the top down."""
    if not rows:
        return None
    names, values = [name for name, _, _ in rows], np.array([value for _, value, _ in rows])
    low, high = (np.array([ends[i] if ends else value for _, value, ends in rows], float) for i in (0, 1))
    shown = figure("exponent a of N*(C) = G Cᵃ", "", 90 + 44 * len(rows))
    shown.add_vline(0.5, line={"color": NAIVE, "dash": "dash", "width": 1})
    shown.add_trace(
        go.Scatter(
            x=values,
            y=names,
            mode="markers",
            showlegend=False,
            marker={"size": 10, "color": OPTIMUM},
            error_x=whiskers(values, low, high) | {"color": OPTIMUM},
            hovertext=[f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in zip(values, low, high, strict=True)],
            hoverinfo="text",
        )
    )
    shown.update_xaxes(type="linear")
    shown.update_yaxes(autorange="reversed", automargin=True)
    return shown


def percent_label(share: float) -> str:
    """A signed share in percent."""
    return ("+" if share > 0 else "") + percent(share)
