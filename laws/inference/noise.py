"""Noise of one run's log loss: standard deviation from residuals and repeated runs; moments of objectives under it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri

from laws.data.table import Table
from laws.estimation.estimate import PointEstimate

SMOOTHING = 0.5  # kernel width of the pooled residuals, in standard deviations


NORMAL = ndtri((np.arange(64) + 0.5) / 64)[None]  # a sample as normal as can be


@dataclass(frozen=True)
class RunNoise:
    """What one run's log loss scatters by, around the law.

    Args:
        seeds: standard deviation between repeated runs of one size and data, None where nothing is repeated.
        residual: standard deviation of the residuals of the fit, corrected for the fitted constants.
        dof: degrees of freedom of the latter.
        seed_dof: and of the former.
    """

    seeds: float | None
    residual: float
    dof: int
    seed_dof: int = 0

    @property
    def deviation(self) -> float:
        """The larger of the two: what exceeds the seeds' noise is lack of fit, and a new run has it too."""
        return max(self.seeds or 0.0, self.residual)


# Errors within which an objective is curved, as multiples of delta; beyond them it is straight.
CURVED = {"log_huber": (-1.0, 1.0), "log_asymmetric": (-np.inf, 1.0)}


def m_estimator_moments(
    residual: Float[np.ndarray, "#tables rows"], deviation: Float[np.ndarray, " tables"], objective: str, delta: float
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Mean square of the objective's first derivative and mean of its second, at errors of a given deviation.

    The covariance of the constants is the first over the square of the second, times the inverse of the slopes'
    products (Huber 1981, section 7.6). The second is the share of errors where the objective is curved; so few lie
    there that it is taken from a smooth density, corrected for what smoothing takes from a normal one.

    Args:
        residual: a sample of errors, here brought to the deviation.
        deviation: standard deviation of the errors.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold.
    """
    low, high = (delta * end for end in CURVED.get(objective, (-np.inf, np.inf)))
    size = np.sqrt(np.mean(residual**2, axis=1, keepdims=True))
    scaled = residual / np.where(size == 0, 1.0, size) * deviation[:, None]
    inside = lambda at, width: ndtr((high - at) / width) - ndtr((low - at) / width)
    deviation = np.maximum(deviation, 1e-300)
    width = SMOOTHING * deviation
    normal = inside(0.0, deviation) / inside(0.0, np.hypot(deviation, width))
    share = np.mean(inside(scaled, width[:, None]), axis=1) * normal
    return np.mean(np.clip(scaled, low, high) ** 2, axis=1), np.minimum(share, 1.0)


def residual_scale(
    residual: Float[np.ndarray, "tables rows"], constants: int, objective: str, delta: float
) -> Float[np.ndarray, " tables"]:
    """Standard deviation of normal errors that leave these residuals, corrected for the fitted constants.

    Least squares takes one degree of freedom a constant. An estimator with ``v`` times its variance takes ``2 - v``:
    its residuals are those of least squares and the distance between the two fits on top.
    """
    squares, rows = np.sum(residual**2, axis=1), residual.shape[1]
    uncorrected = np.sqrt(squares / max(rows - constants, 1))
    square, curve = m_estimator_moments(NORMAL, uncorrected, objective, delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(square / np.maximum(curve * uncorrected, 1e-300) ** 2, 1.0, 2.0)
    return np.sqrt(squares / np.maximum(rows - constants * (2 - ratio), 1))


def seed_deviation(table: Table, keep: Bool[np.ndarray, " rows"]) -> tuple[float | None, int]:
    """Pooled standard deviation of log loss among repeats (``Table.repeats``), and its degrees of freedom."""
    _, group = np.unique(table.repeats()[keep], return_inverse=True)
    log_loss, counts = np.log(table.loss[keep]), np.bincount(group.ravel())
    dof = int(len(log_loss) - len(counts))
    if dof == 0:
        return None, 0
    mean = np.bincount(group.ravel(), log_loss) / counts
    return float(np.sqrt(np.sum((log_loss - mean[group.ravel()]) ** 2) / dof)), dof


def noise_of(optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"]) -> RunNoise:
    """The scatter of the fitted runs around the law."""
    keep = weight > 0
    residual = (np.sqrt(weight / weight[keep].mean()) * (np.log(table.loss) - optimum.predict(table.values)))[keep]
    constants = len(optimum.params)
    (deviation,) = residual_scale(residual[None], constants, optimum.objective, optimum.delta)
    seeds, repeats = seed_deviation(table, keep)
    return RunNoise(seeds, float(deviation), max(len(residual) - constants, 1), repeats)


def interval(draws: Float[np.ndarray, "draws ..."], level: float) -> tuple[Float[np.ndarray, "..."], ...]:
    """The central interval of the draws that are finite; NaN where none is."""
    draws = np.asarray(draws, np.float64)
    draws = np.where(np.isfinite(draws), draws, np.nan)
    if len(draws) == 0 or np.isnan(draws).all():
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    return tuple(np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))
