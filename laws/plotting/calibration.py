"""Calibration: the intervals of forecasts beside what was measured, and the share of them that held it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.plotting.panels import Panels
from laws.plotting.style import LAW, NAIVE, SECOND, legend
from laws.uses.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration(result: Calibration, panels: Panels) -> list[Axes]:
    """Every forecast's error with its interval, and the share inside so far, from ``laws.uses.calibration``."""
    from matplotlib.ticker import MaxNLocator

    rows = result.forecasts
    order = np.arange(1, len(rows) + 1)
    predicted = np.array([row.predicted for row in rows])
    ends = 100 * (np.array([row.interval_of_loss for row in rows]) / predicted[:, None] - 1)
    error = 100 * (np.array([row.measured for row in rows]) / predicted - 1)
    inside = np.array([row.covered for row in rows])
    left, right = panels(2)
    left.vlines(order, ends[:, 0], ends[:, 1], color=NAIVE, linewidth=4, alpha=0.5, label="interval of the forecast")
    left.axhline(0, color=NAIVE, linewidth=0.9, linestyle=":")
    for covered, color, marker, label in (
        (True, LAW, "o", "measured, inside"),
        (False, SECOND, "X", "measured, outside"),
    ):
        if (inside == covered).any():
            left.plot(
                order[inside == covered], error[inside == covered], marker, color=color, markersize=5, label=label
            )
    left.set(xlabel="forecast, in order of freezing", ylabel="loss over the forecast, %")
    band = 100 * np.array([row.interval for row in rows])
    right.fill_between(
        order, band[:, 0], band[:, 1], color=LAW, alpha=0.22, linewidth=0, label="95% interval of the share"
    )
    right.plot(order, [100 * row.coverage for row in rows], "o-", color=LAW, markersize=3.4, label="inside so far")
    right.plot(order, [100 * row.nominal for row in rows], ":", color=NAIVE, linewidth=1.2, label="nominal")
    right.set(xlabel="forecasts", ylabel="share inside their intervals, %", ylim=(-3, 103))
    for axes in (left, right):
        axes.set_xlim(0.5, len(rows) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes)
    return [left, right]
