"""Thousands of small refits: of resamples, backtests and rival laws, each from a start near its optimum."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from laws.base.x64 import float64
from laws.estimation.derivatives import log_slopes
from laws.estimation.newton import minimise
from laws.model.coordinates import Coordinates
from laws.model.law import Law

MAX_STEPS = 160
TOLERANCE = 1e-6  # expected further decrease, relative to the objective: under a hundredth of a standard error


@dataclass(frozen=True)
class RefitResult:
    """Where every problem ended.

    Args:
        params: the constants, in natural units.
        value: the summed objective.
        converged: whether a further step would gain less than ``TOLERANCE`` of it.
        at_bound: which constants ended on a bound.
        slopes: derivatives of the predicted log loss in the optimiser's coordinates; None unless asked for.
    """

    params: Float[np.ndarray, "problems params"]
    value: Float[np.ndarray, " problems"]
    converged: Bool[np.ndarray, " problems"]
    at_bound: Bool[np.ndarray, "problems params"]
    slopes: Float[np.ndarray, "problems runs params"] | None


def slopes_at(
    law: Law, columns: dict[str, Float[np.ndarray, " runs"]], params: Float[np.ndarray, "problems params"]
) -> Float[np.ndarray, "problems runs params"]:
    """Derivatives of the predicted log losses in the optimiser's coordinates.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units; the coordinates are centred at these runs.
        params: sets of constants, natural units.
    """
    columns = {variable: np.asarray(columns[variable], np.float64) for variable in law.columns}
    coordinates = Coordinates.of(law, columns)
    with float64(), np.errstate(all="ignore"):
        unconstrained = np.asarray(coordinates.to_unconstrained(np.asarray(params, np.float64)))
        return log_slopes(coordinates, columns, np.clip(unconstrained, *coordinates.bounds()))


def restriction(law: Law, hold: tuple[str, ...], tie: tuple[str, ...]):
    """Which of the optimiser's coordinates move, and the directions in which they do.

    Args:
        law: the law.
        hold: constants that stay where they start.
        tie: constants on one scale that move together, by the coordinate of the first.

    Returns:
        a mask of the coordinates that move, and a matrix whose columns are the directions.
    """
    free_mask, directions = np.ones(len(law.names), bool), np.eye(len(law.names))
    for name in (*hold, *tie[1:]):
        free_mask[law.names.index(name)] = False
    for name in tie[1:]:
        directions[law.names.index(name), law.names.index(tie[0])] = 1.0
    return free_mask, directions


def refit(
    law: Law,
    columns: dict[str, Float[np.ndarray, " runs"]],
    log_loss: Float[np.ndarray, "#problems runs"],
    weight: Float[np.ndarray, "#problems runs"],
    starts: Float[np.ndarray, "problems params"],
    objective: str = "log_huber",
    delta: float = 1e-3,
    hold: tuple[str, ...] = (),
    tie: tuple[str, ...] = (),
    slopes: bool = False,
) -> RefitResult:
    """Every problem brought from its start to the minimum nearby, bounds respected.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units, the same for all problems.
        log_loss: log losses, one row for all problems or one each.
        weight: how often each run counts (0 leaves it out), likewise.
        starts: constants to start from, in natural units.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        hold: constants that stay where they start.
        tie: constants on one scale that start equal and stay so.
        slopes: whether to return the derivatives at the end.
    """
    free_mask, directions = restriction(law, hold, tie)
    minima = minimise(
        law, columns, log_loss, weight, starts, objective, delta,
        max_steps=MAX_STEPS, free_mask=free_mask, directions=directions, tolerance=TOLERANCE, singular=-np.inf,
    )  # fmt: skip
    derivatives = slopes_at(law, columns, minima.params) if slopes else None
    return RefitResult(minima.params, minima.value, minima.converged, minima.at_bound, derivatives)
