"""Conditions on the points of a sweep, in the language of `isoflop fit --where` (``conditions.expressions``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from conditions import expressions
from training.errors import BadInput, nearest


def names_of(condition: str) -> set[str]:
    """The columns that a condition names, as in {"budget", "model.size"} for "budget < 1e11 and `model.size` > 2e4".

    Raises:
        BadInput: it is no expression, or says more than a condition may.
    """
    return set(_parsed(condition).columns.values())


def select(rows: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> list[int]:
    """The positions of the rows that meet every condition.

    Numbers are compared as float64. A row without a column, or with None in it, meets no comparison with it but "!=".

    Args:
        rows: one a point.
        conditions: as in "budget <= 1e11 and family == 'lstm'"; a column with a dot is written in backticks.

    Raises:
        BadInput: a condition does not parse, says more than one may, names no column of any row, or is not true or false
            of each row.
    """
    import pandas as pd

    columns = list(dict.fromkeys(name for row in rows for name in row))
    series = {name: _series([row.get(name) for row in rows]) for name in columns}
    index = pd.RangeIndex(len(rows))
    chosen = pd.Series(True, index=index)
    for text in conditions:
        condition = _parsed(text)
        for name in sorted(condition.columns.values()):
            if name not in columns:
                hint = nearest(name, columns) or f" (there are: {', '.join(columns)})"
                raise BadInput(f"condition {text!r}: no point has {name!r}{hint}")
        try:
            chosen &= expressions.rows_that_meet(condition, series, index)
        except expressions.Refused as error:
            raise BadInput(f"condition {text!r}: cannot be applied ({error})") from error
    return [i for i, met in enumerate(chosen) if met]


def _parsed(condition: str) -> expressions.Condition:
    try:
        return expressions.parse(condition)
    except expressions.Refused as error:
        shown = f"{condition!r}" if len(condition) <= expressions.LONGEST else "of --where"
        raise BadInput(f"condition {shown}: {error}") from error


def _series(values: Sequence[Any]) -> Any:
    import pandas as pd

    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        # Through text, since an integer may be larger than any float: it is infinite then.
        return pd.Series([None if value is None else float(str(value)) for value in values], dtype="float64")
    return pd.Series(list(values), dtype="object")
