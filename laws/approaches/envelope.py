"""Approach 1: power laws N*(C) and D*(C) through the lower envelope of the learning curves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.curves import levelled, smoothed
from laws.data.table import Table
from laws.inference.noise import interval

FEWEST_SIZES = 3  # sizes with learning curves: with fewer, none lies inside the others


@dataclass(frozen=True)
class Envelope:
    """Exponents of N*(C) and D*(C) along the envelope of the learning curves.

    Args:
        a, b: exponents of N*(C) and D*(C).
        a_interval, b_interval: at ``level``, over resampled runs.
        c, n, d, loss: points of the envelope: FLOPs, parameters, tokens, loss.
        runs: how many curves there were.
        level: nominal coverage of the intervals.
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


def _exponent(log_c: Float[np.ndarray, " points"], log_best: Float[np.ndarray, " points"], fewest: int) -> float:
    """Least-squares slope of log N* or log D* in log C; NaN with too few points or where all share one value.

    Args:
        log_c: log FLOPs.
        log_best: log N* or log D* there.
        fewest: points, at least.
    """
    if len(log_c) < fewest or np.ptp(log_best) == 0:
        return np.nan
    return float(np.polyfit(log_c - log_c.mean(), log_best, 1)[0])


def _best_runs(
    log_loss: Float[np.ndarray, "runs computes"], sizes: Float[np.ndarray, " runs"], chosen: Int[np.ndarray, " chosen"]
) -> tuple[Bool[np.ndarray, " computes"], Int[np.ndarray, " computes"]]:
    """The run with the lowest loss at each compute.

    Args:
        log_loss: of every run; NaN at computes that it does not reach.
        sizes: parameters of the runs.
        chosen: runs that take part.

    Returns:
        whether the best size lies strictly inside the sizes in training; and the index of the best run.
    """
    chosen_loss, chosen_sizes = log_loss[chosen], sizes[chosen][:, None]
    in_training = np.isfinite(chosen_loss)
    best_run = chosen[np.argmin(np.where(in_training, chosen_loss, np.inf), axis=0)]
    smallest = np.where(in_training, chosen_sizes, np.inf).min(axis=0)
    largest = np.where(in_training, chosen_sizes, 0.0).max(axis=0)
    return in_training.any(axis=0) & (sizes[best_run] > smallest) & (sizes[best_run] < largest), best_run


def envelope(
    table: Table,
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    level: float = 0.95,
    draws: int = 300,
    seed: int = 0,
    uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> Envelope:
    """Exponents of N*(C) and D*(C) from the lower envelope of loss against compute.

    At each compute the run with the lowest smoothed loss gives N* (every curve shifted to end at its measured loss);
    computes at which that is the smallest or the largest size in training are left out, because there the best size
    may lie outside the sweep.

    Args:
        table: runs with n, d and c; ``run`` must name the curves.
        curves: run -> tokens and losses, from ``load_curves``.
        level: nominal coverage of the intervals.
        draws: resamples of the runs.
        seed: of the draws.
        uncertainty: settings that shape intervals; here those that begin with ``envelope`` and ``curve``.

    Returns:
        the exponents with their intervals, and the points of the envelope.

    Raises:
        InputError: fewer than three runs have a curve, or no compute has an interior best size.

    Source:
        Hoffmann et al. 2022, arXiv 2203.15556, section 3.1.
    """
    table = table.for_columns(("n", "d", "c"), "envelope")
    rows = [row for row in range(len(table)) if str(table.run[row]) in curves]
    sizes = table.values["n"][rows]
    if len(np.unique(sizes)) < FEWEST_SIZES:
        raise InputError(f"{table.name}: learning curves of {len(np.unique(sizes))} sizes are too few for an envelope")
    log_flops_per_token = np.log(table.values["c"][rows] / table.values["d"][rows])
    levels = [levelled(*curves[str(table.run[row])], table.loss[row], uncertainty) for row in rows]
    costed = list(zip(log_flops_per_token, levels, strict=True))
    low = min(log_cost + log_tokens[0] for log_cost, (log_tokens, _) in costed)
    high = max(log_cost + log_tokens[-1] for log_cost, (log_tokens, _) in costed)
    log_c = np.linspace(low, high, uncertainty.envelope_computes)
    log_loss = np.stack([smoothed(*level_curve, log_c - log_cost, uncertainty) for log_cost, level_curve in costed])

    fewest = uncertainty.envelope_least_points

    def exponents(chosen: np.ndarray) -> list[float]:
        interior, best_run = _best_runs(log_loss, sizes, chosen)
        log_d = log_c - log_flops_per_token[best_run]
        return [_exponent(log_c[interior], values[interior], fewest) for values in (np.log(sizes[best_run]), log_d)]

    interior, best_run = _best_runs(log_loss, sizes, np.arange(len(rows)))
    if interior.sum() < fewest or len(np.unique(sizes[best_run[interior]])) < 2:
        raise InputError(
            f"{table.name}: the envelope of the learning curves has no interior best size at enough computes"
        )
    rng = np.random.default_rng(seed)
    resampled = [exponents(np.unique(rng.integers(0, len(rows), len(rows)))) for _ in range(draws)]
    (a, b), ends = exponents(np.arange(len(rows))), np.stack(interval(np.array(resampled), level), axis=1)
    return Envelope(
        a=float(a),
        b=float(b),
        a_interval=(float(ends[0, 0]), float(ends[0, 1])),
        b_interval=(float(ends[1, 0]), float(ends[1, 1])),
        c=np.exp(log_c[interior]),
        n=sizes[best_run[interior]],
        d=np.exp(log_c - log_flops_per_token[best_run])[interior],
        loss=np.exp(log_loss[best_run[interior], np.flatnonzero(interior)]),
        runs=len(rows),
        level=level,
    )
