"""Approach 1: the size with the lowest loss at every compute, read off the learning curves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError
from laws.data.curves import levelled, smoothed
from laws.data.table import Table
from laws.inference.noise import interval

if TYPE_CHECKING:
    pass

GRID = 60
FEWEST_SIZES = 3  # that must be in training at a compute for its best size to mean anything


@dataclass(frozen=True)
class Envelope:
    """N* = G C^a through the best sizes along the learning curves.

    Args:
        a, b: exponents of N*(C) and D*(C).
        a_interval, b_interval: at ``level``, over resampled runs.
        c, n, d, loss: points of the envelope.
        runs: how many curves there were.
    """

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    c: Float[np.ndarray, " points"]
    n: Float[np.ndarray, " points"]
    d: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]
    runs: int
    level: float


def _exponent(log_c, log_best):
    """Slope of the plain line through the envelope, or NaN where all the points share one size."""
    if len(log_c) < 3 or np.ptp(log_best) == 0:
        return np.nan
    return np.polyfit(log_c - log_c.mean(), log_best, 1)[0]


def _best(log_loss: np.ndarray, sizes: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For a set of runs: at which computes the best size lies inside those in training, and which run that is."""
    seen = log_loss[chosen]
    present = np.isfinite(seen)
    own = sizes[chosen][:, None]
    winner = chosen[np.argmin(np.where(present, seen, np.inf), axis=0)]
    smallest, largest = np.where(present, own, np.inf).min(axis=0), np.where(present, own, 0.0).max(axis=0)
    return present.any(axis=0) & (sizes[winner] > smallest) & (sizes[winner] < largest), winner


def envelope(
    table: Table,
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    level: float = 0.95,
    draws: int = 300,
    seed: int = 0,
) -> Envelope:
    """Exponents of N*(C) and D*(C) from the lower envelope of loss against compute.

    At each compute the run with the lowest smoothed loss gives N* (every curve shifted to end at its measured loss);
    computes at which that is the smallest or the largest size in training are left out, because there the best size
    may lie outside the sweep.

    Args:
        table: runs with n, d and c; ``run`` must name the curves.
        curves: from ``load_curves``.
        level: of the intervals.
        draws: resamples of the runs.
        seed: of the draws.

    Raises:
        InputError: fewer than three runs have a curve, or no compute has an interior best size.

    Source: Hoffmann et al. 2022, arXiv 2203.15556, section 3.1.
    """
    table = table.for_columns(("n", "d", "c"), "envelope")
    rows = [row for row in range(len(table)) if str(table.run[row]) in curves]
    sizes = table.values["n"][rows]
    if len(np.unique(sizes)) < FEWEST_SIZES:
        raise InputError(f"{table.name}: learning curves of {len(np.unique(sizes))} sizes are too few for an envelope")
    log_price = np.log(table.values["c"][rows] / table.values["d"][rows])
    levels = [levelled(*curves[str(table.run[row])], table.loss[row]) for row in rows]
    low = min(price + x[0] for price, (x, _) in zip(log_price, levels, strict=True))
    high = max(price + x[-1] for price, (x, _) in zip(log_price, levels, strict=True))
    log_c = np.linspace(low, high, GRID)
    log_loss = np.stack([smoothed(x, y, log_c - price) for price, (x, y) in zip(log_price, levels, strict=True)])

    def exponents(chosen: np.ndarray) -> list[float]:
        ok, winner = _best(log_loss, sizes, chosen)
        best_d = log_c - log_price[winner]
        return [_exponent(log_c[ok], np.log(sizes[winner[ok]])), _exponent(log_c[ok], best_d[ok])]

    ok, winner = _best(log_loss, sizes, np.arange(len(rows)))
    if ok.sum() < 3 or len(np.unique(sizes[winner[ok]])) < 2:
        raise InputError(
            f"{table.name}: the envelope of the learning curves has no interior best size at enough computes"
        )
    rng = np.random.default_rng(seed)
    drawn = [exponents(np.unique(rng.integers(0, len(rows), len(rows)))) for _ in range(draws)]
    (a, b), ends = exponents(np.arange(len(rows))), np.stack(interval(np.array(drawn), level), axis=1)
    return Envelope(
        a=float(a),
        b=float(b),
        a_interval=(float(ends[0, 0]), float(ends[0, 1])),
        b_interval=(float(ends[1, 0]), float(ends[1, 1])),
        c=np.exp(log_c[ok]),
        n=sizes[winner[ok]],
        d=np.exp(log_c - log_price[winner])[ok],
        loss=np.exp(log_loss[winner[ok], np.flatnonzero(ok)]),
        runs=len(rows),
        level=level,
    )
