"""What declarations share: an exponent as a constant, and starting values that follow the range of a table."""

from collections.abc import Callable, Mapping

import numpy as np

from laws.model.law import Param

EXPONENT_STARTS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6)


def exponent(name: str, meaning: str, *starts: float, low: float = 1e-3, high: float = 5.0) -> Param:
    """A constant that is an exponent, fitted as it is."""
    return Param(name, meaning, low, high, "linear", starts or EXPONENT_STARTS)


def along(variable: str, *places: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts within the range of a column on a logarithmic scale: 0 is its smallest value, 1 its largest."""

    def starts(rows):
        low, high = np.log(rows[variable].min()), np.log(rows[variable].max())
        return np.exp(low + np.array(places) * (high - low))

    return starts


def of_least(variable: str, *shares: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts as shares of the smallest value of a column."""
    return lambda rows: np.array(shares) * rows[variable].min()


def of_most(variable: str, *shares: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts as shares of the largest value of a column."""
    return lambda rows: np.array(shares) * rows[variable].max()
