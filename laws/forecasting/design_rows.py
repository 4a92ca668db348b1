"""Rows of tables that share a design, as surfaces and frontiers are fitted to them: budgets and forecast origins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.data.grouping import separate_budgets
from laws.forecasting.family import Inputs
from laws.inference.resampling import DesignFits

FEWEST_BUDGETS = 2  # below a forecast origin: one says nothing about how the loss falls with compute
FEWEST_ROWS = 8  # below a forecast origin: about as many as the surface has coordinates
DECADE_PARTS = 4  # without separate budgets, runs within a quarter of a decade of compute are one
TOP_ROWS = 6  # the largest runs, which count in full in a local fit: about as many as a surface has coordinates
MOST_ROWS = 1024  # a larger table is thinned to so many rows, which then count for all


class Rows(NamedTuple):
    """The rows of some tables that share a design, thinned where they are many."""

    log_n: Float[np.ndarray, " rows"]
    log_d: Float[np.ndarray, " rows"]
    log_c: Float[np.ndarray, " rows"]
    log_loss: Float[np.ndarray, "tables rows"]
    weight: Float[np.ndarray, " rows"]

    @property
    def inputs(self) -> Inputs:
        """What surfaces are functions of: log parameters and log tokens."""
        return np.stack([self.log_n, self.log_d])

    @classmethod
    def of(cls, fits: DesignFits) -> Rows:
        """The rows of fits of a law of n and d; compute is 6 N D where they have none."""
        log_n, log_d = np.log(fits.columns["n"]), np.log(fits.columns["d"])
        log_c = np.log(fits.columns["c"]) if "c" in fits.columns else np.log(6) + log_n + log_d
        weight = fits.weight / np.bincount(fits.run)[fits.run]  # the rows of one run count as one
        rows = np.arange(len(log_n))
        if len(rows) > MOST_ROWS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
            weight = weight * (weight.sum() / weight[rows].sum())
        return cls(log_n[rows], log_d[rows], log_c[rows], fits.log_loss[:, rows], weight[rows])


def budgets_of(log_c: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Number of the budget of each row, rising with compute."""
    groups = separate_budgets(np.exp(log_c))
    if groups is None:
        groups = np.round(log_c / np.log(10) * DECADE_PARTS).astype(int)
    return np.unique(groups, return_inverse=True)[1].ravel()


def origins_of(budget: Int[np.ndarray, " rows"], most: int) -> list[Bool[np.ndarray, " rows"]]:
    """Rows below each of the last forecast origins.

    Args:
        budget: of each row.
        most: most origins.
    """
    below = [budget <= last for last in range(FEWEST_BUDGETS - 1, budget.max())]
    return [rows for rows in below if rows.sum() >= FEWEST_ROWS][-most:]


def nearness(
    log_n: Float[np.ndarray, " rows"],
    log_loss: Float[np.ndarray, " rows"],
    budget: Int[np.ndarray, " rows"],
    factor: float,
) -> Float[np.ndarray, " rows"]:
    """What each row counts in the score of a forecast: half at a size that is a factor away from the best of its budget.

    Args:
        log_n: log parameters.
        log_loss: measured log losses.
        budget: of each row.
        factor: in size.

    Returns:
        weights that add up to one in every budget.
    """
    out = np.zeros(len(log_n))
    for number in np.unique(budget):
        rows = np.flatnonzero(budget == number)
        best = rows[np.argmin(log_loss[rows])]
        out[rows] = 1 / (1 + ((log_n[rows] - log_n[best]) / np.log(factor)) ** 2)
        out[rows] /= out[rows].sum()
    return out


def below_top(log_c: Float[np.ndarray, " rows"], mask: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Log compute below that of the ``TOP_ROWS`` largest rows; zero for these, so that a local fit has enough rows."""
    largest = np.sort(log_c[mask])[::-1]
    return np.minimum(log_c - largest[min(TOP_ROWS, len(largest)) - 1], 0.0)
