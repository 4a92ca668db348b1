"""The interface of contenders in `benchmarks.heldout`: from fitted rows and the points ahead to forecasts of single runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

from benchmarks.heldout_cases import Kind, Points, Rows

LEVELS = (0.5, 0.95)


class CannotForecast(Exception):
    """A table is not for a contender; the message says why."""


@dataclass(frozen=True)
class RunForecasts:
    """Forecasts of the loss of single runs.

    Args:
        median: what is printed as the forecast.
        ends: of the intervals of ``LEVELS`` (levels, low and high, runs); NaN where a contender gives none.
        cpu_seconds: that they took, where they were made elsewhere.
    """

    median: Float[np.ndarray, " runs"]
    ends: Float[np.ndarray, "levels 2 runs"]
    cpu_seconds: float | None = None


Forecast = Callable[[Rows, Points], RunForecasts]


@dataclass(frozen=True)
class Contender:
    """A way to forecast.

    Args:
        about: what it does, for the help.
        forecast: ``(fitted rows, points) -> forecasts``.
        kinds: of tables that it is for.
        needs: module that must be installed.
        version: of what it rests on; kept forecasts of another version are made again.
    """

    about: str
    forecast: Forecast
    kinds: tuple[Kind, ...] = (Kind.SURFACE,)
    needs: str = ""
    version: Callable[[], str] = lambda: "1"


def quantile_ends(draws: Float[np.ndarray, "draws runs"]) -> Float[np.ndarray, "levels 2 runs"]:
    """Central intervals of draws of losses."""
    return np.stack([np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0) for level in LEVELS])


def student_ends(
    centre: Float[np.ndarray, " runs"], deviation: Float[np.ndarray, " runs"], dof: float
) -> Float[np.ndarray, "levels 2 runs"]:
    """Intervals of Student's t around a centre.

    Args:
        centre, deviation: of the log loss.
        dof: degrees of freedom.
    """
    quantiles = np.array([student_t.ppf([(1 - level) / 2, (1 + level) / 2], dof) for level in LEVELS])
    return np.exp(centre + quantiles[:, :, None] * deviation)


def no_ends(count: int) -> Float[np.ndarray, "levels 2 runs"]:
    """The intervals of a contender that gives none."""
    return np.full((len(LEVELS), 2, count), np.nan)
