"""How sure a fit is: the bootstrap over runs, run-to-run noise, and intervals."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from laws.fit import Optimum
from laws.solve import minimise
from laws.table import Table


@dataclass(frozen=True)
class Resamples:
    """Refits to resampled runs.

    Args:
        natural: constants of every refit; refits that did not converge are left out.
        asked: how many resamples were drawn.
        not_converged, at_bound: how many did not reach an optimum, and how many ended on a bound.
        seed: of the draws.
    """

    natural: Float[np.ndarray, "resamples params"]
    asked: int
    not_converged: int
    at_bound: int
    seed: int


@dataclass(frozen=True)
class Noise:
    """What one run's log loss scatters by, around the law.

    Args:
        seeds: standard deviation between repeated runs of one size and data, None where nothing is repeated.
        residual: standard deviation of the residuals of the fit, corrected for the fitted constants.
        freedom: degrees of freedom of the latter.
    """

    seeds: float | None
    residual: float
    freedom: int

    @property
    def deviation(self) -> float:
        """The larger of the two: what exceeds the seeds' noise is lack of fit, and a new run has it too."""
        return max(self.seeds or 0.0, self.residual)


def resampled_weights(run: np.ndarray, weight: Float[np.ndarray, " rows"], resamples: int, seed: int):
    """How often each row counts in each resample: whole runs are drawn with replacement, with all their rows.

    Args:
        run: identity of each row's run.
        weight: rows with weight 0 are never drawn.
        resamples: number of draws.
        seed: of the draws.
    """
    names, member = np.unique(run[weight > 0], return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.zeros((resamples, len(run)))
    weights[:, weight > 0] = drawn[:, member]
    return weights * weight


def bootstrap(
    optimum: Optimum, table: Table, weight: Float[np.ndarray, " rows"], resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Refits to resampled runs, each started at the optimum and brought to its own.

    Points of one training run are not independent, so runs are resampled, not rows.
    """
    weights = resampled_weights(table.run, weight, resamples, seed)
    start = np.tile(optimum.natural, (resamples, 1))
    log_loss = np.log(table.loss)[None]
    found = minimise(optimum.law, table.values, log_loss, weights, start, optimum.objective, optimum.delta)
    good = found.converged
    return Resamples(
        found.natural[good], resamples, int(np.sum(~good)), int(np.sum(found.at_bound[good].any(axis=1))), seed
    )


def seed_deviation(table: Table, keep: Bool[np.ndarray, " rows"]) -> tuple[float | None, int]:
    """Pooled standard deviation of log loss among runs repeated at the same columns, and its degrees of freedom."""
    keys = np.stack([table.values[role][keep] for role in sorted(table.values)], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    log_loss, counts = np.log(table.loss[keep]), np.bincount(group.ravel())
    freedom = int(len(log_loss) - len(counts))
    if freedom == 0:
        return None, 0
    mean = np.bincount(group.ravel(), log_loss) / counts
    return float(np.sqrt(np.sum((log_loss - mean[group.ravel()]) ** 2) / freedom)), freedom


def noise_of(optimum: Optimum, table: Table, weight: Float[np.ndarray, " rows"]) -> Noise:
    """The scatter of the fitted runs around the law."""
    keep = weight > 0
    residual = (np.log(table.loss) - optimum.predict(table.values))[keep]
    freedom = max(len(residual) - len(optimum.natural), 1)
    return Noise(seed_deviation(table, keep)[0], float(np.sqrt(np.sum(residual**2) / freedom)), freedom)


def interval(draws: Float[np.ndarray, "draws ..."], level: float) -> tuple[Float[np.ndarray, "..."], ...]:
    """The central interval of the draws that are finite; NaN where none is."""
    draws = np.asarray(draws, np.float64)
    draws = np.where(np.isfinite(draws), draws, np.nan)
    if len(draws) == 0 or np.isnan(draws).all():
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    return tuple(np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))
