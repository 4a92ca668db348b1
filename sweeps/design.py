"""Designs: the points of a sweep, as pure data.

A design is a tuple of points; a point is a dict from dotted config keys to values, as in
{"model.size": 2e4, "duration.flops": 1e11, "seed": 0}. A key under `label.` changes nothing in the run: it becomes a
column of its record. The key `trunk` is that value of the point's `duration` key which makes the point's trunk of it: the
point is a cooldown forked from there (`branch`). The functions below make designs from values and from each other:

    chain(isoflop(budgets, sizes), product(isoflop(budgets, (2e4,)), axis("seed", (1, 2))))
"""

import csv
import itertools
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Point = dict[str, Any]
Design = tuple[Point, ...]
Condition = tuple[str, str, Any]  # (key or label, operator, value)

LABEL = "label."
TRUNK = "trunk"
DURATION = "duration."
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


def lshape(small: Iterable[float], horizons: Iterable[float], budget: float, sizes: Iterable[float]) -> Design:
    """Small sizes over many horizons, and one cheap budget over many sizes: two bands that share a corner.

    The first band tells how the loss falls with data, far beyond the ratio of tokens to parameters at which a size is
    best; the second how it falls with size. Together they identify a law of size and data, the coupled one too, for
    less than a grid of both: neither band needs a large size at a long horizon.

    Args:
        small: target parameters of the first band.
        horizons: its tokens.
        budget: exact training FLOPs of the second band, whose points have the label `budget`.
        sizes: its target parameters.

    Returns:
        The points, with the label `band`: "horizons" or "sizes".

    Raises:
        ValueError: a band has fewer than two lengths or sizes.
    """
    horizons, sizes = tuple(horizons), tuple(sizes)
    for name, values in (("horizons", horizons), ("sizes", sizes)):
        if len(set(values)) < 2:
            raise ValueError(f"lshape: {name} of two values or more are a band, got {list(values)}")
    first = product(axis("model.size", small), axis("duration.tokens", horizons))
    return chain(label(first, band="horizons"), label(isoflop((budget,), sizes), band="sizes"))


def random(ranges: Mapping[str, Sequence[Any]], count: int, seed: int = 0) -> Design:
    """Points spread evenly at random over ranges of config keys: a scrambled Halton sequence, in logarithms.

    The first points of a longer design of the same seed are those of a shorter one.

    Args:
        ranges: by config key the ends (low, high), between whose logarithms values lie evenly; with "linear" as a third
            element evenly between the ends themselves. Whole ends make whole values.
        count: how many points.
        seed: of the sequence.

    Raises:
        ValueError: no key, no points, or ends between which there is nothing.

    Source: Halton 1960, Numerische Mathematik 2; scrambled as in Owen 2017, arXiv 1706.02808 (`scipy.stats.qmc`).
    """
    from scipy.stats import qmc  # takes half a second, which a design without it need not

    if not ranges or count < 1:
        raise ValueError(f"random: want ranges of keys and at least one point, got {len(ranges)} and {count}")
    columns = [_spread(key, *ends) for key, ends in ranges.items()]
    draws = qmc.Halton(len(columns), rng=seed).random(count)
    return tuple({key: value(u) for key, value, u in zip(ranges, columns, row, strict=True)} for row in draws)


def _spread(key: str, low: float, high: float, scale: str = "log") -> Callable[[float], float]:
    """What maps [0, 1) onto the range of a key.

    Args:
        key: for messages.
        low: the least value.
        high: the largest one.
        scale: "log" or "linear".
    """
    if scale not in ("log", "linear") or not low < high or (scale == "log" and low <= 0):
        raise ValueError(f"random: {key} wants (low, high) above 0, or (low, high, 'linear'), got {(low, high, scale)}")
    whole = isinstance(low, int) and isinstance(high, int)
    to, back = (math.log, math.exp) if scale == "log" else (float, float)

    def value(u: float) -> float:
        drawn = min(max(back(to(low) + float(u) * (to(high) - to(low))), low), high)
        return round(drawn) if whole else drawn

    return value


def branch(trunk: Design, at: Iterable[float], cooldown: float = 0.2, duration: str = "duration.tokens") -> Design:
    """Every point at every horizon: one trunk of constant rate a point, and a cooldown forked from it for each horizon.

    The longest horizon is the trunk: a run with the schedule `wsd`, whose rate is constant until its own cooldown. A
    shorter one begins with the state of the trunk at (1 - cooldown) of its own duration, and so makes bit for bit what a
    single run with `wsd` and the trunk's batch, learning rate and warmup would. These are the same along a trunk,
    whatever a recipe makes of a duration: the plan takes them from the trunk. D and C of a point are those of its whole
    way.

    Args:
        trunk: what tells one trunk from another, as in axis("model.size", sizes); no durations.
        at: horizons, in units of `duration`.
        cooldown: share of a horizon in which the rate falls.
        duration: the config key of a horizon; with "duration.flops" points have the label `budget`.

    Raises:
        ValueError: no horizon, a cooldown outside (0, 1), a key that is no duration, or a trunk with a duration.
    """
    horizons = sorted(set(at), reverse=True)
    if not horizons or not horizons[-1] > 0:
        raise ValueError(f"branch: want positive horizons in `at`, got {horizons}")
    if not 0 < cooldown < 1:
        raise ValueError(f"branch: cooldown must be in (0, 1), got {cooldown:g}")
    if not duration.startswith(DURATION):
        raise ValueError(f"branch: {duration!r} is no key of a duration ({DURATION}tokens, {DURATION}flops, ...)")
    if taken := sorted({key for point in trunk for key in point if key.startswith(DURATION)}):
        raise ValueError(f"branch: the trunk has a {taken[0]}, and its horizons are those of `at`")
    design = []
    for horizon in horizons:
        point: Point = {duration: horizon, "schedule.name": "wsd", "schedule.decay_fraction": cooldown}
        point |= {f"{LABEL}budget": horizon} if duration == f"{DURATION}flops" else {}
        design.append(point | ({TRUNK: horizons[0]} if horizon < horizons[0] else {}))
    return product(trunk, tuple(design))


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
    return {key: value for key, value in point.items() if not key.startswith(LABEL) and key != TRUNK}, labels


def trunk_of(point: Point) -> Point | None:
    """The overrides of the trunk that a point is forked from; None where it is no fork.

    Raises:
        ValueError: the point has no duration, or one that is as long as its trunk's.
    """
    if point.get(TRUNK) is None:
        return None
    overrides = split(point)[0]
    durations = [key for key in overrides if key.startswith(DURATION)]
    if len(durations) != 1:
        raise ValueError(f"design: a point with the key {TRUNK!r} has one duration, not {len(durations)}")
    if not overrides[durations[0]] < point[TRUNK]:
        raise ValueError(
            f"design: the trunk of {durations[0]} = {point[TRUNK]:g} is no longer than its branch of "
            f"{overrides[durations[0]]:g}"
        )
    return overrides | {durations[0]: point[TRUNK]}


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
