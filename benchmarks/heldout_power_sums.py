"""Sums of power laws fitted by scipy, for contenders of `benchmarks.heldout`: L = E + sum over drivers of a_i x_i^-p_i.

The drivers are parameters and tokens of a surface (the additive law of Hoffmann et al. 2022), or the examples of a curve.
Each is divided by its geometric mean over the fitted rows, so that E and a_i are the terms there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares, minimize, nnls
from scipy.special import logsumexp, softmax

from benchmarks.heldout_cases import Points, Rows

DELTA = 1e-3  # Huber's threshold, in log loss
EXPONENTS = (0.1, 0.2, 0.35, 0.6, 1.0)  # of the grid of starts, along every driver
EXPONENT_RANGE = (0.01, 3.0)
EVALUATIONS = 1000  # of the residuals in a fit, at most
OF_RESAMPLES = 60  # and in that of a resample, which begins at the optimum
STARTS = 3  # best points of the grid that are refined
TOLERANCE = 1e-12  # with scipy's default of 1e-8 a Huber fit of a public table stops 9% above its optimum
SMALLEST = 1e-6  # of the least loss: a term at which projection put zero starts here

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def drivers(rows: Rows | Points) -> dict[str, Float[np.ndarray, " rows"]]:
    """What the loss is a function of: N and D of surfaces, D of curves."""
    return {"d": rows.d} if np.isnan(rows.n).all() else {"n": rows.n, "d": rows.d}


class Objective(StrEnum):
    """What is minimised."""

    HUBER = "huber"  # of log residuals
    SQUARES = "squares"  # of residuals of the loss


@dataclass(frozen=True)
class PowerSumFit:
    """A fitted sum of power laws.

    Args:
        params: log E, the logs of the terms at the centre, and the exponents.
        centre: mean logarithm of each driver.
        logs: centred logarithms of the fitted rows (drivers, rows).
        loss: measured loss.
        objective: that was minimised.
    """

    params: Float[np.ndarray, " params"]
    centre: dict[str, float]
    logs: Float[np.ndarray, "drivers rows"]
    loss: Float[np.ndarray, " rows"]
    objective: Objective

    def at(self, params: Float[np.ndarray, " params"], columns: Columns) -> Float[np.ndarray, " rows"]:
        """Log loss of rows under given constants."""
        return log_sum(params, np.stack([np.log(columns[name]) - self.centre[name] for name in self.centre]))

    @property
    def residual(self) -> Float[np.ndarray, " rows"]:
        """Log of the measured loss less log of the fitted one."""
        return np.log(self.loss) - log_sum(self.params, self.logs)


def _terms(params: Float[np.ndarray, " params"], logs: Float[np.ndarray, "drivers rows"]) -> np.ndarray:
    count = len(logs)
    powers = params[1 : count + 1, None] - params[count + 1 :, None] * logs
    return np.concatenate([np.full((1, logs.shape[1]), params[0]), powers])


def log_sum(
    params: Float[np.ndarray, " params"], logs: Float[np.ndarray, "drivers rows"]
) -> Float[np.ndarray, " rows"]:
    """Log loss: log E first, then logs of the terms, then exponents."""
    return np.asarray(logsumexp(_terms(params, logs), axis=0))


def slopes(
    params: Float[np.ndarray, " params"], logs: Float[np.ndarray, "drivers rows"]
) -> Float[np.ndarray, "rows params"]:
    """Derivatives of the log loss by the constants."""
    shares = softmax(_terms(params, logs), axis=0)
    return np.concatenate([shares, -shares[1:] * logs]).T


def _project(exponents: np.ndarray, logs: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, float]:
    """Non-negative E and terms of least squares at given exponents, and the root of the sum of squares."""
    design = np.concatenate([np.ones((1, len(loss))), np.exp(-exponents[:, None] * logs)]).T
    return nnls(design, loss)


def _as_params(exponents: np.ndarray, logs: np.ndarray, loss: np.ndarray) -> np.ndarray:
    terms, _ = _project(exponents, logs, loss)
    return np.r_[np.log(np.maximum(terms, SMALLEST * loss.min())), exponents]


def _huber(start: np.ndarray, logs: np.ndarray, log_loss: np.ndarray, evaluations: int) -> tuple[np.ndarray, float]:
    """Constants of the least Huber loss of log residuals, squares first; and that loss.

    Args:
        start: constants.
        logs: centred logarithms of the drivers.
        log_loss: measured.
        evaluations: of the residuals in each stage, at most.
    """
    count = len(logs)
    low = np.r_[np.full(count + 1, -np.inf), np.full(count, 0.0)]
    high = np.r_[np.full(count + 1, np.inf), np.full(count, EXPONENT_RANGE[1])]
    params = np.clip(start, low + 1e-9, high - 1e-9)
    found = None
    for loss, scale in (("linear", 1.0), ("huber", DELTA)):
        found = least_squares(
            lambda point: log_sum(point, logs) - log_loss,
            params,
            jac=lambda point: slopes(point, logs),  # type: ignore[arg-type]
            bounds=(low, high),
            x_scale="jac",
            max_nfev=evaluations,
            ftol=TOLERANCE,
            xtol=TOLERANCE,
            gtol=TOLERANCE,
            loss=loss,
            f_scale=scale,
        )
        params = np.clip(found.x, low + 1e-9, high - 1e-9)
    assert found is not None
    return found.x, float(found.cost)


def _squares(start: np.ndarray, logs: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, float]:
    """Exponents of least squares of the loss, E and the terms projected at each; and the root of the sum."""
    outer = lambda point: _project(np.clip(point, *EXPONENT_RANGE), logs, loss)[1]
    found = minimize(outer, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 2000})
    return np.clip(found.x, *EXPONENT_RANGE), float(found.fun)


def fit(columns: Columns, loss: Float[np.ndarray, " rows"], objective: Objective) -> PowerSumFit:
    """A sum of power laws fitted to rows, from the best points of a grid of exponents.

    Args:
        columns: values of each driver.
        loss: measured loss.
        objective: what is minimised.
    """
    centre = {name: float(np.log(values).mean()) for name, values in columns.items()}
    logs = np.stack([np.log(values) - centre[name] for name, values in columns.items()])
    grid = [np.array(point) for point in itertools.product(EXPONENTS, repeat=len(logs))]
    starts = sorted(grid, key=lambda point: _project(point, logs, loss)[1])[:STARTS]
    if objective is Objective.SQUARES:
        exponents = min((_squares(start, logs, loss) for start in starts), key=lambda end: end[1])[0]
        params = _as_params(exponents, logs, loss)
    else:
        ends = [_huber(_as_params(start, logs, loss), logs, np.log(loss), EVALUATIONS) for start in starts]
        params = min(ends, key=lambda end: end[1])[0]
    return PowerSumFit(params, centre, logs, loss, objective)


def bootstrap(
    found: PowerSumFit, run: np.ndarray, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples params"]:
    """Constants of resampled runs, each refitted from those of all runs.

    Args:
        found: by Huber's loss.
        run: of each row; rows of one run are drawn together.
        resamples: how many.
        rng: of the draws.
    """
    names, member = np.unique(run.astype(str), return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    log_loss = np.log(found.loss)
    resampled = [np.repeat(np.arange(len(member)), count[member]) for count in counts]
    return np.stack([_huber(found.params, found.logs[:, rows], log_loss[rows], OF_RESAMPLES)[0] for rows in resampled])


def linearised(
    found: PowerSumFit, columns: Columns
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Log loss of new runs, and its standard deviations from the constants and from a run's noise.

    Args:
        found: by squares, at which the law is linearised.
        columns: values of each driver.
    """
    fitted = np.exp(log_sum(found.params, found.logs))
    jacobian = fitted[:, None] * slopes(found.params, found.logs)
    dof = max(len(found.loss) - len(found.params), 1)
    deviation = np.sqrt(np.sum((found.loss - fitted) ** 2) / dof)
    logs = np.stack([np.log(columns[name]) - found.centre[name] for name in found.centre])
    ahead = slopes(found.params, logs)
    spread = np.sum((ahead @ np.linalg.pinv(jacobian.T @ jacobian)) * ahead, axis=1)
    centre = log_sum(found.params, logs)
    return centre, deviation * np.sqrt(np.maximum(spread, 0.0)), deviation * np.exp(-centre)
