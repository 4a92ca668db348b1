"""Many small fits at once: damped Newton with exact derivatives, vectorised over starts and resamples, in float64.

Each problem is a start, a vector of log losses and a vector of run weights; all share the columns of the runs. One
compiled program looks at a block of problems; whichever are unfinished fill the block, so a slow one holds up no other.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from laws.base.x64 import float64
from laws.estimation.objectives import OBJECTIVES, objective_weights
from laws.model.coordinates import Coordinates
from laws.model.law import Law

BLOCK, CELLS = 128, 2**17  # problems looked at together: at most so many, and so many times the runs
SHAPES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # numbers of runs, of which small tables take the next
MAX_STEPS = 300
FIRST_DAMPING, LEAST_DAMPING, LARGEST_DAMPING = 1e-3, 1e-9, 1e9
TOLERANCE = 1e-13  # expected further decrease, relative to the objective
RIDGE = 1e-12
SINGULAR = 1e-12  # least eigenvalue of a Hessian with unit diagonal at a point that counts as a minimum
ROUNDING = 1e-27  # ... and per run, where the objective itself is rounding error (a noiseless table)


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


def problems_per_block(law: Law, runs: int) -> int:
    """How many problems are looked at together: a power of two, bounded by what they hold in memory."""
    return max(1, min(BLOCK, 2 ** int(np.log2(max(CELLS / (runs * law.terms_per_row), 1)))))


def pad_runs(
    values: Float[np.ndarray, "*problems runs"], mode: Literal["edge", "constant"] = "edge"
) -> Float[np.ndarray, "*problems more"]:
    """Runs repeated, or zero ("constant"), up to the next of ``SHAPES``: tables of about one length share a program."""
    runs = values.shape[-1]
    extra = next((shape for shape in SHAPES if shape >= runs), runs) - runs
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, extra)], mode) if extra else values


@functools.lru_cache(maxsize=64)
def _program(law: Law, objective: str):
    """Value, gradient, exact Hessian and metric of the summed objective for a block of problems, compiled."""
    rho = OBJECTIVES[objective]

    def evaluate(unconstrained, centre, columns, log_loss, weight, delta):
        # Forward over forward: for a handful of constants it compiles in half the time of forward over reverse.
        predict = lambda unconstrained: law.log_value(Coordinates(law, centre).to_params(unconstrained), columns)
        residual, rows = predict(unconstrained) - log_loss, jax.jacfwd(predict)(unconstrained)
        penalty = jax.grad(lambda r: jnp.sum(rho(r, delta)))
        psi, psi_prime = jax.jvp(penalty, (residual,), (jnp.ones_like(residual),))
        psi, psi_prime = weight * psi, weight * psi_prime
        irls_weight = jnp.where(residual == 0, weight, psi / jnp.where(residual == 0, 1.0, residual))
        residual_curvature = jax.jacfwd(jax.jacfwd(lambda unconstrained: jnp.sum(psi * predict(unconstrained))))(
            unconstrained
        )
        value = jnp.sum(weight * rho(residual, delta))
        return value, psi @ rows, (rows.T * psi_prime) @ rows + residual_curvature, (rows.T * irls_weight) @ rows

    return jax.jit(jax.vmap(evaluate, in_axes=(0, None, None, 0, 0, None)))


def _moves(gradient, hessian, metric, inside, damping):
    """Damped saddle-free Newton steps over the constants that are not at an active bound.

    Damping is measured in the metric of reweighted least squares, the curvature of a parabola that touches the
    objective from above. So it does not depend on how the law is parametrised, and between no damping and one the step
    goes from Newton's to one that descends wherever the residuals are nearly linear.

    Returns:
        steps, expected decrease of the undamped ones, extreme eigenvalues of the Hessians scaled to a unit diagonal.
    """
    outside = np.einsum("bi,ij->bij", ~inside, np.eye(inside.shape[1]))
    gradient = np.where(inside, gradient, 0.0)
    diagonal = np.abs(np.diagonal(hessian, axis1=-2, axis2=-1)) + np.diagonal(metric, axis1=-2, axis2=-1)
    scale = np.where(inside, 1 / np.sqrt(diagonal + 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300), 0.0)
    squeeze = scale[:, :, None] * scale[:, None, :]
    extremes = np.linalg.eigvalsh(hessian * squeeze + outside)[:, [0, -1]]
    root = np.linalg.cholesky(metric * squeeze + outside + RIDGE * np.eye(inside.shape[1]))
    whiten = np.linalg.inv(root)
    white = whiten @ (hessian * squeeze + outside) @ np.swapaxes(whiten, 1, 2)
    eigenvalues, vectors = np.linalg.eigh(white)
    towards = np.swapaxes(vectors, 1, 2) @ whiten
    along = np.einsum("bij,bj->bi", towards, scale * gradient)
    size = np.abs(eigenvalues) + 1e-14
    moves = -scale * np.einsum("bij,bi->bj", towards, along / (size + damping[:, None]))
    return moves, 0.5 * np.sum(along**2 / size, axis=1), extremes


def _candidates(unconstrained, gradient, hessian, metric, inside, damping, low, high, directions):
    """Next points within the bounds, expected decreases and extreme eigenvalues (see ``_moves``).

    A step stops where it first meets a bound; constants already there that would go further stay, and the others step
    without them. (Cutting each constant off by itself would move the others by what belonged to the cut ones.)
    """
    moves, gain, extremes = _moves(gradient, hessian, metric, inside, damping)
    moves = moves @ directions.T
    blocked = inside & (((unconstrained <= low) & (moves < 0)) | ((unconstrained >= high) & (moves > 0)))
    i = np.flatnonzero(blocked.any(axis=1))
    if len(i):
        moves[i] = _moves(gradient[i], hessian[i], metric[i], inside[i] & ~blocked[i], damping[i])[0] @ directions.T
    ahead = np.where(moves < 0, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where((moves == 0) | (ahead == unconstrained), np.inf, (ahead - unconstrained) / moves)
    reach = np.minimum(share.min(axis=1, keepdims=True), 1.0)
    return np.clip(np.where(share <= reach, ahead, unconstrained + reach * moves), low, high), gain, extremes


def minimise(
    law: Law,
    columns: dict[str, Float[np.ndarray, " runs"]],
    log_loss: Float[np.ndarray, "#problems runs"],
    weight: Float[np.ndarray, "#problems runs"],
    starts: Float[np.ndarray, "problems params"],
    objective: str = "log_huber",
    delta: float = 1e-3,
    max_steps: int = MAX_STEPS,
    penalty: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
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
        objective: a key of ``OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        max_steps: a problem that needs more ends where it is, not converged.
        penalty: what is added to the objective: the optimiser's coordinates and numbers of some problems to values,
            gradients and positive semidefinite Hessians.
        free_mask: which of the optimiser's coordinates may move; by default all.
        directions: the direction in which each of them moves, a column each; by default its own.
        tolerance: expected further decrease, relative to the objective, at which a problem is done.
        singular: least eigenvalue of a Hessian with unit diagonal at which it may be.
    """
    count, width = starts.shape
    free_mask = np.ones(width, bool) if free_mask is None else free_mask
    directions = np.eye(width) if directions is None else directions
    log_loss, weight = (np.broadcast_to(a, (count, log_loss.shape[-1])) for a in (log_loss, weight))
    inputs = {variable: np.asarray(columns[variable], np.float64) for variable in law.columns}
    weight = objective_weights(objective, weight, log_loss)
    rounding = ROUNDING * weight.sum(axis=1)
    coordinates = Coordinates.of(law, inputs)
    low, high = coordinates.bounds()
    with float64(), np.errstate(all="ignore"):
        unconstrained = np.clip(np.asarray(coordinates.to_unconstrained(np.asarray(starts, np.float64))), low, high)
    candidate = unconstrained.copy()
    value, gradient = np.full(count, np.inf), np.zeros((count, width))
    hessian, metric = np.zeros((2, count, width, width))
    decrement, steepest, extremes = np.full(count, np.inf), np.full(count, np.inf), np.full((count, 2), np.nan)
    damping, steps, converged = np.full(count, FIRST_DAMPING), np.zeros(count, int), np.zeros(count, bool)
    program = _program(law, objective)
    inputs = {variable: pad_runs(values) for variable, values in inputs.items()}
    log_loss, weight = pad_runs(log_loss), pad_runs(weight, "constant")
    block_size = problems_per_block(law, log_loss.shape[-1])
    while True:
        i = np.flatnonzero(~converged & (steps < max_steps) & (damping < LARGEST_DAMPING))[:block_size]
        if not len(i):
            break
        block = np.resize(i, block_size)  # repeated up to a full block, so that every call has one shape
        with float64():
            block_values = program(
                candidate[block], coordinates.centre, inputs, log_loss[block], weight[block], float(delta)
            )
            block_objective, slope, curve, stiff = (np.asarray(array)[: len(i)] for array in block_values)
        if penalty is not None:
            added = penalty(candidate[i], i)
            block_objective, slope, curve, stiff = (
                block_objective + added[0],
                slope + added[1],
                curve + added[2],
                stiff + added[2],
            )
        with np.errstate(invalid="ignore"):
            slope, curve, stiff = (
                slope @ directions,
                directions.T @ curve @ directions,
                directions.T @ stiff @ directions,
            )
        better = (block_objective < value[i]) & np.isfinite(curve).all((1, 2))
        j = i[better]
        unconstrained[j], value[j], gradient[j] = candidate[j], block_objective[better], slope[better]
        hessian[j], metric[j] = curve[better], stiff[better]
        damping[i] = np.where(better, np.maximum(damping[i] / 10, LEAST_DAMPING), damping[i] * 8)
        steps[i] += 1
        i = i[np.isfinite(value[i])]
        inside = free_mask & ~(
            ((unconstrained[i] <= low) & (gradient[i] > 0)) | ((unconstrained[i] >= high) & (gradient[i] < 0))
        )
        candidate[i], gain, eigenvalues = _candidates(
            unconstrained[i], gradient[i], hessian[i], metric[i], inside, damping[i], low, high, directions
        )
        size = value[i] + rounding[i]
        decrement[i], extremes[i] = gain / size, eigenvalues
        steepest[i] = np.max(np.abs(np.where(inside, gradient[i], 0.0)), axis=1) / size
        converged[i] = (gain <= tolerance * value[i] + rounding[i]) & (eigenvalues[:, 0] > singular)
    at_bound = (unconstrained <= low) | (unconstrained >= high)
    with float64():
        params = np.asarray(coordinates.to_params(unconstrained))
    return MinimizerResult(params, value, decrement, steepest, extremes[:, 0], extremes[:, 1], converged, at_bound)
