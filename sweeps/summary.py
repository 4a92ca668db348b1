"""Runs that repeat one another but for a seed or a fold, as means with standard errors."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from training.errors import BadInput, nearest


class Mean(NamedTuple):
    """A mean over runs, its standard error and the standard deviation of one run (None: of one run alone)."""

    mean: float
    error: float | None
    deviation: float | None
    runs: int

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.mean:.4g} (1 run)"
        digits = max(0, 1 - math.floor(math.log10(self.error))) if self.error else 4
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f} ({self.runs} runs)"


def mean(values: Sequence[float]) -> Mean:
    """The mean of at least one value; independent runs are assumed, which the folds of one set are only nearly."""
    centre = statistics.fmean(values)
    if len(values) < 2:
        return Mean(centre, None, None, 1)
    deviation = statistics.stdev(values)
    return Mean(centre, deviation / math.sqrt(len(values)), deviation, len(values))


def means(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str], by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The mean of each metric over the completed runs of each group.

    Args:
      rows: of a collected table.
      metrics: columns with numbers.
      by: columns whose values make a group; none: one group of all.
    Returns:
      A row a group, in the order in which they first come: its values, and a `Mean` a metric.
    Raises:
      BadInput: no run has completed, or there is no such column of numbers.
    """
    done = [row for row in rows if row.get("status") == "completed"]
    if not done:
        raise BadInput("no run has completed")
    for name in (*metrics, *by):
        if not any(name in row for row in done):
            raise BadInput(f"no column {name!r}{nearest(name, done[0])}")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in done:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    table = []
    for key, members in groups.items():
        entry: dict[str, Any] = dict(zip(by, key, strict=True))
        for name in metrics:
            values = [row.get(name) for row in members]
            if not all(isinstance(value, int | float) for value in values):
                raise BadInput(f"column {name!r}: not a number in every run")
            entry[name] = mean([float(value) for value in values])  # type: ignore[arg-type]
        table.append(entry)
    return table
