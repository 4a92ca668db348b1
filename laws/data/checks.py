"""Checks of a table's numbers: finite and positive columns, units that fit together, rows that were copied.

A check refuses what is proven wrong. What it only guesses it warns of, or refuses with the name of the flag that
overrules it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError, listed, nearest
from laws.data.grouping import equal_rows
from laws.data.reading import as_numbers
from laws.model.variables import VARIABLES, column_flag

if TYPE_CHECKING:
    import pandas as pd

# What stands for the column of a variable that follows from the two others.
SIX_ND = "6ND"
DERIVED = {"c": SIX_ND, "n": "C/6D", "d": "C/6N"}
SAME = 1e-3  # relative difference below which C counts as 6 N D
SETTLED = 1e-6  # relative difference below which C was computed as 6 N D from these very columns
# Where no column of C settles their units:
FEWEST_TOKENS = 1e6  # data below this are looked at
FEWEST_PARAMS = 1e3  # sizes below this are taken for millions or billions, beside so few tokens
SMALL = 1e5  # sizes and data below this, with less than one token a parameter, are taken for millions and billions
TOKENS_PER_PARAM = (1e-5, 1e7)  # between which the units of N and D make sense
# C over 6 N D: between the inner two nothing is said, beyond the outer two the unit of C is taken for another one.
USUAL_COST = (1e-2, 1e3)
POSSIBLE_COST = (1e-4, 3e5)
OVERRULE, OVERRULING_FLAG = "if it is right as it stands, check_units=False", "--check_units=false"


def column_numbers(frame: pd.DataFrame, name: str, variable: str, column: str) -> Float[np.ndarray, " rows"]:
    """One mapped column as finite numbers, positive unless its variable may be otherwise; messages count rows from 1.

    Args:
        frame: the rows, by their number in the file.
        name: of the table, in messages.
        variable: a key of ``VARIABLES``, or ``loss``, ``loss_stderr`` or ``best_by``.
        column: where it is.

    Raises:
        InputError: no such column, or values that are not finite, zero or negative.
    """
    if column not in frame.columns:
        hint = nearest(column, frame.columns) or f" (columns: {listed(frame.columns)})"
        raise InputError(f"{name}: no column '{column}' for {variable}{hint}", flag=column_flag(variable))
    numbers = as_numbers(frame[column])
    positive = variable not in VARIABLES or VARIABLES[variable].positive
    for bad, what in (
        (~np.isfinite(numbers), "not a finite number"),
        (positive & (numbers == 0), "zero"),
        (positive & (numbers < 0), "negative"),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{name}: column '{column}' is {what} in {int(bad.sum())} of {len(numbers)} rows, first in row "
                f"{frame.index[row] + 1} ({frame[column].iloc[row]}); leave such rows out with where",
                flag="--where=CONDITION",
            )
    return numbers


def standard_errors(
    frame: pd.DataFrame, name: str, column: str, loss: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """Standard errors of the losses. Weights are 1 / error^2 here and nowhere else, so that no table can invert them.

    Args:
        frame: the table.
        name: of the table, in messages.
        column: of the standard errors.
        loss: measured losses.

    Raises:
        InputError: as ``column_numbers``, or an error that exceeds its loss.
    """
    errors = column_numbers(frame, name, "loss_stderr", column)
    beyond = errors >= loss
    if beyond.any():
        raise InputError(
            f"{name}: column '{column}' is no standard error of the loss: it exceeds the loss itself in "
            f"{int(beyond.sum())} of {len(loss)} rows (it must be a standard deviation, not a weight 1 / variance)"
        )
    return errors


def check_copies(frame: pd.DataFrame, name: str) -> None:
    """Refuses rows that are equal in every column: one run counted twice.

    Raises:
        InputError: names the rows, and the argument that keeps them.
    """
    group = equal_rows(*(frame[column] for column in frame.columns))
    counts = np.bincount(group)
    if counts.max() > 1:
        first = group[np.flatnonzero(counts[group] > 1)[0]]
        rows = frame.index[group == first] + 1
        raise InputError(
            f"{name}: {int((counts - 1).sum())} rows are copies: rows {', '.join(map(str, rows[:3]))} are equal in every "
            "column (if they are different runs, keep_copies=True)",
            flag="--keep_copies",
        )


def check_units(
    name: str, values: Mapping[str, Float[np.ndarray, " rows"]], columns: Mapping[str, str]
) -> tuple[str, ...]:
    """Looks for sizes, data or compute in other units, which would move every constant without a word.

    Args:
        name: of the table, in messages.
        values: variable -> numbers; nothing is looked at without ``n`` and ``d``.
        columns: variable -> column, or what ``DERIVED`` has of a variable that no column states.

    Returns:
        warnings.

    Raises:
        InputError: units that cannot be, or that are taken for others; then with the argument that overrules it.
    """
    if not {"n", "d"} <= set(values):
        return ()
    n, d, c = values["n"], values["d"], values["c"]
    described = lambda variable: f"{name}: column '{columns[variable]}' ({values[variable].max():.4g} at most)"
    cost = c / (6 * n * d)
    has_compute = all(columns[variable] != column for variable, column in DERIVED.items())  # beside N and D
    if has_compute and np.all(np.abs(cost - 1) < SETTLED) and min(n.min(), d.min()) >= 1:
        return ()
    ratio, middle = float(np.median(d / n)), float(np.median(cost))
    # A column of compute that fits N and D settles their units.
    few = d.max() < FEWEST_TOKENS and not (has_compute and POSSIBLE_COST[0] < middle < POSSIBLE_COST[1])
    if d.min() < 1 or (few and (np.any(d != np.round(d)) or n.max() < FEWEST_PARAMS or ratio < TOKENS_PER_PARAM[0])):
        raise InputError(
            f"{described('d')} looks like millions or billions of tokens: give tokens; {OVERRULE}", flag=OVERRULING_FLAG
        )
    if few and max(n.max(), d.max()) < SMALL and ratio < 1:
        raise InputError(
            f"{described('d')} is {ratio:.2g} tokens a parameter for sizes of {n.max():.4g} at most: give parameters and "
            f"tokens; {OVERRULE}",
            flag=OVERRULING_FLAG,
        )
    if n.min() < 1 or ratio > TOKENS_PER_PARAM[1]:
        raise InputError(
            f"{described('n')} looks like millions or billions of parameters: give parameters; {OVERRULE}",
            flag=OVERRULING_FLAG,
        )
    if ratio < TOKENS_PER_PARAM[0]:
        raise InputError(
            f"{described('d')} is {ratio:.2g} tokens a parameter: give tokens; {OVERRULE}", flag=OVERRULING_FLAG
        )
    if not POSSIBLE_COST[0] < middle < POSSIBLE_COST[1]:
        raise InputError(
            f"{described('c')} is {middle:.2g} times 6 N D: give training FLOPs, parameters and tokens; {OVERRULE}",
            flag=OVERRULING_FLAG,
        )
    if not USUAL_COST[0] < middle < USUAL_COST[1]:
        return (f"column '{columns['c']}' is {middle:.2g} times 6 N D: are these the training FLOPs?",)
    return ()
