"""What figures are made of: colours, axes, dots, curves, bands and whiskers.

Colours name no theme: paper, grid and text take theirs from the page, in light, in dark and in print.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from isoflop.report.markup import count, number, power_of_ten
from isoflop.report.study import Frame

MEASURED = (
    "#CC79A7"  # with those of `laws.plotting.style`, of Okabe and Ito's palette: told apart with any colour vision
)
BAND = "rgba(0,114,178,0.18)"
BUDGETS, FROM_TO = "Viridis", (0.2, 0.88)  # neither so dark nor so light that it would vanish
AXES = {"n": "parameters N", "d": "training data D", "c": "training FLOPs C", "loss": "loss (nats)"}


def colour_of(points: Frame) -> dict[int, str]:
    """A colour for each budget, in order of compute."""
    numbers = sorted(points["budget"].unique())
    places = np.linspace(*FROM_TO, len(numbers)) if len(numbers) > 1 else [0.4]
    return {n: str(colour) for n, colour in zip(numbers, sample_colorscale(BUDGETS, list(places)), strict=True)}


def axis(variable: str, values) -> dict[str, Any]:
    """A logarithmic axis, ticks at 1, 2 and 5 of every decade where there are few, as in 20k."""
    found = {"type": "log", "title": {"text": AXES[variable]}}
    low, high = np.log10(np.min(values)), np.log10(np.max(values))
    if variable in ("c", "loss"):
        return found | ({"dtick": "D2" if high - low < 2.5 else 1} if variable == "c" else {})
    steps = (1, 2, 5) if high - low < 2.5 else (1, 3) if high - low < 4 else (1,)
    at = [step * 10.0**k for k in range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1) for step in steps]
    return found | {"tickvals": at, "ticktext": [count(value, 1) for value in at]}


def labelled(points: Frame) -> list[str]:
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


def marks(points: Frame, x: str, y: str, colour: str, scale: float = 1.0, **more: Any) -> go.Scatter:
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
