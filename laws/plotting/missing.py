"""Refusals of figures for which a fit does not hold the numbers."""

from __future__ import annotations

import importlib.util

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


def require_matplotlib() -> None:
    """Refuses a figure where matplotlib is not installed: nothing else of laws needs it.

    Raises:
        InputError: names the extra that brings it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("figures: matplotlib is not installed: pip install 'isoflop[figures]'")
