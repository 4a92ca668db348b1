"""Many small fits at once: damped Newton with exact derivatives, vectorised over starts and resamples, in float64.

Each problem is a start, a vector of log losses and a vector of run weights; all share the columns of the runs. One
compiled program looks at a block of problems; whichever are unfinished fill the block, so a slow one holds up no other.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from laws.law import Coordinates, Law
from laws.precision import float64

BLOCK, CELLS = 128, 2**17  # problems looked at together: at most so many, and so many times the runs
SHAPES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # numbers of runs, of which small tables take the next
MAX_STEPS = 300
FIRST_DAMPING, LEAST_DAMPING, LARGEST_DAMPING = 1e-3, 1e-9, 1e9
TOLERANCE = 1e-13  # expected further decrease, relative to the objective
RIDGE = 1e-12
SINGULAR = 1e-12  # least eigenvalue of a Hessian with unit diagonal at a point that counts as a minimum
ROUNDING = 1e-27  # ... and per run, where the objective itself is rounding error (a noiseless table)


def huber(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square within ``delta``, linear beyond it."""
    size = jnp.abs(residual)
    return jnp.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def squared(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square; ``delta`` plays no part."""
    return 0.5 * residual**2


def one_sided(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Huber's for runs above the law, half the square for runs below it, however far.

    A run that was tuned badly, or stopped early, lies above what its size and data allow and never below. So a run
    above by more than ``delta`` pulls with a constant force, and one below ever harder: the law is drawn to the lower
    edge of the runs.
    """
    return jnp.where(residual > 0, squared(residual, delta), huber(residual, delta))


def relative(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square of the relative error, from the difference of the logs; ``delta`` plays no part."""
    return 0.5 * jnp.expm1(residual) ** 2


# Of residuals log predicted - log measured: negative where a run lies above the law.
OBJECTIVES = {"log_huber": huber, "log_squared": squared, "log_asymmetric": one_sided, "squared": relative}
RAW = ("squared",)  # of the observable itself: relative errors, each run weighed by the square of what was measured
TIGHTENED = ("log_huber", "log_asymmetric")  # in which delta plays a part


def weighed(objective: str, weight: Any, log_loss: Any) -> Any:
    """The weights of the runs as the objective sums them."""
    return weight * np.exp(2 * log_loss) if objective in RAW else weight


@dataclass(frozen=True)
class Solution:
    """Where every problem ended.

    Args:
        natural: the constants, in natural units.
        value: the summed objective.
        decrement: what a further Newton step expects to gain, relative to the objective.
        gradient: largest component of the gradient relative to the objective, active bounds left out.
        smallest, largest: extreme eigenvalues of the Hessian scaled to a unit diagonal, active bounds left out.
        converged: whether it is a minimum to within ``TOLERANCE``.
        at_bound: which constants ended on a bound.
    """

    natural: Float[np.ndarray, "problems params"]
    value: Float[np.ndarray, " problems"]
    decrement: Float[np.ndarray, " problems"]
    gradient: Float[np.ndarray, " problems"]
    smallest: Float[np.ndarray, " problems"]
    largest: Float[np.ndarray, " problems"]
    converged: Bool[np.ndarray, " problems"]
    at_bound: Bool[np.ndarray, "problems params"]


def in_a_block(law: Law, runs: int) -> int:
    """How many problems are looked at together: a power of two, bounded by what they hold in memory."""
    return max(1, min(BLOCK, 2 ** int(np.log2(max(CELLS / (runs * law.width), 1)))))


def filled(
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

    def look(free, centre, columns, log_loss, weight, delta):
        # Forward over forward: for a handful of constants it compiles in half the time of forward over reverse.
        predict = lambda free: law.log_value(Coordinates(law, centre).natural(free), columns)
        residual, rows = predict(free) - log_loss, jax.jacfwd(predict)(free)
        pull = jax.grad(lambda r: jnp.sum(rho(r, delta)))
        force, core = jax.jvp(pull, (residual,), (jnp.ones_like(residual),))
        force, core = weight * force, weight * core
        stiffness = jnp.where(residual == 0, weight, force / jnp.where(residual == 0, 1.0, residual))
        bend = jax.jacfwd(jax.jacfwd(lambda free: jnp.sum(force * predict(free))))(free)
        value = jnp.sum(weight * rho(residual, delta))
        return value, force @ rows, (rows.T * core) @ rows + bend, (rows.T * stiffness) @ rows

    return jax.jit(jax.vmap(look, in_axes=(0, None, None, 0, 0, None)))


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


def _candidates(free, gradient, hessian, metric, inside, damping, low, high, basis):
    """Next points within the bounds, expected decreases and extreme eigenvalues (see ``_moves``).

    A step stops where it first meets a bound; constants already there that would go further stay, and the others step
    without them. (Cutting each constant off by itself would move the others by what belonged to the cut ones.)
    """
    moves, gain, extremes = _moves(gradient, hessian, metric, inside, damping)
    moves = moves @ basis.T
    blocked = inside & (((free <= low) & (moves < 0)) | ((free >= high) & (moves > 0)))
    i = np.flatnonzero(blocked.any(axis=1))
    if len(i):
        moves[i] = _moves(gradient[i], hessian[i], metric[i], inside[i] & ~blocked[i], damping[i])[0] @ basis.T
    ahead = np.where(moves < 0, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where((moves == 0) | (ahead == free), np.inf, (ahead - free) / moves)
    reach = np.minimum(share.min(axis=1, keepdims=True), 1.0)
    return np.clip(np.where(share <= reach, ahead, free + reach * moves), low, high), gain, extremes


def minimise(
    law: Law,
    columns: dict[str, Float[np.ndarray, " runs"]],
    log_loss: Float[np.ndarray, "#problems runs"],
    weight: Float[np.ndarray, "#problems runs"],
    starts: Float[np.ndarray, "problems params"],
    objective: str = "log_huber",
    delta: float = 1e-3,
    max_steps: int = MAX_STEPS,
    pull: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
    moving: Bool[np.ndarray, " params"] | None = None,
    basis: Float[np.ndarray, "params params"] | None = None,
    tolerance: float = TOLERANCE,
    singular: float = SINGULAR,
) -> Solution:
    """Every problem brought to its local minimum, bounds respected.

    Args:
        law: the law.
        columns: role -> values of the runs, natural units.
        log_loss: measured log losses, one row for all problems or one each.
        weight: what each run counts (0 leaves it out), likewise.
        starts: constants to start from, in natural units.
        objective: a key of ``OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        max_steps: a problem that needs more ends where it is, not converged.
        pull: what is added to the objective: the optimiser's coordinates and numbers of some problems to values,
            gradients and positive semidefinite Hessians.
        moving: which of the optimiser's coordinates may move; by default all.
        basis: the direction in which each of them moves, a column each; by default its own.
        tolerance: expected further decrease, relative to the objective, at which a problem is done.
        singular: least eigenvalue of a Hessian with unit diagonal at which it may be.
    """
    count, width = starts.shape
    moving = np.ones(width, bool) if moving is None else moving
    basis = np.eye(width) if basis is None else basis
    log_loss, weight = (np.broadcast_to(a, (count, log_loss.shape[-1])) for a in (log_loss, weight))
    inputs = {role: np.asarray(columns[role], np.float64) for role in law.columns}
    weight = weighed(objective, weight, log_loss)
    rounding = ROUNDING * weight.sum(axis=1)
    coordinates = Coordinates.of(law, inputs)
    low, high = coordinates.bounds()
    with float64(), np.errstate(all="ignore"):
        free = np.clip(np.asarray(coordinates.free(np.asarray(starts, np.float64))), low, high)
    candidate = free.copy()
    value, gradient = np.full(count, np.inf), np.zeros((count, width))
    hessian, metric = np.zeros((2, count, width, width))
    decrement, steepest, extremes = np.full(count, np.inf), np.full(count, np.inf), np.full((count, 2), np.nan)
    damping, steps, converged = np.full(count, FIRST_DAMPING), np.zeros(count, int), np.zeros(count, bool)
    program = _program(law, objective)
    inputs = {role: filled(values) for role, values in inputs.items()}
    log_loss, weight = filled(log_loss), filled(weight, "constant")
    together = in_a_block(law, log_loss.shape[-1])
    while True:
        i = np.flatnonzero(~converged & (steps < max_steps) & (damping < LARGEST_DAMPING))[:together]
        if not len(i):
            break
        block = np.resize(i, together)  # repeated up to a full block, so that every call has one shape
        with float64():
            seen = program(candidate[block], coordinates.centre, inputs, log_loss[block], weight[block], float(delta))
            found, slope, curve, stiff = (np.asarray(array)[: len(i)] for array in seen)
        if pull is not None:
            added = pull(candidate[i], i)
            found, slope, curve, stiff = found + added[0], slope + added[1], curve + added[2], stiff + added[2]
        with np.errstate(invalid="ignore"):
            slope, curve, stiff = slope @ basis, basis.T @ curve @ basis, basis.T @ stiff @ basis
        better = (found < value[i]) & np.isfinite(curve).all((1, 2))
        j = i[better]
        free[j], value[j], gradient[j] = candidate[j], found[better], slope[better]
        hessian[j], metric[j] = curve[better], stiff[better]
        damping[i] = np.where(better, np.maximum(damping[i] / 10, LEAST_DAMPING), damping[i] * 8)
        steps[i] += 1
        i = i[np.isfinite(value[i])]
        inside = moving & ~(((free[i] <= low) & (gradient[i] > 0)) | ((free[i] >= high) & (gradient[i] < 0)))
        candidate[i], gain, eigenvalues = _candidates(
            free[i], gradient[i], hessian[i], metric[i], inside, damping[i], low, high, basis
        )
        size = value[i] + rounding[i]
        decrement[i], extremes[i] = gain / size, eigenvalues
        steepest[i] = np.max(np.abs(np.where(inside, gradient[i], 0.0)), axis=1) / size
        converged[i] = (gain <= tolerance * value[i] + rounding[i]) & (eigenvalues[:, 0] > singular)
    at_bound = (free <= low) | (free >= high)
    with float64():
        natural = np.asarray(coordinates.natural(free))
    return Solution(natural, value, decrement, steepest, extremes[:, 0], extremes[:, 1], converged, at_bound)
