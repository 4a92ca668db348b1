"""Many small fits at once: a damped saddle-free Newton method with bounds, vectorised over starts and resamples.

Steps use exact second derivatives, with the absolute values of the Hessian's eigenvalues, so that saddle points repel
(saddle-free Newton: Dauphin et al. 2014, arXiv 1406.2572). Eigenvalues and damping (Marquardt 1963, SIAM Journal 11) are
measured in the metric of iteratively reweighted least squares (Holland and Welsch 1977, Communications in Statistics 6).
Bounds are kept by an active set: a constant at a bound that would go beyond it stays, and the others step without it.
Each problem has damping and convergence of its own; in every round those that are unfinished take a step together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.base.x64 import float64
from laws.estimation.derivatives import Columns, Derivatives, Problems
from laws.estimation.objectives import OBJECTIVES
from laws.model.coordinates import Coordinates
from laws.model.law import Law

MAX_STEPS = 300
FIRST_DAMPING, LEAST_DAMPING, LARGEST_DAMPING = 1e-3, 1e-9, 1e9
DAMPED_LESS, DAMPED_MORE = 0.1, 8.0  # by which damping changes after a step that lowers the objective, or does not
TOLERANCE = 1e-13  # expected further decrease, relative to the objective
RIDGE = 1e-12  # added to the metric, scaled to a unit diagonal, so that it is never singular
SINGULAR = 1e-12  # least eigenvalue of a Hessian with unit diagonal at a point that counts as a minimum
ROUNDING = 1e-27  # of the objective per unit of weight: what is left of it in a table without noise

# The optimiser's coordinates and numbers of some problems -> values, gradients and positive semidefinite Hessians.
Penalty = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class MinimizerResult:
    """Where every problem ended.

    Args:
        params: the constants, in natural units.
        value: the summed objective.
        decrement: what a further Newton step expects to gain, relative to the objective.
        gradient: largest component of the gradient relative to the objective, active bounds left out.
        smallest, largest: extreme eigenvalues of the Hessian scaled to a unit diagonal, active bounds left out.
        converged: whether it is a minimum to within ``TOLERANCE``.
        at_bound: which constants ended on a bound.
    """

    params: Float[np.ndarray, "problems params"]
    value: Float[np.ndarray, " problems"]
    decrement: Float[np.ndarray, " problems"]
    gradient: Float[np.ndarray, " problems"]
    smallest: Float[np.ndarray, " problems"]
    largest: Float[np.ndarray, " problems"]
    converged: Bool[np.ndarray, " problems"]
    at_bound: Bool[np.ndarray, "problems params"]


@dataclass
class _Search:
    """The state of all problems: the best point of each so far, and the one to be tried next.

    Args:
        point: the best points, in the optimiser's coordinates.
        candidate: the next points.
        derivatives: at the best points.
        free: coordinates that may move and are not at an active bound.
        damping: of the next steps.
        decrement: expected decrease of an undamped step.
        steps: points tried so far.
        converged: which are at a minimum.
    """

    point: Float[np.ndarray, "problems params"]
    candidate: Float[np.ndarray, "problems params"]
    derivatives: Derivatives
    free: Bool[np.ndarray, "problems params"]
    damping: Float[np.ndarray, " problems"]
    decrement: Float[np.ndarray, " problems"]
    steps: Int[np.ndarray, " problems"]
    converged: Bool[np.ndarray, " problems"]

    @classmethod
    def at(cls, start: Float[np.ndarray, "problems params"]) -> _Search:
        """Before anything was evaluated."""
        problems, params = start.shape
        hessian, metric = np.zeros((2, problems, params, params))
        return cls(
            point=start.copy(),
            candidate=start.copy(),
            derivatives=Derivatives(np.full(problems, np.inf), np.zeros_like(start), hessian, metric),
            free=np.ones((problems, params), bool),
            damping=np.full(problems, FIRST_DAMPING),
            decrement=np.full(problems, np.inf),
            steps=np.zeros(problems, int),
            converged=np.zeros(problems, bool),
        )

    def unfinished(self, max_steps: int) -> Int[np.ndarray, " some"]:
        """The problems that have neither converged nor been given up."""
        return np.flatnonzero(~self.converged & (self.steps < max_steps) & (self.damping < LARGEST_DAMPING))

    def accept(self, i: Int[np.ndarray, " some"], tried: Derivatives) -> None:
        """Move the problems whose objective is lower at the point that was tried, and adapt damping."""
        better = (tried.value < self.derivatives.value[i]) & np.isfinite(tried.hessian).all((1, 2))
        moved = i[better]
        self.point[moved] = self.candidate[moved]
        for best, new in zip(self.derivatives, tried, strict=True):
            best[moved] = new[better]
        less = np.maximum(self.damping[i] * DAMPED_LESS, LEAST_DAMPING)
        self.damping[i] = np.where(better, less, self.damping[i] * DAMPED_MORE)
        self.steps[i] += 1


def _equilibrate(derivatives: Derivatives, free: Bool[np.ndarray, "problems params"]):
    """Scales that give curvatures of about one, and Hessians and metrics on them; the identity where a constant stays.

    Returns:
        scales, Hessians, metrics.
    """
    _, _, hessian, metric = derivatives
    stays = np.einsum("bi,ij->bij", ~free, np.eye(free.shape[1]))
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2)) + np.diagonal(metric, axis1=1, axis2=2)
    scale = np.where(free, 1 / np.sqrt(diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-300), 0.0)
    both = scale[:, :, None] * scale[:, None, :]
    return scale, hessian * both + stays, metric * both + stays


def _newton_steps(
    derivatives: Derivatives, free: Bool[np.ndarray, "problems params"], damping: Float[np.ndarray, " problems"]
) -> tuple[Float[np.ndarray, "problems params"], Float[np.ndarray, " problems"]]:
    """Damped saddle-free Newton steps over the free coordinates, and the expected decrease of the undamped ones.

    In coordinates that make the metric the identity, each eigenvector of the Hessian is followed by its gradient over
    (|eigenvalue| + damping). The metric does not depend on how the law is parametrised; so the step goes from Newton's,
    without damping, to one that descends wherever the residuals are nearly linear, with a damping of one.
    """
    scale, hessian, metric = _equilibrate(derivatives, free)
    gradient = scale * np.where(free, derivatives.gradient, 0.0)
    whiten = np.linalg.inv(np.linalg.cholesky(metric + RIDGE * np.eye(free.shape[1])))
    eigenvalues, vectors = np.linalg.eigh(whiten @ hessian @ np.swapaxes(whiten, 1, 2))
    towards = np.swapaxes(vectors, 1, 2) @ whiten
    slope = np.einsum("bij,bj->bi", towards, gradient)
    size = np.abs(eigenvalues) + 1e-14
    steps = -scale * np.einsum("bij,bi->bj", towards, slope / (size + damping[:, None]))
    return steps, 0.5 * np.sum(slope**2 / size, axis=1)


def _extreme_eigenvalues(
    derivatives: Derivatives, free: Bool[np.ndarray, "problems params"]
) -> Float[np.ndarray, "problems 2"]:
    """Smallest and largest eigenvalues of the Hessians scaled to a unit diagonal."""
    return np.linalg.eigvalsh(_equilibrate(derivatives, free)[1])[:, [0, -1]]


def _candidates(point, derivatives, free, damping, low, high, directions):
    """Next points within the bounds, and the expected decreases (see ``_newton_steps``).

    A step stops where it first meets a bound; constants already there that would go further stay, and the others step
    without them. (Cutting each constant off by itself would move the others by what belonged to the cut ones.)
    """
    steps, decrement = _newton_steps(derivatives, free, damping)
    steps = steps @ directions.T
    blocked = free & (((point <= low) & (steps < 0)) | ((point >= high) & (steps > 0)))
    i = np.flatnonzero(blocked.any(axis=1))
    if len(i):
        steps[i] = _newton_steps(derivatives.take(i), free[i] & ~blocked[i], damping[i])[0] @ directions.T
    ahead = np.where(steps < 0, low, high)
    share = np.where((steps == 0) | (ahead == point), np.inf, (ahead - point) / steps)
    reach = np.minimum(share.min(axis=1, keepdims=True), 1.0)
    return np.clip(np.where(share <= reach, ahead, point + reach * steps), low, high), decrement


def minimise(
    law: Law,
    columns: Columns,
    log_loss: Float[np.ndarray, "#problems runs"],
    weight: Float[np.ndarray, "#problems runs"],
    starts: Float[np.ndarray, "problems params"],
    objective: str = "log_huber",
    delta: float = 1e-3,
    max_steps: int = MAX_STEPS,
    penalty: Penalty | None = None,
    free_mask: Bool[np.ndarray, " params"] | None = None,
    directions: Float[np.ndarray, "params params"] | None = None,
    tolerance: float = TOLERANCE,
    singular: float = SINGULAR,
) -> MinimizerResult:
    """Every problem brought to its local minimum, bounds respected.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        log_loss: measured log losses, one row for all problems or one each.
        weight: what each run counts (0 leaves it out), likewise.
        starts: constants to start from, in natural units.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        max_steps: a problem that needs more ends where it is, not converged.
        penalty: what is added to the objective.
        free_mask: which of the optimiser's coordinates may move; by default all.
        directions: the direction in which each of them moves, a column each; by default its own.
        tolerance: expected further decrease, relative to the objective, at which a problem is done.
        singular: least eigenvalue of a Hessian with unit diagonal at which it may be.
    """
    problems, params = starts.shape
    free_mask = np.ones(params, bool) if free_mask is None else free_mask
    directions = np.eye(params) if directions is None else directions
    columns = {variable: np.asarray(columns[variable], np.float64) for variable in law.columns}
    coordinates, rule = Coordinates.of(law, columns), OBJECTIVES[objective]
    low, high = coordinates.bounds()
    log_loss, weight = (np.broadcast_to(a, (problems, log_loss.shape[-1])) for a in (log_loss, weight))
    fits = Problems(coordinates, columns, log_loss, rule.weights(weight, log_loss), rule, float(delta))
    rounding = ROUNDING * fits.weight.sum(axis=1)
    with float64(), np.errstate(all="ignore"):
        search = _Search.at(np.clip(np.asarray(coordinates.to_unconstrained(np.asarray(starts, float))), low, high))
        while len(i := search.unfinished(max_steps)):
            tried = fits.derivatives(search.candidate[i], i)
            if penalty is not None:
                tried = tried.plus(*penalty(search.candidate[i], i))
            search.accept(i, tried.along(directions))
            i = i[np.isfinite(search.derivatives.value[i])]
            here, point = search.derivatives.take(i), search.point[i]
            active = ((point <= low) & (here.gradient > 0)) | ((point >= high) & (here.gradient < 0))
            search.free[i] = free_mask & ~active
            search.candidate[i], search.decrement[i] = _candidates(
                point, here, search.free[i], search.damping[i], low, high, directions
            )
            done = search.decrement[i] <= tolerance * here.value + rounding[i]
            if done.any():
                smallest = _extreme_eigenvalues(here.take(done), search.free[i[done]])[:, 0]
                search.converged[i[done]] = smallest > singular
        return _result(search, coordinates, rounding)


def _result(search: _Search, coordinates: Coordinates, rounding: Float[np.ndarray, " problems"]) -> MinimizerResult:
    """Where the problems ended, and how far they are from a minimum there."""
    known = np.isfinite(search.derivatives.value)
    eigenvalues = np.full((len(known), 2), np.nan)
    eigenvalues[known] = _extreme_eigenvalues(search.derivatives.take(known), search.free[known])
    size = np.where(known, search.derivatives.value + rounding, 1.0)
    steepest = np.max(np.abs(np.where(search.free, search.derivatives.gradient, 0.0)), axis=1)
    low, high = coordinates.bounds()
    return MinimizerResult(
        params=np.asarray(coordinates.to_params(search.point)),
        value=search.derivatives.value,
        decrement=search.decrement / size,
        gradient=np.where(known, steepest / size, np.inf),
        smallest=eigenvalues[:, 0],
        largest=eigenvalues[:, 1],
        converged=search.converged,
        at_bound=(search.point <= low) | (search.point >= high),
    )
