"""Parts of the interactive figures: colours, axes, runs as points, lines, bands, error bars.

Colours name no theme: paper, grid and text take theirs from the page, in light, in dark and in print.
"""

import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from isoflop.report.formats import count, number, power_of_ten
from isoflop.report.study import Frame, Study
from laws.model.law import LOSS
from laws.plotting.style import NAIVE, axis_label, data_unit

MEASURED = "#CC79A7"  # of Okabe and Ito's palette, as the colours of `laws.plotting.style`
BAND = "rgba(0,114,178,0.18)"
BUDGETS = "Viridis"  # the scale of the budgets' colours
BUDGETS_FROM, BUDGETS_TO = 0.2, 0.88  # its part that shows on white and on black
SYMBOLS = {"n": "N", "d": "D", "c": "C"}
TICKS = ((2.0, (1, 2, 5)), (3.2, (1, 3)))  # ticks of a decade on an axis of less than so many
EXTRAPOLATED = "rgba(140,140,140,0.10)"  # the region beyond the fitted runs


def colour_of(points: Frame) -> dict[int, str]:
    """A colour for each budget, in order of compute."""
    budgets = sorted(points["budget"].unique())
    scale = np.linspace(BUDGETS_FROM, BUDGETS_TO, len(budgets)) if len(budgets) > 1 else [0.4]
    return {n: str(colour) for n, colour in zip(budgets, sample_colorscale(BUDGETS, list(scale)), strict=True)}


def label(study: Study, variable: str) -> str:
    """A variable, or the loss, with its unit, as the label of an axis.

    Args:
        study: its fit names the columns and what is predicted.
        variable: its name, or ``loss``.
    """
    if variable == "loss":
        return study.fit.observable if study.fit else LOSS
    return axis_label(variable, study.columns).replace("$", "")


def starred_label(study: Study, variable: str) -> str:
    """A compute optimum with its unit, as N* (parameters).

    Args:
        study: its fit names the columns.
        variable: ``n`` or ``d``.
    """
    unit = "parameters" if variable == "n" else data_unit(study.columns)
    return f"compute-optimal {SYMBOLS[variable]}*" + (f" ({unit})" if unit else "")


def axis(title: str, variable: str, values) -> dict[str, Any]:
    """A logarithmic axis, as many ticks as a narrow panel has room for, as in 20k.

    Args:
        title: of the axis.
        variable: its name, or ``loss``.
        values: to be shown; where not all of them are positive, the axis is linear.
    """
    low, high = np.nanmin(values), np.nanmax(values)
    if low <= 0:
        return {"title": {"text": title}}
    layout, (low, high) = {"type": "log", "title": {"text": title}}, np.log10([low, high])
    if variable in ("c", "loss"):
        return layout | ({"dtick": "D2" if high - low < 2.5 else 1} if variable == "c" else {})
    steps = next((steps for decades, steps in TICKS if high - low < decades), (1,))
    ticks = [step * 10.0**k for k in range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1) for step in steps]
    return layout | {"tickvals": ticks, "ticktext": [tick_text(value) for value in ticks]}


def tick_text(value: float) -> str:
    """The label of a tick at 1, 2, 3 or 5 of a decade: 20k, 0.05."""
    return count(value, 1) if value >= 1 else f"{value:g}"


def hover_texts(points: Frame) -> list[str]:
    """What is shown of each run under the pointer."""
    lines = []
    for row in points.to_dict("records"):
        parts = [f"{variable.upper()} = {count(row[variable])}" for variable in ("n", "d") if variable in row]
        parts += [f"C = {power_of_ten(row['c'])}"] if "c" in row else []
        parts += [f"loss {number(row['loss'], 5)}"]
        parts += [f"{100 * row['residual']:+.2f}% off the law"] if np.isfinite(row["residual"]) else []
        name = str(row["run"]).replace("&", "&amp;").replace("<", "&lt;")
        lines.append("<br>".join([f"<b>run {name}</b>", *parts]))
    return lines


def run_markers(points: Frame, x: str, y: str, colour: str, **options: Any) -> go.Scatter:
    """Runs as points; a run that the fit did not see is an open one.

    Args:
        points: the runs.
        x, y: their columns.
        colour: of all of them.
        options: of the trace.
    """
    symbols = np.where(points["fitted"], "circle", "circle-open")
    return go.Scatter(
        x=points[x],
        y=points[y],
        mode="markers",
        marker={"symbol": symbols, "size": 9, "color": colour, "line": {"width": 1.6, "color": colour}},
        hovertext=hover_texts(points),
        hoverinfo="text",
        **options,
    )


def run_legend(points: Frame, colours: dict[int, str]) -> list[go.Scatter]:
    """Entries of a legend for runs drawn as points without one: fitted, and held out where there are any.

    Args:
        points: the runs.
        colours: of their budgets.
    """
    middle = sorted(colours)[len(colours) // 2]
    kinds = ((points["fitted"], "fitted runs", "circle"), (~points["fitted"], "runs not fitted", "circle-open"))
    return [
        markers([None], [None], name, {"symbol": symbol, "size": 9, "color": colours[middle]})
        for chosen, name, symbol in kinds
        if chosen.any()
    ]


def markers(x, y, name: str, marker: dict[str, Any], **options: Any) -> go.Scatter:
    """Points of one kind, with their values under the pointer.

    Args:
        x, y: values.
        name: in the legend.
        marker: symbol, size, colour.
        options: of the trace.
    """
    return go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, **({"hoverinfo": "x+y"} | options))


def cross(colour: str) -> dict[str, Any]:
    """The marker of approach 1."""
    return {"symbol": "x-thin", "size": 7, "line": {"width": 1.6, "color": colour}}


def line(x, y, name: str, colour: str, dash: str = "solid", width: float = 2, **options: Any) -> go.Scatter:
    """A curve.

    Args:
        x, y: values.
        name: in the legend.
        colour, dash, width: of the line.
        options: of the trace.
    """
    style = {"color": colour, "dash": dash, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=style, **({"hoverinfo": "skip"} | options))


def band(x, low, high, name: str, colour: str = BAND, **options: Any) -> go.Scatter:
    """An area between two curves.

    Args:
        x, low, high: values.
        name: in the legend.
        colour: of the area.
        options: of the trace.
    """
    outline = {"x": np.r_[x, x[::-1]], "y": np.r_[low, high[::-1]]}
    style = {"fill": "toself", "fillcolor": colour, "line": {"width": 0}, "mode": "lines", "hoverinfo": "skip"}
    return go.Scatter(**outline, **style, name=name, **options)


def error_bars(middle, low, high, colour: str, thickness: float = 1.4) -> dict[str, Any]:
    """Error bars from the middle to both ends.

    Args:
        middle, low, high: values.
        colour, thickness: of the bars.
    """
    middle, low, high = (np.asarray(v, float) for v in (middle, low, high))
    ends = {"array": np.maximum(high - middle, 0), "arrayminus": np.maximum(middle - low, 0)}
    return {"type": "data", "symmetric": False, "thickness": thickness, "width": 4, "color": colour} | ends


def mark_extrapolation(figure: go.Figure, start: float | None, end: float, side: str, **panel: Any) -> None:
    """The extrapolated region of a panel: a line where the fitted runs end, and all beyond it shaded.

    Args:
        figure: with a logarithmic x axis.
        start: largest value that was fitted; None for no such region.
        end: where the axis ends.
        side: on which the label stands, ``top`` or ``bottom``: where the panel is empty.
        panel: its row and column, where there are several.
    """
    if start is None:
        return
    figure.add_vrect(start, end, fillcolor=EXTRAPOLATED, line_width=0, layer="below", **panel)
    figure.add_vline(start, line={"color": NAIVE, "dash": "dot", "width": 1}, layer="below", **panel)
    place: dict[str, Any] = {"x": 1, "xref": "x domain", "y": float(side == "top"), "yref": "y domain"}
    anchor: dict[str, Any] = {"xanchor": "right", "yanchor": side, "showarrow": False}
    figure.add_annotation(text="extrapolation →", font={"color": NAIVE}, **place, **anchor, **panel)


def wrapped(text: str, width: int = 26) -> str:
    """A label of several lines, so that it leaves room for the panel on a narrow screen.

    Args:
        text: of the label.
        width: characters of a line.
    """
    return "<br>".join(textwrap.wrap(text, width))


def log_range(values, below: float, above: float) -> list[float]:
    """Ends of a logarithmic axis.

    Args:
        values: to be shown.
        below, above: margins, as shares of their span in log10 units.
    """
    low, high = np.log10(np.min(values)), np.log10(np.max(values))
    span = max(high - low, 0.05)
    return [low - below * span, high + above * span]
