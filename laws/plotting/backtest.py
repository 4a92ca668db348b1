"""Backtest: the largest budget forecast from each smaller one, beside what was measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.model.variables import VARIABLES
from laws.plotting import plot_data
from laws.plotting.panels import Panels
from laws.plotting.style import LAW, SECOND, axis_label, legend, log_x, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def backtest(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Forecasts with intervals against the largest compute that was fitted; the last may have been fitted with its target.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the fit has no backtest.
    """
    series = plot_data.backtest_series(fitted)
    (axes,) = panels(1)
    for was_fitted, face, label in ((False, LAW, "forecast"), (True, "white", "fitted with it")):
        chosen = series.target_was_fitted == was_fitted
        if not chosen.any():
            continue
        lengths = np.abs(np.stack([series.low, series.high]) - series.loss)[:, chosen]
        axes.errorbar(
            series.max_fitted[chosen], series.loss[chosen], yerr=lengths, fmt="o", color=LAW, markersize=5,
            markerfacecolor=face, capsize=3, elinewidth=1.2, zorder=3, label=f"{label}, {series.level:.0%} interval",
        )  # fmt: skip
    axes.plot(series.max_fitted, series.loss, color=LAW, linewidth=0.9, zorder=2)
    axes.axhline(series.measured, color=SECOND, linestyle="--", linewidth=1.2, label="measured", zorder=1)
    axes.set_ylim(*series.frame)
    _mark_outside(axes, series)
    log_x(axes, series.max_fitted, 1.3)
    variable = series.variable
    target = f"${VARIABLES[variable].symbol}$ = {power(series.target)}"
    largest = f"largest {axis_label(variable, fitted.report.columns)} of the fitted runs"
    axes.set(xlabel=largest, ylabel=f"{fitted.observable} at {target}")
    legend(axes)
    return [axes]


def _mark_outside(axes: Axes, series: plot_data.ForecastSeries) -> None:
    """Triangles at the edge where a forecast lies outside the frame: which way, and its value."""
    low, high = series.frame
    for largest, loss in zip(series.max_fitted, series.loss, strict=True):
        if low <= loss <= high:
            continue
        above = loss > high
        edge, marker, offset, alignment = (high, "^", -3, "top") if above else (low, "v", 3, "bottom")
        axes.annotate(
            f"{loss:.3g}", (largest, edge), (5, offset), fontsize=7.5, textcoords="offset points", va=alignment
        )
        axes.plot(largest, edge, marker, color=LAW, markersize=6, clip_on=False)
