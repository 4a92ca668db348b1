"""Learning curves: loss against tokens of every run, smoothed, and shifted to the run's measured loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError, nearest
from laws.data.reading import read

if TYPE_CHECKING:
    import pandas as pd


SMOOTHING = 0.25  # half width, in log tokens, of the window in which a line stands for the noisy loss


FEWEST_POINTS = 8  # of a window; with fewer the smoothed loss is unknown


def load_curves(source: str | Path | pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Run -> (tokens, loss), ordered by tokens, from a table with columns run_id, tokens and loss.

    Raises:
        InputError: a missing column, or an unreadable file.
    """
    frame, name = read(source)
    for column in ("run_id", "tokens", "loss"):
        if column not in frame.columns:
            raise InputError(f"{name}: no column '{column}'{nearest(column, frame.columns)}")
    frame = frame.loc[np.isfinite(frame["loss"]) & (frame["loss"] > 0) & (frame["tokens"] > 0)]
    frame = frame.sort_values(["run_id", "tokens"], kind="stable")
    run, tokens, loss = (
        frame["run_id"].astype(str).to_numpy(object),
        frame["tokens"].to_numpy(),
        frame["loss"].to_numpy(),
    )
    starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]]) if len(run) else np.empty(0, int)
    pieces = zip(starts, np.r_[starts[1:], len(run)], strict=True)
    return {str(run[i]): (tokens[i:j], loss[i:j]) for i, j in pieces}


def smoothed(
    log_tokens: Float[np.ndarray, " steps"], log_loss: Float[np.ndarray, " steps"], at: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """Log loss of a noisy curve by local straight lines; NaN outside the curve and where it has too few points.

    Args:
        log_tokens: in order.
        log_loss: of single batches.
        at: log tokens at which to smooth.
    """
    out = np.full(len(at), np.nan)
    inside = (at >= log_tokens[0] - 1e-9) & (at <= log_tokens[-1] + 1e-9)
    first, last = np.searchsorted(log_tokens, at - SMOOTHING), np.searchsorted(log_tokens, at + SMOOTHING)
    for k in np.flatnonzero(inside & (last - first >= FEWEST_POINTS)):
        x, y = log_tokens[first[k] : last[k]] - at[k], log_loss[first[k] : last[k]]
        out[k] = np.polyfit(x, y, 1)[1]
    return out


def levelled(tokens: np.ndarray, loss: np.ndarray, final: float) -> tuple[np.ndarray, np.ndarray]:
    """Log tokens and log losses of a curve, shifted so that it ends at the run's measured loss.

    Training batches of one run are all easier or harder than the evaluation set by about the same factor.
    """
    log_tokens, log_loss = np.log(tokens), np.log(loss)
    end = smoothed(log_tokens, log_loss, log_tokens[-1:])[0]
    return log_tokens, log_loss + (np.log(final) - end if np.isfinite(end) else 0.0)
