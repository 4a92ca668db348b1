"""Groups of runs that share a law: which column tells them, and their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from laws.base.errors import InputError, nearest
from laws.data.table import Table

FEWEST_RUNS = 3  # of a group: it has two factors of its own


def with_groups(table: Table, column: str) -> tuple[Table, tuple[str, ...]]:
    """A table with its runs' groups as the variable ``group``.

    Args:
        table: the runs.
        column: that names the group of each.

    Returns:
        the table, and the names of the groups: the one with the most runs first, then in the order of the table.

    Raises:
        InputError: no such column, a row without a group, one group alone, or a group with too few runs.
    """
    if table.frame is None or column not in table.frame.columns:
        raise InputError(
            f"{table.name}: no column '{column}' of groups{nearest(column, table.header)}", flag="--group=COLUMN"
        )
    values = table.frame[column]
    empty = np.flatnonzero(values.isna())
    if len(empty):
        row = int(table.row[empty[0]])
        raise InputError(f"{table.name}: column '{column}' of groups is empty in row {row}")
    labels = values.astype(str).to_numpy()
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        raise InputError(f"{table.name}: column '{column}' holds one group, '{names[0]}': a comparison needs two")
    runs = {name: len(np.unique(table.run[labels == name])) for name in names}
    small = [name for name in names if runs[name] < FEWEST_RUNS]
    if small:
        raise InputError(
            f"{table.name}: group '{small[0]}' of column '{column}' has {runs[small[0]]} runs, and its factors of size "
            f"and data need {FEWEST_RUNS}"
        )
    names.sort(key=lambda name: -runs[name])
    number = np.array([names.index(label) for label in labels], np.float64)
    grouped = replace(table, values=table.values | {"group": number}, columns=table.columns | {"group": column})
    return grouped, tuple(names)
