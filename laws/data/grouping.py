"""Runs of one budget, and the best of them: which rows of a table share their compute, and which no cheaper run beats."""

import numpy as np
from jaxtyping import Float, Int

SAME_BUDGET = 0.1  # runs within this relative distance of the smallest of a budget belong to it


def budget_groups(compute: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Number of the budget of each row: rows within ``SAME_BUDGET`` of the smallest of a budget share it."""
    number, count, start = np.empty(len(compute), int), -1, -np.inf
    for row in np.argsort(compute, kind="stable"):
        if compute[row] > start * (1 + SAME_BUDGET) or count < 0:
            count, start = count + 1, compute[row]
        number[row] = count
    return number


def frontier(compute: Float[np.ndarray, " rows"], loss: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " points"]:
    """Rows of the best run at each budget, by compute, those beaten by a cheaper run left out."""
    group = budget_groups(compute)
    best = np.array([min(np.flatnonzero(group == g), key=lambda row: loss[row]) for g in np.unique(group)])
    best = best[np.argsort(compute[best])]
    return best[loss[best] <= np.minimum.accumulate(loss[best])]
