"""Forecasts beside what was measured: the rolling-origin backtest of a fit, and the scores of a log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from laws.plotting.missing import MissingFigureData
from laws.results.results import FitResult
from laws.uses.calibration import Calibration

FRAMED = 0.75  # share of the intervals, the narrowest, that the frame holds
NEAR = 1.0  # it holds forecasts within so many times its height of its middle
MARGIN = 0.08  # of the frame, as a share of what it holds


@dataclass(frozen=True)
class ForecastSeries:
    """Forecasts of one run from ever more runs.

    Args:
        variable: along which runs were left out, as ``c``.
        target: value of the run that is forecast.
        measured: its loss.
        level: of the intervals.
        max_fitted: largest value of the variable that each forecast was fitted to.
        loss, low, high: forecasts with their intervals.
        target_was_fitted: whether a forecast was fitted to the target too.
        frame: ends of a loss axis: around what was measured and most of the intervals, but not the widest.
    """

    variable: str
    target: float
    measured: float
    level: float
    max_fitted: Float[np.ndarray, " origins"]
    loss: Float[np.ndarray, " origins"]
    low: Float[np.ndarray, " origins"]
    high: Float[np.ndarray, " origins"]
    target_was_fitted: Bool[np.ndarray, " origins"]
    frame: tuple[float, float]


def backtest_series(fitted: FitResult) -> ForecastSeries:
    """Forecasts of the largest budget from runs up to each smaller one.

    Raises:
        MissingFigureData: the fit has no backtest.
    """
    report = fitted.report.backtest
    if report is None:
        raise MissingFigureData("the fit has no backtest: its runs lie at too few scales for one")
    loss = np.array([origin.value for origin in report.origins])
    ends = np.array([origin.interval for origin in report.origins])
    return ForecastSeries(
        variable=report.variable,
        target=report.target[report.variable],
        measured=report.measured,
        level=report.level,
        max_fitted=np.array([origin.max_fitted for origin in report.origins]),
        loss=loss,
        low=ends[:, 0],
        high=ends[:, 1],
        target_was_fitted=np.array([origin.target_was_fitted for origin in report.origins]),
        frame=_frame(loss, ends, report.measured),
    )


def _frame(
    loss: Float[np.ndarray, " origins"], ends: Float[np.ndarray, "origins 2"], measured: float
) -> tuple[float, float]:
    """Ends of a loss axis that the widest intervals do not stretch."""
    narrow = np.argsort(np.ptp(ends, axis=1))[: max(2, int(FRAMED * len(ends)))]
    framed = np.r_[ends[narrow].ravel(), measured]
    framed = np.r_[framed, loss[np.abs(loss - np.median(framed)) < NEAR * np.ptp(framed)]]
    margin = MARGIN * np.ptp(framed)
    return float(framed.min() - margin), float(framed.max() + margin)


@dataclass(frozen=True)
class CalibrationSeries:
    """Scored forecasts in the order in which they were frozen.

    Args:
        order: numbers from 1.
        low, high: ends of each interval over the forecast, minus one, in percent.
        error: measured loss over the forecast, minus one, in percent.
        covered: whether the interval held what was measured.
        coverage, coverage_low, coverage_high: share of the intervals so far that did, in percent, and its interval.
        nominal: mean level of the intervals so far, in percent.
    """

    order: Float[np.ndarray, " forecasts"]
    low: Float[np.ndarray, " forecasts"]
    high: Float[np.ndarray, " forecasts"]
    error: Float[np.ndarray, " forecasts"]
    covered: Bool[np.ndarray, " forecasts"]
    coverage: Float[np.ndarray, " forecasts"]
    coverage_low: Float[np.ndarray, " forecasts"]
    coverage_high: Float[np.ndarray, " forecasts"]
    nominal: Float[np.ndarray, " forecasts"]


def calibration_series(result: Calibration) -> CalibrationSeries:
    """Errors and coverage in percent of the forecasts of a score log.

    Args:
        result: from ``laws.uses.calibration.calibration``.
    """
    rows = result.forecasts
    column = lambda name: np.array([getattr(row, name) for row in rows])
    predicted, share = column("predicted"), 100 * column("interval")
    ends = 100 * (column("interval_of_loss") / predicted[:, None] - 1)
    return CalibrationSeries(
        order=np.arange(1, len(rows) + 1),
        low=ends[:, 0],
        high=ends[:, 1],
        error=100 * (column("measured") / predicted - 1),
        covered=column("covered"),
        coverage=100 * column("coverage"),
        coverage_low=share[:, 0],
        coverage_high=share[:, 1],
        nominal=100 * column("nominal"),
    )
