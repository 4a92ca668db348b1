"""The forecast of a budget as a function of the floor E: what the mixture of surfaces says where E lies in an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from laws.forecasting.mixture import Predictor
from laws.inference.noise import interval

PARTS = 8  # intervals of E, of equal weight: of a thousand draws each then has 125 for its own interval of the loss


@dataclass(frozen=True)
class FloorForecast:
    """The forecast of a budget's best loss where the floor lies in an interval.

    Args:
        floor_low, floor_high: ends of the interval of E.
        floor: median of E in it.
        weight: of the mixture's draws that have their floor there.
        loss, low, high: median of the mean loss of the best split, and its interval.
        n: median of its parameters.
    """

    floor_low: float
    floor_high: float
    floor: float
    weight: float
    loss: float
    low: float
    high: float
    n: float


def floor_forecasts(predictor: Predictor, compute: float, parts: int = PARTS) -> tuple[FloorForecast, ...]:
    """Forecasts conditional on the floor, from the draws of all surfaces by their weights.

    Args:
        predictor: of a fit whose forecasts are those of surfaces.
        compute: training FLOPs.
        parts: intervals of E, each of the same weight.

    Returns:
        one an interval, by rising floor; none where the forecasts are not those of surfaces, or few draws have a best split.
    """
    if not predictor.of_surfaces or any("E" not in form.law.names for form in predictor.forms if form.weight > 0):
        return ()
    draws, floor = predictor.allocation(compute, draws=True), predictor.floors(compute)[:, 0]
    known = np.isfinite(draws.loss[:, 0])
    if known.sum() < parts:
        return ()
    order = np.argsort(np.where(known, floor, np.inf), kind="stable")[: known.sum()]
    ends = np.quantile(floor[known], np.linspace(0, 1, parts + 1))
    forecasts = []
    for low, high, rows in zip(ends[:-1], ends[1:], np.array_split(order, parts), strict=True):
        losses = draws.loss[rows, 0]
        loss_low, loss_high = interval(losses, predictor.level)
        forecasts.append(
            FloorForecast(
                floor_low=float(low),
                floor_high=float(high),
                floor=float(np.median(floor[rows])),
                weight=len(rows) / int(known.sum()),
                loss=float(np.median(losses)),
                low=float(loss_low),
                high=float(loss_high),
                n=float(np.median(draws.n[rows, 0])),
            )
        )
    return tuple(forecasts)
