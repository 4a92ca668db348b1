"""The columns of ``annealing`` from learning curves: summed rate and annealed area along each run's schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.data.reading import as_numbers
from laws.model.forms.schedule import schedule_areas
from laws.model.variables import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

RATE = "learning_rate"  # column of the rate at the step of a row, as `isoflop collect` writes it
STEPS = ("step", "steps")  # names of the column of steps, the first that is there
FIRST = 1.0  # step at which a curve must begin, since both areas count from there


def with_schedule_areas(frame: pd.DataFrame, run: np.ndarray | None) -> pd.DataFrame:
    """A table of learning curves with ``rate_area`` and ``annealed_area``, where they follow from its columns.

    They do where rows tell their run, step and learning rate, and every run has a row of its first step. Rates between
    the steps of two rows lie on a straight line. A table that has either column is left as it is.

    Args:
        frame: all rows, before any is left out: what comes early in a run counts in what comes later.
        run: identity of the run of each row; None if every row is a run of its own.
    """
    areas = [VARIABLES[variable].column for variable in ("rate_area", "annealed_area")]
    step_column = next((column for column in STEPS if column in frame.columns), None)
    if run is None or step_column is None or RATE not in frame.columns or set(areas) & set(frame.columns):
        return frame
    steps, rates = as_numbers(frame[step_column]), as_numbers(frame[RATE])
    if not (np.isfinite(steps).all() and np.isfinite(rates).all() and (steps >= 0).all() and (steps % 1 == 0).all()):
        return frame
    out = np.empty((2, len(frame)))
    for name in np.unique(run):
        rows = np.flatnonzero(run == name)
        rows = rows[np.argsort(steps[rows], kind="stable")]
        if steps[rows[0]] > FIRST:
            return frame
        every = np.arange(1, int(steps[rows[-1]]) + 1)
        along = np.stack(schedule_areas(np.interp(every, steps[rows], rates[rows])))
        along = np.concatenate([np.zeros((2, 1)), along], axis=1)  # before the first step nothing is summed
        out[:, rows] = along[:, steps[rows].astype(int)]
    return frame.assign(**dict(zip(areas, out, strict=True)))
