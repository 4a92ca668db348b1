"""A law of a single variable along it, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.plotting.missing import MissingFigureData
from laws.plotting.plot_data.runs import CURVE_POINTS, predicted
from laws.results.results import FitResult

BEYOND = 2.0  # factor by which the law is drawn beyond the runs


@dataclass(frozen=True)
class VariableBand:
    """A law along its single variable.

    Args:
        variable: its name.
        largest: value of the fitted runs.
        values: of the variable.
        loss, low, high: predicted there, with the interval of the law; NaN without resamples.
    """

    variable: str
    largest: float
    values: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def variable_band(fitted: FitResult) -> VariableBand:
    """The predictions of a law of a single variable, over the runs and a factor ``BEYOND`` further.

    Raises:
        MissingFigureData: the law reads several variables.
    """
    if len(fitted.law.columns) != 1:
        raise MissingFigureData(
            f"law '{fitted.law.name}' reads {len(fitted.law.columns)} columns, and not a single one"
        )
    (variable,), predictor = fitted.law.columns, fitted.predictor
    runs = fitted.data[variable].to_numpy(float)
    values = np.geomspace(runs.min(), runs.max() * BEYOND, CURVE_POINTS)
    low = high = np.full(CURVE_POINTS, np.nan)
    if len(predictor.draws):
        low, high = interval(np.exp(log_predictions(fitted.law, predictor.draws, {variable: values})), predictor.level)
    return VariableBand(variable, float(runs.max()), values, predicted(fitted, {variable: values}), low, high)
