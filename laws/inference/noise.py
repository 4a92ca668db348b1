"""Noise of one run's log loss: standard deviation from residuals and repeated runs; moments of objectives under it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, ndtri

from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.table import Table
from laws.estimation.estimate import PointEstimate
from laws.inference.clusters import averaged_evaluations, between_within, effective_runs

NORMAL = ndtri((np.arange(64) + 0.5) / 64)[None]  # quantiles that stand for a normal sample


@dataclass(frozen=True)
class RunNoise:
    """Standard deviation of one run's log loss around the law.

    Args:
        seeds: standard deviation between repeated runs of one size and data, None where nothing is repeated.
        residual: standard deviation of the residuals of the fit, corrected for the fitted constants.
        dof: degrees of freedom of the latter: effective runs less constants, at least 1.
        seed_dof: degrees of freedom of the former.
    """

    seeds: float | None
    residual: float
    dof: float
    seed_dof: int = 0

    @property
    def deviation(self) -> float:
        """The larger of the two: what exceeds the seeds' noise is lack of fit, and a new run has it too."""
        return max(self.seeds or 0.0, self.residual)


# Errors (measured less predicted) within which an objective is curved, as multiples of delta; beyond, it is straight.
CURVED = {"log_huber": (-1.0, 1.0), "log_asymmetric": (-np.inf, 1.0)}


def m_estimator_moments(
    residual: Float[np.ndarray, "#tables rows"],
    deviation: Float[np.ndarray, " tables"],
    objective: str,
    delta: float,
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
    weight: Float[np.ndarray, " rows"] | None = None,
    score_weight: Float[np.ndarray, " rows"] | None = None,
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Mean square of the objective's first derivative and mean of its second, at errors of a given deviation.

    The covariance of the constants is the first over the square of the second, times the inverse of the slopes'
    weighted products. The second is the share of errors where the objective is curved; so few lie there that it is
    taken from a smooth density, corrected for what smoothing takes from a normal one.

    Args:
        residual: a sample of errors, here brought to the deviation.
        deviation: standard deviation of the errors of rows of weight one.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold.
        config: its ``smoothing`` is the kernel's width.
        weight: precision of each row's error relative to one of weight one; 1 by default.
        score_weight: by what the objective multiplies each row's loss; ``weight`` by default. The moments are then of
            weighted derivatives, over the mean of these weights.

    Source: Huber 1981, Robust Statistics (covariance of M-estimates of regression).
    """
    low, high = (delta * end for end in CURVED.get(objective, (-np.inf, np.inf)))
    weight = np.ones(residual.shape[1]) if weight is None else weight
    score_weight = weight if score_weight is None else score_weight
    size = np.sqrt(np.mean(weight * residual**2, axis=1, keepdims=True))
    scaled = residual / np.where(size == 0, 1.0, size) * deviation[:, None]
    inside = lambda at, width: ndtr((high - at) / width) - ndtr((low - at) / width)
    deviation = np.maximum(deviation, 1e-300)[:, None] / np.sqrt(weight)
    width = config.smoothing * deviation
    normal = inside(0.0, deviation) / inside(0.0, np.hypot(deviation, width))
    share = np.minimum(np.mean(score_weight * inside(scaled, width) * normal, axis=1) / np.mean(score_weight), 1.0)
    square = np.mean((score_weight * np.clip(scaled, low, high)) ** 2, axis=1) / np.mean(score_weight)
    return square, share


def dof_correction(
    constants: int,
    runs: float,
    deviation: Float[np.ndarray, " tables"],
    objective: str,
    delta: float,
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> Float[np.ndarray, " tables"]:
    """By what factor fitted constants make the mean square of residuals of independent runs too small.

    Least squares takes one degree of freedom a constant. An estimator with ``v`` times its variance takes ``2 - v``:
    its residuals are those of least squares and the distance between the two fits on top.

    Args:
        constants: fitted.
        runs: independent ones (``laws.inference.clusters.effective_runs``).
        deviation: standard deviation of their errors.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold.
        config: of the moments.
    """
    square, curve = m_estimator_moments(NORMAL, deviation, objective, delta, config)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Between 1, least squares, and 2, beyond which no degree of freedom is taken.
        ratio = np.clip(square / np.maximum(curve * deviation, 1e-300) ** 2, 1.0, 2.0)
    return runs / np.maximum(runs - constants * (2 - ratio), 1)


def residual_dof(run: Int[np.ndarray, " rows"], constants: int) -> float:
    """Degrees of freedom of the residual scale: effective runs less constants, at least 1."""
    return max(effective_runs(run) - constants, 1.0)


def residual_scale(
    residual: Float[np.ndarray, "tables rows"],
    run: Int[np.ndarray, " rows"],
    constants: int,
    objective: str,
    delta: float,
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> Float[np.ndarray, " tables"]:
    """Standard deviation of normal errors of rows that leave these residuals, corrected for the fitted constants.

    The correction is of the mean square between runs, by the number of runs: rows of one run err together, and the
    constants follow the runs, not the rows.

    Args:
        residual: of the rows, times the square root of their weights.
        run: number of the run of each row.
        constants: fitted.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold.
        config: of the moments.
    """
    runs, rows = effective_runs(run), residual.shape[1]
    between, within = (np.sum(part**2, axis=1) for part in between_within(residual, run))
    uncorrected = np.sqrt((between * runs / max(runs - constants, 1.0) + within) / rows)
    return np.sqrt((between * dof_correction(constants, runs, uncorrected, objective, delta, config) + within) / rows)


def seed_deviation(table: Table, keep: Bool[np.ndarray, " rows"], log: bool = True) -> tuple[float | None, int]:
    """Pooled standard deviation of log loss among repeats (``Table.repeats``), and its degrees of freedom.

    Rows of one run at the same point are averaged first: they repeat its evaluation, not the run. Runs that are
    repeated at several points (two seeds with their checkpoints) count once.

    Args:
        table: the runs.
        keep: rows that are looked at.
        log: whether of log loss, else of the loss itself.

    Returns:
        the deviation, None where nothing is repeated, and runs less sets of runs that share points.
    """
    table = averaged_evaluations(table.take(keep))
    loss = np.log(table.loss) if log else table.loss
    group = np.unique(table.repeats(), return_inverse=True)[1].ravel()
    run, counts = np.unique(table.run, return_inverse=True)[1].ravel(), np.bincount(group)
    if len(loss) == len(counts):
        return None, 0
    mean = np.bincount(group, loss) / counts
    deviation = float(np.sqrt(np.sum((loss - mean[group]) ** 2) / (len(loss) - len(counts))))
    nodes = len(counts) + run.max() + 1  # points, then runs; a row joins two of them
    graph = coo_array((np.ones(len(run)), (group, len(counts) + run)), shape=(nodes, nodes))
    return deviation, int(run.max()) + 1 - int(connected_components(graph, directed=False, return_labels=False))


def noise_of(
    optimum: PointEstimate,
    table: Table,
    weight: Float[np.ndarray, " rows"],
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> RunNoise:
    """Noise of the fitted runs around the law.

    Args:
        optimum: the fit.
        table: its rows.
        weight: what each counts; rows of weight 0 were not fitted.
        config: of the moments.
    """
    keep = weight > 0
    residual = (np.sqrt(weight / weight[keep].mean()) * (np.log(table.loss) - optimum.predict(table.values)))[keep]
    constants, run = len(optimum.params), np.unique(table.run[keep], return_inverse=True)[1].ravel()
    (deviation,) = residual_scale(residual[None], run, constants, optimum.objective, optimum.delta, config)
    seeds, repeats = seed_deviation(table, keep)
    return RunNoise(seeds, float(deviation), residual_dof(run, constants), repeats)


def interval(draws: Float[np.ndarray, "draws ..."], level: float) -> tuple[Float[np.ndarray, "..."], ...]:
    """The central interval of the draws that are finite; NaN where none is."""
    draws = np.asarray(draws, np.float64)
    draws = np.where(np.isfinite(draws), draws, np.nan)
    if len(draws) == 0 or np.isnan(draws).all():
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    return tuple(np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))
