"""Means with standard errors over runs that repeat one another but for a seed or a fold."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from training.errors import BadInput, nearest


class Mean(NamedTuple):
    """A mean over independent runs, which the folds of one set are only nearly.

    Attributes:
        mean: of the runs.
        error: its standard error; None: of one run alone.
        deviation: standard deviation of one run; None: of one run alone.
        runs: how many.
    """

    mean: float
    error: float | None
    deviation: float | None
    runs: int

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.mean:.4g} (1 run)"
        digits = max(0, 1 - math.floor(math.log10(self.error))) if self.error else 4
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f} ({self.runs} runs)"


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
    import pandas as pd

    completed = [row for row in rows if row.get("status") == "completed"]
    if not completed:
        raise BadInput("no run has completed")
    for name in (*metrics, *by):
        if not any(name in row for row in completed):
            raise BadInput(f"no column {name!r}{nearest(name, completed[0])}")
    for name in metrics:
        if not all(isinstance(row.get(name), int | float) and not math.isnan(row[name]) for row in completed):
            raise BadInput(f"column {name!r}: not a number in every run")
    # A group is known by the place of its first row, since pandas would make NaN of a value that is None.
    keys = [tuple(row.get(name) for name in by) for row in completed]
    first_of: dict[tuple[Any, ...], int] = {}
    group = [first_of.setdefault(key, i) for i, key in enumerate(keys)]
    values = pd.DataFrame({name: [float(row[name]) for row in completed] for name in metrics})
    table = []
    for first, statistics in values.groupby(group).agg(["mean", "sem", "std", "count"]).iterrows():
        entry: dict[str, Any] = dict(zip(by, keys[int(str(first))], strict=True))
        for name in metrics:
            mean, error, deviation, runs = statistics[name]
            single = runs < 2
            entry[name] = Mean(mean, None if single else error, None if single else deviation, int(runs))
        table.append(entry)
    return table
