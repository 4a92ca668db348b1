"""Refusals of figures for which a fit does not hold the numbers."""

from __future__ import annotations

from laws.base.errors import InputError
from laws.results.results import FitResult


class MissingFigureData(InputError):
    """A fit does not hold what a figure shows."""


def require_optimum(fitted: FitResult) -> None:
    """Refuses a fit of a law without a compute optimum.

    Raises:
        MissingFigureData: the law does not trade parameters against data.
    """
    if not fitted.law.has_compute_optimum:
        raise MissingFigureData(f"law '{fitted.law.name}' has no compute-optimal split of parameters and data")
