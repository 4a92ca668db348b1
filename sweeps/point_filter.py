"""Conditions on the points of a sweep: pandas' query language, the one of `isoflop fit --where`."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.errors import BadInput, nearest

BACKTICKED = re.compile(r"`([^`]+)`")


def names_of(condition: str) -> set[str]:
    """The columns that a condition names, as in {"budget", "model.size"} for "budget < 1e11 and `model.size` > 2e4".

    Raises:
        BadInput: it is no expression.
    """
    quoted = BACKTICKED.findall(condition)
    plain = BACKTICKED.sub(lambda match: f"_column_{quoted.index(match[1])}_", condition)
    try:
        tree = ast.parse(plain.strip(), mode="eval")
    except SyntaxError:
        raise BadInput(f"condition {condition!r}: not an expression; write one as budget <= 1e11") from None
    original = {f"_column_{i}_": name for i, name in enumerate(quoted)}
    dotted = {_dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {None}
    roots = {str(name).partition(".")[0] for name in dotted}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {original.get(name, name) for name in names - roots} | {str(name) for name in dotted}


def select(rows: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> list[int]:
    """The positions of the rows that meet every condition.

    Numbers are compared as float64. A row without a column, or with None in it, meets no comparison with it but "!=".

    Args:
        rows: one a point.
        conditions: as in "budget <= 1e11 and family == 'lstm'"; a column with a dot is written in backticks.

    Raises:
        BadInput: a condition does not parse, names no column of any row, or is not true or false of each row.
    """
    import pandas as pd

    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in columns})
    chosen = pd.Series(True, index=frame.index)
    for condition in conditions:
        names = names_of(condition)
        for name in sorted(names):
            _check_name(condition, name, columns)
        bare = [name for name in names if "." in name and name in columns and f"`{name}`" not in condition]
        if bare:
            raise BadInput(f"condition {condition!r}: write `{bare[0]}` in backticks, since it has a dot")
        try:
            met = frame.eval(condition, engine="python")
        except Exception as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"condition {condition!r}: cannot be applied ({message})") from error
        if not (isinstance(met, pd.Series) and met.dtype == bool):
            raise BadInput(f"condition {condition!r}: not true or false of each point; write one as budget <= 1e11")
        chosen &= met
    return [int(i) for i in frame.index[chosen]]


def _check_name(condition: str, name: str, columns: Sequence[str]) -> None:
    if name in columns:
        return
    root = name.partition(".")[0]
    if root in columns:  # a method of a column, as in family.str.startswith('moe')
        return
    hint = nearest(name, columns) or f" (there are: {', '.join(columns)})"
    raise BadInput(f"condition {condition!r}: no point has {name!r}{hint}")


def _dotted(node: ast.expr) -> str | None:
    """The name a.b.c that a chain of attributes spells; None where it begins with something else than a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None


def _series(values: Sequence[Any]) -> Any:
    import pandas as pd

    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        # Through text, since an integer may be larger than any float: it is infinite then.
        return pd.Series([None if value is None else float(str(value)) for value in values], dtype="float64")
    return pd.Series(list(values), dtype="object")
