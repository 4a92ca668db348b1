"""What declarations share: exponents as constants, and starting values that follow the range of a column."""

from collections.abc import Callable, Mapping

import numpy as np

from laws.model.law import Param

EXPONENT_STARTS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6)


def exponent(name: str, meaning: str, *starts: float, low: float = 1e-3, high: float = 5.0) -> Param:
    """A constant that is an exponent, fitted on a linear scale.

    Args:
        name: of the constant.
        meaning: a few words for people.
        starts: of the multi-start; by default ``EXPONENT_STARTS``.
        low: lower bound.
        high: upper bound.

    Example:
        >>> exponent("alpha", "exponent of size", 0.2, 0.5).starts
        (0.2, 0.5)
    """
    return Param(name, meaning, low, high, "linear", starts or EXPONENT_STARTS)


def along(variable: str, *places: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts within the range of a column, by their place on its logarithmic scale.

    Args:
        variable: of the column, or ``loss``.
        places: 0 is the smallest value of the column, 1 the largest; others lie between or beyond.

    Example:
        >>> along("n", 0.0, 0.5, 1.0)({"n": np.array([1e6, 1e8])}).round()
        array([1.e+06, 1.e+07, 1.e+08])
    """

    def starts(rows):
        low, high = np.log(rows[variable].min()), np.log(rows[variable].max())
        return np.exp(low + np.array(places) * (high - low))

    return starts


def of_least(variable: str, *shares: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts as multiples of the smallest value of a column.

    Args:
        variable: of the column, or ``loss``.
        shares: the multiples.

    Example:
        >>> of_least("loss", 0.5, 0.9)({"loss": np.array([2.0, 3.0])})
        array([1. , 1.8])
    """
    return lambda rows: np.array(shares) * rows[variable].min()


def of_most(variable: str, *shares: float) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Starts as multiples of the largest value of a column, as ``of_least`` of the smallest."""
    return lambda rows: np.array(shares) * rows[variable].max()
