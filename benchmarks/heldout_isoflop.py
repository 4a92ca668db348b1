"""What this package forecasts, as a contender of `benchmarks.heldout`: its default fit, its value and its intervals."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

import laws
from benchmarks import heldout_power_sums as power_sums
from benchmarks.heldout_cases import Points, Rows
from benchmarks.heldout_forecasts import LEVELS, CannotForecast, RunForecasts
from laws.base.errors import FitFailed, InputError
from laws.forecasting.priors import SOURCES

SEED = 0


@cache
def sources_of_laws() -> str:
    """Hash of the package that is judged."""
    digest = hashlib.sha256()
    for path in sorted(Path(laws.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def default_fit(rows: Rows, source: str) -> laws.FitResult:
    """The default fit of rows, whose public prior leaves out the source of the table.

    Args:
        rows: that are fitted.
        source: of the table.

    Raises:
        CannotForecast: the package refuses the rows.
    """
    known = power_sums.drivers(rows)
    columns = {**known, "c": rows.c, "loss": rows.loss, "run": rows.run}
    try:
        table = laws.load(
            pd.DataFrame(columns),
            n="n" if "n" in known else None,
            d="d",
            c="c",
            loss="loss",
            run="run",
            keep_copies=True,
            check_units=False,
        )
        return table.fit(
            "chinchilla" if "n" in known else "power_offset_d",
            seed=SEED,
            prior_without=(source,) if source in {public.name for public in SOURCES} else (),
        )
    except (InputError, FitFailed) as error:
        raise CannotForecast(str(error)) from error


def forecasts_of(fit: laws.FitResult, points: Rows | Points) -> RunForecasts:
    """The value of ``get_prediction`` and its intervals of one run.

    Args:
        fit: of the rows.
        points: that are forecast; a loss is not read.

    Raises:
        CannotForecast: the package refuses a point.
    """
    try:
        prediction = fit.get_prediction(pd.DataFrame({**power_sums.drivers(points), "c": points.c}))
    except (InputError, FitFailed) as error:
        raise CannotForecast(str(error)) from error
    frames = [prediction.summary_frame(level) for level in LEVELS]
    ends = [[frame["run_ci_lower"], frame["run_ci_upper"]] for frame in frames]
    return RunForecasts(frames[0]["mean"].to_numpy(), np.array(ends, np.float64))


def isoflop(rows: Rows, points: Points) -> RunForecasts:
    """What this package prints: its default fit, the value of ``get_prediction`` and its interval of one run."""
    return forecasts_of(default_fit(rows, points.source), points)
