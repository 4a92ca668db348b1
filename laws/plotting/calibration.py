"""Calibration: the intervals of forecasts beside what was measured, and the share of them that held it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.plotting import plot_data
from laws.plotting.panels import Panels
from laws.plotting.style import LAW, NAIVE, SECOND, legend
from laws.uses.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration(result: Calibration, panels: Panels) -> list[Axes]:
    """Every forecast's error with its interval, and the share inside so far.

    Args:
        result: from ``laws.uses.calibration.calibration``.
        panels: where to draw.

    Returns:
        two panels: errors in percent, and coverage in percent.
    """
    from matplotlib.ticker import MaxNLocator

    series = plot_data.calibration_series(result)
    order = series.order
    left, right = panels(2)
    left.vlines(order, series.low, series.high, color=NAIVE, linewidth=4, alpha=0.5, label="interval of the forecast")
    left.axhline(0, color=NAIVE, linewidth=0.9, linestyle=":")
    for chosen, color, marker, label in (
        (series.covered, LAW, "o", "measured, inside"),
        (~series.covered, SECOND, "X", "measured, outside"),
    ):
        if chosen.any():
            left.plot(order[chosen], series.error[chosen], marker, color=color, markersize=5, label=label)
    left.set(xlabel="forecast, in order of freezing", ylabel="loss over the forecast (%)")
    lengths = np.stack([series.coverage - series.coverage_low, series.coverage_high - series.coverage])
    right.errorbar(
        order, series.coverage, yerr=np.maximum(lengths, 0), fmt="o", color=LAW, markersize=3.4, capsize=2.5,
        elinewidth=1, label="inside so far, 95% interval",
    )  # fmt: skip
    right.hlines(series.nominal, order - 0.5, order + 0.5, color=NAIVE, linewidth=1.2, linestyle=":", label="nominal")
    right.set(xlabel="forecasts", ylabel="share inside their intervals (%)", ylim=(-3, 103))
    for axes in (left, right):
        axes.set_xlim(0.5, len(order) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend(axes)
    return [left, right]
