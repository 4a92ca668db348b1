"""Conditions on rows, as in ``family == 'lstm' and flops < 1e20``: the part of pandas' query language that only compares.

An expression is checked node by node before pandas evaluates it: names are columns and nothing else, and the only calls are
the tests of ``METHODS``. So no expression, whoever wrote it, reaches anything but the table.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from laws.base.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`([^`]*)`""")
PLACEHOLDER = "column_{}_"
LONGEST = 4000  # characters of an expression: enough for any, and too few to exhaust the parser
LARGEST_POWER = 100.0
METHODS = ("isin", "isna", "isnull", "notna", "notnull")
TEXT_METHODS = ("startswith", "endswith", "contains")
ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.Compare, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.List, ast.Tuple, ast.Name, ast.Load, ast.Constant,
)  # fmt: skip
LANGUAGE = "columns, numbers, 'text', comparisons, in [...], and, or, not, + - * / **"


def select(frame: pd.DataFrame, name: str, where: str) -> pd.DataFrame:
    """The rows for which an expression over the columns holds.

    Args:
        frame: the table, typed (``laws.data.reading``).
        name: of the table, in messages.
        where: comparisons, arithmetic, ``and``, ``or``, ``not``, ``in [...]`` and the tests of ``METHODS`` and
            ``TEXT_METHODS`` (``name.str.contains('tuned')``); a column whose name is no word stands in backticks.

    Raises:
        InputError: an expression that does not parse, says more than that, names an unknown column, is no condition, or
            keeps no row.
    """
    import pandas as pd

    refuse = lambda reason: InputError(f'{name}: cannot apply --where "{where}" ({reason})')
    if len(where) > LONGEST:
        raise InputError(f"{name}: cannot apply --where (longer than {LONGEST} characters)")
    names: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        names.append(match[1])
        return PLACEHOLDER.format(len(names) - 1)

    try:
        tree = ast.parse(QUOTED.sub(placeholder, where).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refuse(f"not an expression: {str(error).splitlines()[0]}") from None
    called = {PLACEHOLDER.format(i): column for i, column in enumerate(names)}
    try:
        columns = _checked(tree, frame, called)
        text = ast.unparse(tree)
    except InputError as error:
        raise refuse(error) from None
    except RecursionError:
        raise refuse("nested too deeply") from None
    values = pd.DataFrame({key: frame[column] for key, column in columns.items()}, index=frame.index)
    try:
        met = values.eval(text, engine="python", local_dict={}, global_dict={})
    except Exception as error:
        raise refuse((str(error).splitlines() or [type(error).__name__])[0]) from error
    if not (isinstance(met, pd.Series) and met.dtype == bool):
        raise refuse("not true or false of each row; write a condition, as in flops < 1e20")
    if not met.any():
        raise InputError(f'{name}: no row satisfies --where "{where}"')
    return frame.loc[met]


def _checked(tree: ast.Expression, frame: pd.DataFrame, called: dict[str, str]) -> dict[str, str]:
    """Checks every node, and makes numbers floats; returns the name of each column in the expression -> the column.

    Raises:
        InputError: what the expression may not say, or a name that is no column.
    """
    columns: dict[str, str] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            node = _method(node)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, str | int | float):
                if not isinstance(node.value, bool):
                    raise InputError(f"{ast.unparse(node)} is neither a number nor text")
            elif isinstance(node.value, int):
                try:
                    node.value = float(node.value)
                except OverflowError:
                    raise InputError(f"{str(node.value)[:8]}... is too large a number") from None
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            if not (isinstance(exponent := _signed(node.right), int | float) and abs(exponent) <= LARGEST_POWER):
                raise InputError(f"an exponent is a number of at most {LARGEST_POWER:g}")
        elif isinstance(node, ast.Name):
            column = called.get(node.id, node.id)
            if column not in frame.columns:
                quote = "" if nearest(column, frame.columns) else f"; text stands in quotes: '{column}'"
                raise InputError(f"no column '{column}'{nearest(column, frame.columns)}{quote}")
            columns[node.id] = column
        elif not isinstance(node, ALLOWED):
            raise InputError(f"'{ast.unparse(node)}' is not of its language: {LANGUAGE}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return columns


def _signed(node: ast.expr) -> object:
    """The number that a constant with a sign spells."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _method(call: ast.Call) -> ast.AST:
    """The parts of a call that remain to be checked, if it is one of the tests that a column has."""
    where = call.func
    if isinstance(where, ast.Attribute) and not call.keywords and len(call.args) <= 1:
        holder = where.value
        if isinstance(holder, ast.Name) and where.attr in METHODS:
            return ast.Tuple([holder, *call.args], ast.Load())
        if isinstance(holder, ast.Attribute) and holder.attr == "str" and isinstance(holder.value, ast.Name):
            text = call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
            if where.attr in TEXT_METHODS and text:
                # Plain text, not a regular expression, of which some take for ever; a missing value holds nothing.
                call.keywords = [ast.keyword("na", ast.Constant(False))]
                if where.attr == "contains":
                    call.keywords.append(ast.keyword("regex", ast.Constant(False)))
                return ast.Tuple([holder.value, *call.args], ast.Load())
    raise InputError(f"'{ast.unparse(call)}' is not of its language: {LANGUAGE}")
