"""What pre-training is worth: losses from scratch and from a parent, and the data transferred that lies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laws.plotting import plot_data
from laws.plotting.panels import Panels, legend_above
from laws.plotting.style import INK, NOTE, SYMBOLS, axis_label, colours, log_x, log_y, short
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def transfer(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss against data from scratch and from a parent, and the data transferred, with the law's curves.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        two panels.

    Raises:
        MissingFigureData: the fit is not of the joint law of transfer.
    """
    from matplotlib.lines import Line2D

    curves = plot_data.transfer_curves(fitted)
    rows = {str(name): column.to_numpy() for name, column in fitted.data.items()}
    measured = plot_data.tokens_transferred(rows)
    left, right = panels(2)
    handles: list[Any] = []
    for curve, colour in zip(curves, colours(len(curves)), strict=True):
        of_size = rows["n"] == curve.n
        for p, line, face in ((0, "--", "white"), (1, "-", colour)):
            chosen = of_size & (rows["pretrained"] == p)
            marker: dict[str, Any] = {"markersize": 4.2, "markeredgecolor": colour, "markerfacecolor": face}
            left.plot(rows["d"][chosen], rows["loss"][chosen], "o", zorder=3, **marker)
            left.plot(curve.d, curve.loss[p], line, color=colour, linewidth=1.2)
        right.plot(curve.d, curve.transferred, color=colour, linewidth=1.2)
        right.fill_between(curve.d, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
        chosen = of_size & (measured > 0)
        right.plot(rows["d"][chosen], measured[chosen], "o", color=colour, markersize=4.2, zorder=3)
        handles.append(Line2D([], [], color=colour, label=f"$N$ = {short(curve.n)}"))
    hidden = int(np.sum((rows["pretrained"] == 1) & ~(measured > 0)))
    if hidden:
        right.set_title(f"{hidden} runs beyond those from scratch", fontsize=8, loc="right", color=NOTE)
    log_x(left, curves[0].d, 1.0)
    log_y(left, rows["loss"], 1.05)
    log_x(right, curves[0].d, 1.0)
    right.set_yscale("log")
    left.set(xlabel=axis_label("d", fitted.report.columns), ylabel=fitted.observable)
    right.set(xlabel=SYMBOLS["finetune_tokens"], ylabel="data transferred $D_T$ (tokens)")
    legend_above([left, right], [*handles, *_legend_handles(fitted, curves)])
    return [left, right]


def _legend_handles(fitted: FitResult, curves: list[plot_data.TransferCurve]) -> list[Any]:
    """Kinds of runs, and the interval where there is one."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 4.2}
    handles: list[Any] = [
        Line2D([], [], label="pre-trained", **dot),
        Line2D([], [], label="from scratch", markerfacecolor="white", linestyle="--", **dot),
    ]
    if np.isfinite(curves[0].low).any():
        level = f"{fitted.report.intervals.level:.0%}"
        handles.append(Patch(facecolor=INK, alpha=0.12, label=f"{level} interval of the data transferred"))
    return handles
