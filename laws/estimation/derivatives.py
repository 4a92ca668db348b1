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

# Numbers that are evaluated together, points times runs. Arrays of so many stay in a core's cache, and below the 128 kB
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
        """The same with a convex penalty added to the objective.

        Args:
            value: of the penalty, one a problem.
            gradient: its first derivatives.
            hessian: its second derivatives, positive semidefinite.
        """
        return Derivatives(self.value + value, self.gradient + gradient, self.hessian + hessian, self.metric + hessian)


class _Predictions(NamedTuple):
    """Predictions for some runs at some points, with the slopes of their logs and their own second derivatives.

    Args:
        points, runs: which.
        value: the predictions.
        slopes: first derivatives of their logs.
        second: pair of coordinates -> second derivative of the predictions, where it is not zero.
    """

    points: slice
    runs: slice
    value: Float[np.ndarray, "points runs"]
    slopes: Float[np.ndarray, "points params runs"]
    second: Mapping[tuple[int, int], np.ndarray]


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most some size."""
    return (slice(start, start + size) for start in range(0, count, size))


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
) -> Iterator[_Predictions]:
    """Predictions for all runs at all points, block by block."""
    law, count = coordinates.law, len(next(iter(columns.values())))
    cells = max(1, CELLS // law.terms_per_row)
    for runs in _blocks(count, cells):
        some = {variable: values[runs] for variable, values in columns.items()}
        shared = {"centre": coordinates.centre, "columns": some}
        for points in _blocks(len(unconstrained), max(1, cells // count)):
            block = unconstrained[points]
            prediction = _prediction(law)(list(block.T[:, :, None]), shared=shared)
            value = np.broadcast_to(prediction.value, (len(block), min(count - runs.start, cells)))
            slopes = np.zeros((*block.shape, value.shape[1]))
            for i, partial in prediction.first.items():
                np.divide(partial, value, out=slopes[:, i])
            yield _Predictions(points, runs, value, slopes, prediction.second)


def log_slopes(
    coordinates: Coordinates, columns: Columns, unconstrained: Float[np.ndarray, "points params"]
) -> Float[np.ndarray, "points runs params"]:
    """Derivatives of the logs of the predictions in the optimiser's coordinates.

    Args:
        coordinates: of the law.
        columns: variable -> values of the runs, natural units.
        unconstrained: points in the optimiser's coordinates.
    """
    points, params = unconstrained.shape
    slopes = np.empty((points, len(next(iter(columns.values()))), params))
    for block in _predictions(coordinates, columns, unconstrained):
        slopes[block.points, block.runs] = np.swapaxes(block.slopes, 1, 2)
    return slopes


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
        value, gradient = np.zeros(some), np.zeros((some, params))
        hessian, metric = np.zeros((2, some, params, params))
        for points, runs, predicted, slopes, second in _predictions(self.coordinates, self.columns, unconstrained):
            weight = self.weight[numbers[points], runs]
            residual = np.log(predicted) - self.log_loss[numbers[points], runs]
            psi = weight * self.objective.psi(residual, self.delta)
            psi_prime = weight * self.objective.psi_prime(residual, self.delta)
            irls_weight = np.where(residual == 0, weight, psi / np.where(residual == 0, 1.0, residual))
            value[points] += np.sum(weight * self.objective.loss(residual, self.delta), axis=1)
            gradient[points] += (slopes @ psi[:, :, None])[:, :, 0]
            hessian[points] += _products(slopes, psi_prime - psi)
            metric[points] += _products(slopes, irls_weight)
            psi_per_prediction = psi / predicted
            for (i, j), partial in second.items():
                curvature = np.sum(psi_per_prediction * partial, axis=1)
                hessian[points, i, j] += curvature
                if i != j:
                    hessian[points, j, i] += curvature
        return Derivatives(value, gradient, hessian, metric)


def _products(
    slopes: Float[np.ndarray, "block params runs"], weight: Float[np.ndarray, "block runs"]
) -> Float[np.ndarray, "block params params"]:
    """Weighted sums over runs of the outer products of slopes."""
    return (slopes * weight[:, None]) @ np.swapaxes(slopes, 1, 2)
