"""What was measured of the runs, which of two runs is the better one, and when they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.data.checks import column_numbers
from laws.data.reading import TIME, as_numbers
from laws.data.settings import is_measured, kind_of

if TYPE_CHECKING:
    import pandas as pd

# Columns that say what was measured, beside the name of the loss: fits are comparable if they agree.
MEASURED_WITH = ("eval_set", "eval_dataset", "evaluation_set", "tokenizer_hash", "tokenizer", "tokenizer_name")
MOST_NAMED = 3  # values of such a column that are named
DAY = 86_400.0  # seconds
DATE = r"\d{4}-\d\d-\d\d"  # without a time of day
LATEST = 1e10  # unix seconds in the year 2286: larger times are in another unit, and unknown


def rank_of(
    frame: pd.DataFrame, name: str, observed: str, best_by: str | None
) -> tuple[Float[np.ndarray, " rows"] | None, str | None]:
    """What tells the better of two runs, the lower the better, and its column; None where no column does.

    A learning rate or a batch is no measure of a run, and an accuracy rises as runs get better: beside them it is the
    column ``loss``, if there is one.

    Args:
        frame: the rows.
        name: of the table, in messages.
        observed: the column that is fitted.
        best_by: the column that tells, if it was named.

    Raises:
        InputError: the column is missing, or not finite and positive.
    """
    falls = "acc" not in observed.lower() and (is_measured(observed) or kind_of(observed) == "unknown")
    column = best_by or (observed if falls else "loss" if "loss" in frame.columns else None)
    return (None, None) if column is None else (column_numbers(frame, name, "best_by", column), column)


def end_times(frame: pd.DataFrame) -> Float[np.ndarray, " rows"] | None:
    """When each run ended, unix seconds; NaN where that is not known, None where the table does not say.

    A date without a time of day counts as the end of that day (UTC), since the run ended no later; so does midnight, which
    is how timestamps hold dates.
    """
    if "ended_at" not in frame.columns:
        return None
    column: Any = frame["ended_at"]
    seconds = as_numbers(column) if column.dtype.kind in "biuf" else _seconds_of_texts(column)
    known = np.where(seconds < LATEST, seconds, np.nan)
    return np.where(known % DAY == 0, known + DAY, known)


def _seconds_of_texts(column: pd.Series) -> Float[np.ndarray, " rows"]:
    """Unix seconds of texts that are dates, or times among dates; NaN of others."""
    import pandas as pd

    texts = column.astype("str").str.strip()
    dated = texts.where(texts.str.fullmatch(f"{DATE}|{TIME}").fillna(False).astype(bool))
    stamps = pd.to_datetime(dated, utc=True, format="ISO8601", errors="coerce")
    return ((stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(np.float64)


def quantity_of(frame: pd.DataFrame, observed: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """What was measured (``loss``: its column, and the values of ``MEASURED_WITH``), and warnings where rows disagree."""
    quantity, warnings = {"loss": observed}, []
    for column in MEASURED_WITH:
        levels = [] if column not in frame.columns else sorted(map(str, frame[column].dropna().unique()))
        if len(levels) > 1:
            warnings.append(f"the rows are of {len(levels)} values of {column}: are their losses comparable?")
        if levels:
            quantity[column] = " and ".join(levels) if len(levels) <= MOST_NAMED else f"{len(levels)} values"
    return quantity, tuple(warnings)
