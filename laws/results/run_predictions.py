"""Predictions of runs as a table: the interval of the mean over repeated runs and that of one run, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.base.errors import InputError
from laws.forecasting.mixture import Predictor
from laws.inference.noise import interval


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predictions of runs under every draw of the model average.

    Args:
        predictor: of the fit.
        columns: variable -> value of each run.
        predicted: losses as they are forecast.
        log_losses: under every draw, without a run's noise.
        index: of the runs.
    """

    predictor: Predictor
    columns: dict[str, Float[np.ndarray, " runs"]]
    predicted: Float[np.ndarray, " runs"]
    log_losses: Float[np.ndarray, "draws runs"]
    index: pd.Index

    def summary_frame(self, level: float | None = None) -> pd.DataFrame:
        """Predictions with both kinds of interval.

        Args:
            level: nominal coverage; by default that of the fit.

        Returns:
            a row a run: ``mean``, ``mean_se``, ``mean_ci_lower`` and ``mean_ci_upper`` (of the mean over repeated
            runs), ``run_ci_lower`` and ``run_ci_upper`` (of one run), and ``extrapolation``, the largest factor by
            which a variable lies outside the fitted runs.
        """
        level = self.predictor.level if level is None else level
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, and is {level}")
        losses = np.exp(self.log_losses)
        known = len(self.predictor.draws) > 0
        mean = interval(losses, level) if known else (np.full(len(self.predicted), np.nan),) * 2
        run = interval(self.predictor.scattered(self.log_losses, self.columns), level)
        return pd.DataFrame(
            {
                "mean": self.predicted,
                "mean_se": losses.std(axis=0, ddof=1) if known else np.nan,
                "mean_ci_lower": mean[0],
                "mean_ci_upper": mean[1],
                "run_ci_lower": run[0],
                "run_ci_upper": run[1],
                "extrapolation": np.exp(self.predictor.distance(self.columns)),
            },
            index=self.index,
        )
