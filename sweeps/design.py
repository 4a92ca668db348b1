"""Designs: the points of a sweep, as pure data.

A design is a tuple of points; a point is a dict from dotted config keys to values, as in
{"model.size": 2e4, "duration.flops": 1e11, "seed": 0}. A key under `label.` changes nothing in the run: it becomes a
column of its record. The functions below make designs from values and from each other:

    chain(isoflop(budgets, sizes), product(isoflop(budgets, (2e4,)), axis("seed", (1, 2))))
"""

import csv
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Point = dict[str, Any]
Design = tuple[Point, ...]
Condition = tuple[str, str, Any]  # (key or label, operator, value)

LABEL = "label."
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "in": lambda value, options: value in options,
    "not in": lambda value, options: value not in options,
}


def axis(key: str, values: Iterable[Any]) -> Design:
    """One point a value of one config key."""
    return tuple({key: value} for value in values)


def table(rows: Iterable[Mapping[str, Any]] | str | Path) -> Design:
    """The points of a table, one a row, or of a file such as `isoflop propose --out` writes.

    Args:
        rows: the points, or a CSV file whose header names the keys, or a JSON file with a list of objects.

    Raises:
        ValueError: the file is no such table.
    """
    if not isinstance(rows, str | Path):
        return tuple(dict(row) for row in rows)
    path = Path(rows)
    try:
        if path.suffix == ".json":
            return tuple(points(json.loads(path.read_text())))
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of points ({error})") from error
    if not all(None not in line and None not in line.values() for line in lines):
        raise ValueError(f"{path}: not a table of points (a row is longer or shorter than the header)")
    return tuple({key: _cell(text) for key, text in line.items() if text} for line in lines)


def isoflop(budgets: Iterable[float], sizes: Sequence[float] | Mapping[float, Sequence[float]]) -> Design:
    """Every size at every budget of exact training FLOPs, with the label `budget`; D follows from C and the shape.

    Args:
        budgets: exact training FLOPs.
        sizes: target parameters, the same for all budgets or by budget.

    Raises:
        ValueError: a budget has no sizes.
    """
    design = []
    for budget in budgets:
        if isinstance(sizes, Mapping) and budget not in sizes:
            raise ValueError(f"isoflop: no sizes for the budget {budget:g}")
        of_budget = sizes[budget] if isinstance(sizes, Mapping) else sizes
        design += [{"duration.flops": budget, "model.size": size, f"{LABEL}budget": budget} for size in of_budget]
    return tuple(design)


def ladder(sizes: Iterable[float], tokens_per_param: float | Iterable[float]) -> Design:
    """Every size trained for a number of tokens a parameter, or for each of several."""
    ratios = tokens_per_param if isinstance(tokens_per_param, Iterable) else (tokens_per_param,)
    return product(axis("model.size", sizes), axis("duration.tokens_per_param", ratios))


def product(*designs: Design) -> Design:
    """Every combination of a point of each design; the last varies fastest.

    Raises:
        ValueError: two designs give one key different values.
    """
    return tuple(_joined(parts) for parts in itertools.product(*designs))


def folds(k: int) -> Design:
    """The k runs of a cross-validation: each holds out another fold of the training data, to be evaluated on."""
    return product(axis("data.folds", (k,)), axis("data.fold", range(k)))


def zip_(*designs: Design) -> Design:
    """The first points of all designs joined, the second ones, and so on.

    Raises:
        ValueError: the designs differ in length, or give one key different values.
    """
    if len({len(design) for design in designs}) > 1:
        raise ValueError(f"zip_: designs of {', '.join(str(len(design)) for design in designs)} points")
    return tuple(_joined(parts) for parts in zip(*designs, strict=True))


def chain(*designs: Design) -> Design:
    """The points of one design after those of another."""
    return tuple(dict(point) for design in designs for point in design)


def label(design: Design, **labels: Any) -> Design:
    """The design with labels on each of its points."""
    return product(design, ({f"{LABEL}{name}": value for name, value in labels.items()},))


def filter_(design: Design, *conditions: Condition) -> Design:
    """The points that meet every condition; a point without the key does not.

    Args:
        conditions: (key, operator, value), as in ("model.size", "<=", 1e5); a label goes by its name.

    Raises:
        ValueError: an unknown operator, or a key that no point has.
    """
    for key, symbol, _ in conditions:
        if symbol not in OPERATORS:
            raise ValueError(f"filter: no operator {symbol!r} (known: {' '.join(OPERATORS)})")
        if design and not any(_named(point, key) for point in design):
            names = sorted({name.removeprefix(LABEL) for point in design for name in point})
            raise ValueError(f"filter: no point has {key!r} (there are: {', '.join(names)})")
    return tuple(dict(point) for point in design if all(meets(point, condition) for condition in conditions))


def meets(point: Point, condition: Condition) -> bool:
    """Whether a point has the condition's key with a value that fulfils it."""
    key, symbol, wanted = condition
    name = _named(point, key)
    return name is not None and OPERATORS[symbol](point[name], wanted)


def points(design: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The points of a design as dicts of dotted overrides and labels.

    Raises:
        ValueError: it is no sequence of mappings with dotted names for keys.
    """
    listed = list(design)
    for i, point in enumerate(listed):
        if not isinstance(point, Mapping) or not all(isinstance(key, str) and key for key in point):
            raise ValueError(f"design: point {i} is no dict of config keys: {point!r}")
    return [dict(point) for point in listed]


def split(point: Point) -> tuple[Point, Point]:
    """The overrides of a point, and its labels by name."""
    labels = {key.removeprefix(LABEL): value for key, value in point.items() if key.startswith(LABEL)}
    return {key: value for key, value in point.items() if not key.startswith(LABEL)}, labels


def _joined(parts: Iterable[Point]) -> Point:
    joined: Point = {}
    for part in parts:
        for key, value in part.items():
            if joined.setdefault(key, value) != value:
                raise ValueError(f"design: two values for {key}: {joined[key]!r} and {value!r}")
    return joined


def _named(point: Point, key: str) -> str | None:
    return next((name for name in (key, f"{LABEL}{key}") if name in point), None)


def _cell(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
