"""Learning curves: loss against tokens of every run, smoothed, and shifted to the run's measured loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError, nearest
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.reading import as_numbers, read
from laws.data.where import select

if TYPE_CHECKING:
    import pandas as pd


# Learning curves: run -> (tokens, loss), ordered by tokens.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def load_curves(
    source: str | Path | pd.DataFrame,
    *,
    run: str | Sequence[str] = "run_id",
    tokens: str = "tokens",
    loss: str = "loss",
    where: str | None = None,
) -> Curves:
    """Learning curves: run -> (tokens, loss), ordered by tokens.

    Args:
        source: a table of Parquet, CSV, TSV or JSON lines, or a frame; one row a point of a curve.
        run: column that names the run, as text; or several, joined by " / ", that name it together.
        tokens: column of the training data so far (tokens, examples or steps).
        loss: column of the loss there; rows without a positive, finite number are left out.
        where: an expression that the rows must satisfy (``laws.data.where``).

    Raises:
        InputError: a missing column, an unreadable file, or an expression that cannot be applied.

    Example:
        >>> import pandas as pd, laws
        >>> table = pd.DataFrame({"run_id": ["a", "a", "b"], "tokens": [2e6, 1e6, 1e6], "loss": [3.0, 4.0, 3.9]})
        >>> {name: points.tolist() for name, (points, _) in laws.load_curves(table).items()}
        {'a': [1000000.0, 2000000.0], 'b': [1000000.0]}
    """
    names = (run,) if isinstance(run, str) else tuple(run)
    frame, name = read(source, names)
    for column in (*names, tokens, loss):
        if column not in frame.columns:
            raise InputError(f"{name}: no column '{column}'{nearest(column, frame.columns)}")
    if where:
        frame = select(frame, name, where)
    along, losses = as_numbers(frame[tokens]), as_numbers(frame[loss])
    usable = np.isfinite(losses) & (losses > 0) & (along > 0)
    joined = (
        frame[list(names)].fillna("").agg(" / ".join, axis=1) if len(names) > 1 else frame[list(names)[0]].fillna("")
    )
    runs = joined.to_numpy(object)[usable].astype(str)
    along, losses = along[usable], losses[usable]
    order = np.lexsort((along, runs))
    runs, along, losses = runs[order], along[order], losses[order]
    starts = np.flatnonzero(np.r_[True, runs[1:] != runs[:-1]]) if len(runs) else np.empty(0, int)
    pieces = zip(starts, np.r_[starts[1:], len(runs)], strict=True)
    return {str(runs[i]): (along[i:j], losses[i:j]) for i, j in pieces}


def smoothed(
    log_tokens: Float[np.ndarray, " steps"],
    log_loss: Float[np.ndarray, " steps"],
    points: Float[np.ndarray, " points"],
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> Float[np.ndarray, " points"]:
    """Log loss of a noisy curve by local straight lines; NaN outside the curve and where it has too few points.

    Args:
        log_tokens: in order.
        log_loss: of single batches.
        points: log tokens at which to smooth.
        config: its ``curve_window`` and ``curve_least_points``.
    """
    out = np.full(len(points), np.nan)
    inside = (points >= log_tokens[0] - 1e-9) & (points <= log_tokens[-1] + 1e-9)
    first, last = (np.searchsorted(log_tokens, points + side * config.curve_window) for side in (-1, 1))
    for k in np.flatnonzero(inside & (last - first >= config.curve_least_points)):
        x, y = log_tokens[first[k] : last[k]] - points[k], log_loss[first[k] : last[k]]
        out[k] = np.polyfit(x, y, 1)[1]
    return out


def levelled(
    tokens: np.ndarray, loss: np.ndarray, final: float, config: UncertaintyConfig = DEFAULT_UNCERTAINTY
) -> tuple[np.ndarray, np.ndarray]:
    """Log tokens and log losses of a curve, shifted so that it ends at the run's measured loss.

    Training batches of one run are all easier or harder than the evaluation set by about the same factor.

    Args:
        tokens: of the points of the curve, rising.
        loss: there.
        final: measured loss of the run.
        config: of the smoothing.
    """
    log_tokens, log_loss = np.log(tokens), np.log(loss)
    end = smoothed(log_tokens, log_loss, log_tokens[-1:], config)[0]
    return log_tokens, log_loss + (np.log(final) - end if np.isfinite(end) else 0.0)
