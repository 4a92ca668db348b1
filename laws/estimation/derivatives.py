"""Predictions of a law, and objectives of a fit, with their exact derivatives in the optimiser's coordinates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from laws.base.differentiate import second_order
from laws.base.hyperdual import HyperDual
from laws.estimation.objectives import Objective
from laws.model.coordinates import Coordinates
from laws.model.law import Law

# Points times runs that are evaluated together. Arrays of so many numbers stay in a core's cache, and below the 128 kB
# from which glibc maps fresh pages for each of them.
CELLS = 12_000

Columns = dict[str, Float[np.ndarray, " runs"]]  # variable -> values of the runs, natural units


class Derivatives(NamedTuple):
    """An objective and its derivatives, at a point for each problem.

    Args:
        value: the objective.
        gradient, hessian: its first and second derivatives.
        metric: the Hessian of iteratively reweighted least squares, that of a parabola which touches the objective from
            above where the law is linear; positive semidefinite.
    """

    value: Float[np.ndarray, " problems"]
    gradient: Float[np.ndarray, "problems params"]
    hessian: Float[np.ndarray, "problems params params"]
    metric: Float[np.ndarray, "problems params params"]

    def take(self, which: np.ndarray) -> Derivatives:
        """Those of some problems, by number or mask."""
        return Derivatives(*(part[which] for part in self))

    def along(self, directions: Float[np.ndarray, "params params"]) -> Derivatives:
        """The same in other coordinates, whose directions are the columns."""
        turned = lambda matrix: directions.T @ matrix @ directions
        return Derivatives(self.value, self.gradient @ directions, turned(self.hessian), turned(self.metric))

    def plus(self, value: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> Derivatives:
        """With something convex added to the objective."""
        return Derivatives(self.value + value, self.gradient + gradient, self.hessian + hessian, self.metric + hessian)


class _Prediction(NamedTuple):
    """Predictions at a block of points, with the slopes of their logs and their own second derivatives.

    Args:
        block: which points.
        value: the predictions.
        slopes: first derivatives of their logs.
        second: pair of coordinates -> second derivative of the predictions, where it is not zero.
    """

    block: slice
    value: Float[np.ndarray, "block runs"]
    slopes: Float[np.ndarray, "block params runs"]
    second: Mapping[tuple[int, int], np.ndarray]


@functools.lru_cache(maxsize=64)
def _prediction(law: Law) -> Callable[..., HyperDual]:
    """The law's prediction with its derivatives in the optimiser's coordinates; what JAX compiled for it is kept."""
    return second_order(
        lambda unconstrained, _, shared: law.value(
            Coordinates(law, shared["centre"]).constants(unconstrained), shared["columns"]
        )
    )


def _predictions(
    coordinates: Coordinates, columns: Columns, unconstrained: Float[np.ndarray, "points params"]
) -> Iterator[_Prediction]:
    """Predictions block by block."""
    law, runs = coordinates.law, len(next(iter(columns.values())))
    shared = {"centre": coordinates.centre, "columns": columns}
    step = max(1, CELLS // (runs * law.terms_per_row))
    for start in range(0, len(unconstrained), step):
        block = slice(start, start + step)
        points = unconstrained[block]
        prediction = _prediction(law)(list(points.T[:, :, None]), shared=shared)
        value = np.broadcast_to(prediction.value, (len(points), runs))
        slopes = np.zeros((*points.shape, runs))
        for i, partial in prediction.first.items():
            np.divide(partial, value, out=slopes[:, i])
        yield _Prediction(block, value, slopes, prediction.second)


def log_slopes(
    coordinates: Coordinates, columns: Columns, unconstrained: Float[np.ndarray, "points params"]
) -> Float[np.ndarray, "points runs params"]:
    """Derivatives of the logs of the predictions."""
    blocks = [at.slopes for at in _predictions(coordinates, columns, unconstrained)]
    return np.swapaxes(np.concatenate(blocks), 1, 2)


@dataclass(frozen=True)
class Problems:
    """Fits of one law to one set of runs, which differ in log losses and weights.

    Args:
        coordinates: in which the constants are varied.
        columns: values of the runs.
        log_loss: measured log losses.
        weight: what each run counts.
        objective: loss of one residual.
        delta: its threshold, in log loss.
    """

    coordinates: Coordinates
    columns: Columns
    log_loss: Float[np.ndarray, "problems runs"]
    weight: Float[np.ndarray, "problems runs"]
    objective: Objective
    delta: float

    def derivatives(
        self, unconstrained: Float[np.ndarray, "some params"], numbers: Int[np.ndarray, " some"]
    ) -> Derivatives:
        """The objectives of some problems at a point each.

        With residuals r = log f - y, slopes s of log f and weights w, the Hessian is the sum over runs of
        w (psi' - psi) s s^T + w psi f'' / f, as that of log f is f'' / f - s s^T.

        Args:
            unconstrained: the points.
            numbers: which problem each belongs to.
        """
        some, params = unconstrained.shape
        value, gradient = np.empty(some), np.empty((some, params))
        hessian, metric = np.empty((2, some, params, params))
        for block, predicted, slopes, second in _predictions(self.coordinates, self.columns, unconstrained):
            weight = self.weight[numbers[block]]
            residual = np.log(predicted) - self.log_loss[numbers[block]]
            psi = weight * self.objective.psi(residual, self.delta)
            psi_prime = weight * self.objective.psi_prime(residual, self.delta)
            irls_weight = np.where(residual == 0, weight, psi / np.where(residual == 0, 1.0, residual))
            value[block] = np.sum(weight * self.objective.loss(residual, self.delta), axis=1)
            gradient[block] = (slopes @ psi[:, :, None])[:, :, 0]
            hessian[block] = _products(slopes, psi_prime - psi)
            metric[block] = _products(slopes, irls_weight)
            psi_per_prediction = psi / predicted
            for (i, j), partial in second.items():
                curvature = np.sum(psi_per_prediction * partial, axis=1)
                hessian[block, i, j] += curvature
                if i != j:
                    hessian[block, j, i] += curvature
        return Derivatives(value, gradient, hessian, metric)


def _products(
    slopes: Float[np.ndarray, "block params runs"], weight: Float[np.ndarray, "block runs"]
) -> Float[np.ndarray, "block params params"]:
    """Weighted sums over runs of the outer products of slopes."""
    return (slopes * weight[:, None]) @ np.swapaxes(slopes, 1, 2)
