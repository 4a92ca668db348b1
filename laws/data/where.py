"""The rows of a table for which a condition holds (`isoflop fit --where`); the language is ``conditions.expressions``'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conditions import expressions
from laws.base.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd


def select(frame: pd.DataFrame, name: str, where: str) -> pd.DataFrame:
    """The rows for which an expression over the columns holds.

    Args:
        frame: the table, typed (``laws.data.reading``).
        name: of the table, in messages.
        where: a condition (``conditions.expressions``); a column whose name is no word stands in backticks.

    Raises:
        InputError: an expression that does not parse, says more than a condition may, names an unknown column, is no
            condition, or keeps no row.
    """
    shown = f'where "{where}"' if len(where) <= expressions.LONGEST else "where"
    try:
        condition = expressions.parse(where)
        for column in condition.columns.values():
            if column not in frame.columns:
                hint = nearest(column, frame.columns) or f"; text stands in quotes: '{column}'"
                raise expressions.Refused(f"no column '{column}'{hint}")
        met = expressions.rows_that_meet(condition, frame, frame.index)
    except expressions.Refused as error:
        raise InputError(f"{name}: cannot apply {shown} ({error})") from error
    if not met.any():
        raise InputError(f"{name}: no row satisfies {shown}")
    return frame.loc[met]
