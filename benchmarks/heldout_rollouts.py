"""Roll-outs of this package on the cases of `benchmarks.heldout`: what its default fit of the smaller runs forecast of the
larger ones, all below the cut.

They are kept one file a case, as the forecasts of contenders are, and made again for other rows or another version of the
package `laws`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.heldout_cases import FEWEST_FITTED, Case, Points, Rows, budgets
from benchmarks.heldout_forecasts import CannotForecast, RunForecasts
from benchmarks.heldout_isoflop import default_fit, forecasts_of, sources_of_laws

ORIGINS = 4  # last ones of a table, at most
FEWEST_ORIGINS = 2  # of a table
FEWEST_BUDGETS = 2  # below an origin


class RollOut(NamedTuple):
    """The runs beyond all origins of a case, one origin after the other.

    Args:
        error: log of the measured loss less log of the forecast.
        distance: log of the compute over the largest below the origin.
        below, above: logs of the forecast over the ends of its intervals, and of these over it (levels, runs).
    """

    error: Float[np.ndarray, " runs"]
    distance: Float[np.ndarray, " runs"]
    below: Float[np.ndarray, "levels runs"]
    above: Float[np.ndarray, "levels runs"]


class RolledCase(NamedTuple):
    """A case with its roll-outs.

    Args:
        case: the cut.
        forecast: of the scored runs, by the fit of all rows below the cut.
        residual: typical size of the log residuals of that fit, the median of their absolute values.
        roll_out: of the rows below the cut.
    """

    case: Case
    forecast: RunForecasts
    residual: float
    roll_out: RollOut

    @property
    def distance(self) -> Float[np.ndarray, " scored"]:
        """Log of the compute of the scored runs over the largest below the cut."""
        return np.log(self.case.scored.c / self.case.fitted.c.max())


def offsets(forecast: RunForecasts) -> tuple[Float[np.ndarray, "levels runs"], Float[np.ndarray, "levels runs"]]:
    """Logs of a forecast over the lower ends of its intervals, and of the upper ends over it."""
    low, high = np.moveaxis(np.log(forecast.ends / forecast.median), 1, 0)
    return -low, high


def origins(rows: Rows) -> list[Bool[np.ndarray, " rows"]]:
    """The rows below each of the last forecast origins: whole budgets, the largest left above."""
    number, _ = budgets(rows.c)
    below = [number <= last for last in range(FEWEST_BUDGETS - 1, number.max())]
    return [mask for mask in below if mask.sum() >= FEWEST_FITTED][-ORIGINS:]


def _points(rows: Rows, source: str) -> Points:
    return Points(rows.n, rows.d, rows.c, source)


def _rolled(case: Case) -> dict[str, Any]:
    """What is kept of a case.

    Raises:
        CannotForecast: the package refuses the rows below the cut; origins at which it refuses are left out.
    """
    rows, source = case.fitted, case.table.source
    fit = default_fit(rows, source)
    ahead = forecasts_of(fit, case.points)
    residual = np.log(rows.loss / forecasts_of(fit, rows).median)
    parts: list[RollOut] = []
    for mask in origins(rows):
        beyond = rows.where(~mask)
        try:
            forecast = forecasts_of(default_fit(rows.where(mask), source), _points(beyond, source))
        except CannotForecast:
            continue
        distance = np.log(beyond.c / rows.c[mask].max())
        parts.append(RollOut(np.log(beyond.loss / forecast.median), distance, *offsets(forecast)))
    if len(parts) < FEWEST_ORIGINS:
        raise CannotForecast(f"{len(parts)} origins below the cut leave enough rows, and {FEWEST_ORIGINS} are needed")
    joined = RollOut(*(np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)))
    return {
        "median": ahead.median.tolist(),
        "ends": ahead.ends.tolist(),
        "residual": float(np.median(np.abs(residual))),
        "roll_out": {name: values.tolist() for name, values in joined._asdict().items()},
    }


def kept_or_rolled(case: Case, work: Path) -> RolledCase | str:
    """A case with its roll-outs, from its file if that is of the same rows and version; or why it has none.

    Args:
        case: the cut.
        work: folder of the files.
    """
    path = work / f"{case.name}.json"
    stamp = {"version": sources_of_laws(), "fingerprint": case.fingerprint}
    made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if {key: made.get(key) for key in stamp} != stamp:
        began = time.process_time()
        try:
            made = stamp | _rolled(case)
        except CannotForecast as refusal:
            made = stamp | {"reason": str(refusal)}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(made) + "\n")
        os.replace(draft, path)
        seconds = time.process_time() - began
        print(f"{case.name}: {made.get('reason', 'done')} ({seconds:.1f} CPU s)", file=sys.stderr, flush=True)
    if "reason" in made:
        return made["reason"]
    roll_out = RollOut(**{name: np.array(values) for name, values in made["roll_out"].items()})
    return RolledCase(case, RunForecasts(np.array(made["median"]), np.array(made["ends"])), made["residual"], roll_out)
