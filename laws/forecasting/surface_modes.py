"""Modes of a surface's posterior in tables that share a design: where the search begins, and the best of what it finds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from laws.forecasting.design_rows import Rows
from laws.forecasting.family import Frame
from laws.forecasting.posterior import Mode, Prior, Problems, modes
from laws.forecasting.surface import ALPHA, BETA, COORDINATES, DATA, SCALE, SIZE, SURFACE

STARTS = 12  # of the search for modes; the best start is shared by all fits of a surface
START_SPREAD = 0.7  # of the starts, in deviations of the prior
START_SCALE = 0.03  # of the errors at a start, in log loss: wide, so that no row is an outlier before it is fitted
START_LOCALITY = 0.5


def shared_start(rows: Rows, prior: Prior) -> tuple[Frame, Float[np.ndarray, " coordinates"]]:
    """A mode of the mean of the tables, from several starts: where all fits of a surface begin."""
    mean = rows.log_loss.mean(axis=0, keepdims=True)
    weight = rows.weight * np.exp(START_LOCALITY * (rows.log_c - rows.log_c.max()))
    step = START_SPREAD * np.random.default_rng(0).standard_normal((STARTS, len(COORDINATES)))
    step[0] = 0.0
    starts = prior.mean + step * np.minimum(prior.deviation, 1.0)
    starts[:, SCALE] = np.log(START_SCALE)
    shape = (STARTS, rows.log_loss.shape[1])
    problems = Problems.of(
        SURFACE, rows.inputs, np.broadcast_to(mean, shape), np.broadcast_to(weight, shape), [prior] * STARTS
    )
    mode = modes(problems, starts)
    return problems.frame.take(np.array([0])), mode.point[np.argmax(mode.log_density)]


def moved(point: Float[np.ndarray, " coordinates"], of: Frame, to: Frame) -> Float[np.ndarray, "problems coordinates"]:
    """The coordinates of one surface in other frames, its floor left as it is relative to the least loss.

    Args:
        point: coordinates.
        of: the frame that they are in, of one problem.
        to: the frames of the problems.
    """
    out = np.tile(point, (len(to.log_loss), 1))
    lower = of.log_loss - to.log_loss
    out[:, SIZE] += lower - np.exp(point[ALPHA]) * (to.centre[:, 0] - of.centre[:, 0])
    out[:, DATA] += lower - np.exp(point[BETA]) * (to.centre[:, 1] - of.centre[:, 1])
    return out


def best_modes(problems: Problems, starts: list[Float[np.ndarray, "problems coordinates"]]) -> Mode:
    """The higher of the modes that the starts lead to."""
    first, *others = [modes(problems, start) for start in starts]
    for other in others:
        higher = other.log_density > first.log_density
        for kept, new in zip(first, other, strict=True):
            kept[higher] = new[higher]
    return first
