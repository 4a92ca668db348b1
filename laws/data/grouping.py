"""Groups of rows: those of one compute budget, those equal in some columns, and the best run of each budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

SAME_BUDGET = 0.1  # runs within this relative distance of the smallest of a budget belong to it
NAMED = 0.05  # a budget is named by a number of FLOPs if one of its runs lies within this relative distance
CLOSEST = 2e-3  # gaps in log compute below this are none
APART = 2.0  # gaps between budgets are at least so many times those inside
ROWS_PER_BUDGET = 2  # on average, at least
LOOSEST = 0.6  # log compute that a budget spans at most
DIGITS = 12  # significant digits up to which two numbers are equal


def budget_groups(compute: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Number of the budget of each row: rows within ``SAME_BUDGET`` of the smallest of a budget share it."""
    number, count, start = np.empty(len(compute), int), -1, -np.inf
    for row in np.argsort(compute, kind="stable"):
        if compute[row] > start * (1 + SAME_BUDGET) or count < 0:
            count, start = count + 1, compute[row]
        number[row] = count
    return number


def separate_budgets(compute: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"] | None:
    """Number of the budget of each row, where the computes of a table fall into groups; None where they are spread out.

    The groups are those between which the gaps in log compute are the widest against the gaps inside. They may be loose:
    a budget holds runs at 0.75 to 1.25 times its FLOPs where compute is 6 N D and the sweep counted otherwise.
    """
    order = np.argsort(compute, kind="stable")
    log_compute = np.log(compute[order])
    gaps = np.maximum(np.diff(log_compute), CLOSEST)
    widths = np.sort(gaps)[::-1]
    best, groups = APART, None
    for between, inside in zip(widths, np.r_[widths[1:], CLOSEST], strict=True):  # the narrowest gap between two groups
        group = np.cumsum(np.r_[0, gaps >= between])
        if group[-1] + 1 > len(compute) / ROWS_PER_BUDGET:
            break
        ends = np.flatnonzero(np.diff(group, append=group[-1] + 1))
        spans = log_compute[ends] - log_compute[np.r_[0, ends[:-1] + 1]]
        if between / inside >= best and spans.max() <= LOOSEST:
            best, groups = between / inside, group
    if groups is None:
        return None
    number = np.empty(len(compute), int)
    number[order] = groups
    return number


def named_budget(compute: Float[np.ndarray, " rows"], flops: float) -> Bool[np.ndarray, " rows"]:
    """The rows of the budget that a number of FLOPs names: it lies among its runs, or within ``NAMED`` of one of them.

    Nothing is named in a table whose computes are spread out, or by a number that lies between two budgets.

    Args:
        compute: FLOPs of each row.
        flops: the number, which need not be that of any row.
    """
    budget = separate_budgets(compute)
    if budget is None:
        return np.zeros(len(compute), bool)
    distance = np.abs(np.log(compute / flops))
    nearest = budget == budget[np.argmin(distance)]
    inside = compute[nearest].min() <= flops <= compute[nearest].max()
    return nearest if inside or distance.min() <= np.log1p(NAMED) else np.zeros(len(compute), bool)


def above_budget(compute: Float[np.ndarray, " rows"], flops: float) -> Bool[np.ndarray, " rows"]:
    """The rows with more compute than a budget, no budget being cut in two.

    Args:
        compute: FLOPs of each row.
        flops: where the budget that this number names ends; where it names none, the number itself.
    """
    same = np.abs(compute / flops - 1) < 10.0**-DIGITS
    return (compute > flops) & ~same & ~named_budget(compute, flops)


def at_budget(compute: Float[np.ndarray, " rows"], flops: float, near: float = NAMED) -> Bool[np.ndarray, " rows"]:
    """The rows that measure a compute: the whole budget that it names, else those near it.

    Args:
        compute: FLOPs of each row.
        flops: the compute.
        near: relative distance of a row that counts where no budget is named.
    """
    named = named_budget(compute, flops)
    return named if named.any() else np.abs(compute / flops - 1) <= near


def frontier(compute: Float[np.ndarray, " rows"], loss: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " points"]:
    """Rows of the best run at each budget, by compute, those beaten by a cheaper run left out."""
    group = budget_groups(compute)
    best = np.array([min(np.flatnonzero(group == g), key=lambda row: loss[row]) for g in np.unique(group)])
    best = best[np.argsort(compute[best])]
    return best[loss[best] <= np.minimum.accumulate(loss[best])]


def equal_rows(*columns: Any) -> Int[np.ndarray, " rows"]:
    """Number of the group of each row, rows being equal in all columns: numbers to ``DIGITS`` digits, missing as missing.

    Args:
        columns: arrays or Series of one length, at least one; numbers, truth values or text.
    """
    import pandas as pd

    group = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values = np.asarray(column)
        codes, levels = pd.factorize(_rounded(values) if values.dtype.kind == "f" else values, use_na_sentinel=True)
        pairs = group * (len(levels) + 1) + codes + 1
        group = np.unique(pairs, return_inverse=True)[1].ravel()
    return group


def equal_points(
    values: Mapping[str, Float[np.ndarray, " rows"]], variables: tuple[str, ...], rows: int
) -> Int[np.ndarray, " rows"]:
    """Number of the group of each row, rows being equal in those of the variables that there are; alone, if there are none.

    Args:
        values: variable -> numbers.
        variables: those that are compared.
        rows: how many there are.
    """
    present = [values[variable] for variable in variables if variable in values]
    return equal_rows(*present) if present else np.arange(rows)


def _rounded(values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Numbers to ``DIGITS`` significant digits."""
    finite = np.isfinite(values) & (values != 0)
    exponent = np.zeros(len(values))
    exponent[finite] = np.floor(np.log10(np.abs(values[finite])))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values / 10.0**exponent
        return np.where(finite, np.round(scaled, DIGITS - 1) * 10.0**exponent, values)
