"""The compute multiplier of one recipe over another, against compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.plotting.panels import Panels
from laws.plotting.style import LAW, NAIVE, SYMBOLS, legend, log_ticks, log_x
from laws.uses.compute_multiplier import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def multiplier(comparison: Comparison, panels: Panels) -> list[Axes]:
    """Compute multiplier of B over A, with its interval, against the compute of A.

    Args:
        comparison: from ``laws.compare``.
        panels: where to draw.

    Returns:
        one panel.
    """
    points = comparison.frame().dropna(subset="multiplier")
    (axes,) = panels(1)
    compute = points["c"].to_numpy()
    axes.plot(compute, points["multiplier"], color=LAW, marker="o", markersize=3.4, label="multiplier")
    bounded = points.dropna(subset=["low", "high"])
    axes.fill_between(
        bounded["c"], bounded["low"], bounded["high"], color=LAW, alpha=0.22, linewidth=0,
        label=f"{comparison.level:.0%} interval",
    )  # fmt: skip
    axes.axhline(1, color=NAIVE, linewidth=0.9, linestyle=":", label="B as good as A")
    axes.set_yscale("log")
    if len(points):
        log_x(axes, compute)
        shown = np.concatenate([bounded["low"], bounded["high"], points["multiplier"], [1.0]])
        axes.set_ylim(shown.min() / 1.15, shown.max() * 1.15)
        log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set(xlabel=f"{SYMBOLS['c']} of A", ylabel="compute multiplier of B")
    legend(axes)
    return [axes]
