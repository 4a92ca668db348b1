"""Conditions as in ``family == 'lstm' and flops < 1e20``: the part of pandas' query language that only compares.

An expression is checked node by node before pandas evaluates it: names are columns and nothing else, and the only calls are
the tests of ``METHODS`` and ``TEXT_METHODS``. So no expression, whoever wrote it, reaches anything but the table.
``Refused`` holds the reason alone; whoever catches it names the table or the flag.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


class Refused(ValueError):
    """An expression that is no condition, or says more than one may; the message is the reason, in one line."""


@dataclass(frozen=True)
class Condition:
    """A checked condition.

    Args:
        text: what pandas evaluates: columns under plain names, numbers as floats.
        columns: name in ``text`` -> column of the table, in the order in which they are first named.
    """

    text: str
    columns: dict[str, str]


def parse(expression: str) -> Condition:
    """A condition from its expression, every node checked.

    Args:
        expression: comparisons, arithmetic, ``and``, ``or``, ``not``, ``in [...]`` and the tests of ``METHODS`` and
            ``TEXT_METHODS`` (``name.str.contains('tuned')``); a column whose name is no word stands in backticks.

    Raises:
        Refused: an expression that does not parse, or says more than that.

    Example:
        >>> parse("budget < 1e11 and `model.size` > 2").columns
        {'budget': 'budget', 'column_0_': 'model.size'}
    """
    if len(expression) > LONGEST:
        raise Refused(f"longer than {LONGEST} characters")
    quoted: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        quoted.append(match[1])
        return PLACEHOLDER.format(len(quoted) - 1)

    try:
        tree = ast.parse(QUOTED.sub(placeholder, expression).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"not an expression: {str(error).splitlines()[0]}") from None
    column_of = {PLACEHOLDER.format(i): column for i, column in enumerate(quoted)}
    try:
        names = _checked(tree)
        return Condition(ast.unparse(tree), {name: column_of.get(name, name) for name in names})
    except RecursionError:
        raise Refused("nested too deeply") from None


def rows_that_meet(condition: Condition, columns: pd.DataFrame | Mapping[str, pd.Series], index: pd.Index) -> pd.Series:
    """Whether each row of a table meets a condition; no value but those of its columns takes part.

    Args:
        condition: from ``parse``.
        columns: the table, or column -> values for every column of the condition.
        index: of the table.

    Raises:
        Refused: values that cannot be compared so, or an expression that is not true or false of each row.
    """
    import pandas as pd

    values = pd.DataFrame({name: columns[column] for name, column in condition.columns.items()}, index=index)
    met: object
    try:
        met = values.eval(condition.text, engine="python", local_dict={}, global_dict={})
    except Exception as error:
        raise Refused((str(error).splitlines() or [type(error).__name__])[0]) from error
    if not (isinstance(met, pd.Series) and met.dtype == bool):
        raise Refused("not true or false of each row; write a condition, as in flops < 1e20")
    return met


def _checked(tree: ast.Expression) -> list[str]:
    """Checks every node, and makes numbers floats; returns the names in the expression.

    Raises:
        Refused: what the expression may not say.
    """
    names: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            node = _method(node)
        elif isinstance(node, ast.Constant):
            node.value = _constant(node)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            if not (isinstance(exponent := _signed(node.right), int | float) and abs(exponent) <= LARGEST_POWER):
                raise Refused(f"an exponent is a number of at most {LARGEST_POWER:g}")
        elif isinstance(node, ast.Name):
            names[node.id] = None
        elif isinstance(node, ast.Attribute) and (dotted := _dotted(node)):
            raise Refused(
                f"'{dotted}' is not of its language: {LANGUAGE}; for a column of that name write `{dotted}` in backticks"
            )
        elif not isinstance(node, ALLOWED):
            raise Refused(f"'{ast.unparse(node)}' is not of its language: {LANGUAGE}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return list(names)


def _constant(node: ast.Constant) -> bool | str | float:
    """A constant of the language, whole numbers as floats."""
    if isinstance(node.value, bool | str | float):
        return node.value
    if not isinstance(node.value, int):
        raise Refused(f"{ast.unparse(node)} is neither a number nor text")
    try:
        return float(node.value)
    except OverflowError:
        raise Refused(f"{str(node.value)[:8]}... is too large a number") from None


def _dotted(node: ast.expr) -> str | None:
    """The name a.b.c that a chain of attributes spells; None where it begins with something else than a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value)
        return None if start is None else f"{start}.{node.attr}"
    return None


def _signed(node: ast.expr) -> object:
    """The number that a constant with a sign spells."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _method(call: ast.Call) -> ast.AST:
    """The parts of a call that remain to be checked, if it is one of the tests that a column has."""
    function = call.func
    if isinstance(function, ast.Attribute) and not call.keywords and len(call.args) <= 1:
        holder = function.value
        if isinstance(holder, ast.Name) and function.attr in METHODS:
            return ast.Tuple([holder, *call.args], ast.Load())
        if isinstance(holder, ast.Attribute) and holder.attr == "str" and isinstance(holder.value, ast.Name):
            text = call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
            if function.attr in TEXT_METHODS and text:
                # Plain text, not a regular expression, of which some take for ever; a missing value holds nothing.
                call.keywords = [ast.keyword("na", ast.Constant(False))]
                if function.attr == "contains":
                    call.keywords.append(ast.keyword("regex", ast.Constant(False)))
                return ast.Tuple([holder.value, *call.args], ast.Load())
    raise Refused(f"'{ast.unparse(call)}' is not of its language: {LANGUAGE}")
