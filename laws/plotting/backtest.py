"""Backtest: the largest budget forecast from each smaller one, beside what was measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.forecasting.backtest import Backtest
from laws.model.variables import VARIABLES
from laws.plotting.panels import MissingFigureData, Panels
from laws.plotting.style import LAW, SECOND, SYMBOLS, legend, log_x, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMED = 0.75  # share of the intervals, the narrowest, that the frame holds
NEAR = 1.0  # it holds forecasts within so many times its height of its middle


def _frame(report: Backtest) -> tuple[float, float]:
    """Ends of the loss axis: around what was measured and most of the intervals, but not the widest."""
    ends = np.array([origin.interval for origin in report.origins])
    narrow = np.argsort(np.ptp(ends, axis=1))[: max(2, int(FRAMED * len(ends)))]
    losses = np.r_[ends[narrow].ravel(), report.measured]
    forecasts = np.array([origin.value for origin in report.origins])
    losses = np.r_[losses, forecasts[np.abs(forecasts - np.median(losses)) < NEAR * np.ptp(losses)]]
    return float(losses.min() - 0.08 * np.ptp(losses)), float(losses.max() + 0.08 * np.ptp(losses))


def backtest(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Forecasts with intervals against the largest compute that was fitted; the last may have been fitted with its target.

    Args:
        fitted: the fit.
        panels: where to draw.

    Raises:
        MissingFigureData: the fit has no backtest.
    """
    report = fitted.report.backtest
    if report is None:
        raise MissingFigureData("the fit has no backtest: its runs lie at too few scales for one")
    origins = report.origins
    (axes,) = panels(1)
    for was_fitted, face, label in ((False, LAW, "forecast"), (True, "white", "fitted with it")):
        chosen = [origin for origin in origins if origin.target_was_fitted == was_fitted]
        if not chosen:
            continue
        loss, ends = np.array([o.value for o in chosen]), np.array([o.interval for o in chosen])
        axes.errorbar(
            [origin.max_fitted for origin in chosen], loss, yerr=np.abs(ends.T - loss), fmt="o", color=LAW, markersize=5,
            markerfacecolor=face, capsize=3, elinewidth=1.2, zorder=3, label=f"{label}, {report.level:.0%} interval",
        )  # fmt: skip
    axes.plot([o.max_fitted for o in origins], [o.value for o in origins], color=LAW, linewidth=0.9, zorder=2)
    axes.axhline(report.measured, color=SECOND, linestyle="--", linewidth=1.2, label="measured", zorder=1)
    low, high = _frame(report)
    axes.set_ylim(low, high)
    for origin in origins:  # a forecast outside the frame: which way, and where
        if not low <= origin.value <= high:
            above = origin.value > high
            axes.annotate(
                f"{origin.value:.3g}", (origin.max_fitted, high if above else low), (5, -3 if above else 3), fontsize=7.5,
                textcoords="offset points", va="top" if above else "bottom",
            )  # fmt: skip
            axes.plot(
                origin.max_fitted, high if above else low, "^" if above else "v", color=LAW, markersize=6, clip_on=False
            )
    log_x(axes, np.array([origin.max_fitted for origin in origins]), 1.3)
    target = f"${VARIABLES[report.variable].symbol}$ = {power(report.target[report.variable])}"
    observable = fitted.observable.partition(" (")[0]
    axes.set(xlabel=f"largest {SYMBOLS[report.variable]} of the fitted runs", ylabel=f"{observable} at {target}")
    legend(axes)
    return [axes]
