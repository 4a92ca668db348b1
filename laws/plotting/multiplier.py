"""The compute multiplier of one recipe over another, against compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laws.plotting.panels import Panels
from laws.plotting.style import LAW, NAIVE, SYMBOLS, legend, log_ticks, log_x

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def multiplier(comparison: dict[str, Any], panels: Panels) -> list[Axes]:
    """How much more compute A needs for what B reaches, from ``laws.uses.compute_multiplier.compare``, with its interval."""
    points = [point for point in comparison["points"] if point["multiplier"] is not None]
    (axes,) = panels(1)
    compute = np.array([point["c"] for point in points])
    axes.plot(compute, [point["multiplier"] for point in points], color=LAW, marker="o", markersize=3.4)
    bounded = [point for point in points if point["interval"]]
    ends = np.array([point["interval"] for point in bounded]).reshape(-1, 2)
    axes.fill_between(
        [point["c"] for point in bounded], ends[:, 0], ends[:, 1], color=LAW, alpha=0.22, linewidth=0,
        label=f"{comparison['level']:.0%} interval",
    )  # fmt: skip
    axes.axhline(1, color=NAIVE, linewidth=0.9, linestyle=":", label="B as good as A")
    axes.set_yscale("log")
    if len(points):
        log_x(axes, compute)
        values = np.concatenate([ends.ravel(), [point["multiplier"] for point in points], [1.0]])
        axes.set_ylim(values.min() / 1.15, values.max() * 1.15)
        log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set(xlabel=f"{SYMBOLS['c']} of A", ylabel="compute multiplier of B")
    legend(axes)
    return [axes]
