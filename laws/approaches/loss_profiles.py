"""Loss against log N at one budget: interpolations of log loss, and the cubic whose skewness all budgets share.

At the optimum of a law with exponents alpha and beta the third derivative of loss over the second is close to beta - alpha
at every budget. One number therefore describes what parabolas leave out, and it is estimated from all budgets together:
a cubic of each budget alone would have five times the variance in its minimum.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from laws.base.uncertainty_config import UncertaintyConfig

METHODS = ("cubic", "akima", "parabola")  # profiles of log loss in log N
RECENTRED = 2  # passes that move the weights' centre to the minimum of the weighted parabola
WIDER = 1.25  # half width of the weights over the distance of the farthest size: its weight is not zero
LEAST_CURVATURE = 1e-6  # numerical: of log loss in log N
LEAST_NOISE = 1e-9  # numerical: of log loss, beside which a prior counts


class ProfileWindow(NamedTuple):
    """The sizes near the minimum of one budget, and what each counts.

    Args:
        near: the sizes that are fitted.
        centre: log N of the minimum of the weighted parabola.
        root_weight: square root of each near size's weight.
        curvature: coefficient of the parabola's square.
    """

    near: Bool[np.ndarray, " sizes"]
    centre: float
    root_weight: Float[np.ndarray, " near"]
    curvature: float


def near_sizes(log_loss: Float[np.ndarray, " sizes"], config: UncertaintyConfig) -> Bool[np.ndarray, " sizes"]:
    """Whether each size is close enough to the lowest loss for a parabola or cubic to describe it."""
    nth = np.sort(log_loss)[min(config.isoflop_least_near, len(log_loss)) - 1]
    return log_loss <= max(nth, log_loss.min() + np.log1p(config.isoflop_near))


def _powers(offset: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 3"]:
    return np.stack([np.ones_like(offset), offset, offset**2], axis=1)


def _parabola(offset, values, root_weight) -> Float[np.ndarray, "3 ..."]:
    """Coefficients of weighted least-squares parabolas, the constant first.

    Args:
        offset: log N less that of the centre (points).
        values: ordinates (points, ...).
        root_weight: square roots of the weights (points).
    """
    weighted = (values.T * root_weight).T
    return np.linalg.lstsq(_powers(offset) * root_weight[:, None], weighted, rcond=None)[0]


def profile_window(
    log_n: Float[np.ndarray, " sizes"], log_loss: Float[np.ndarray, " sizes"], config: UncertaintyConfig, weighted: bool
) -> ProfileWindow:
    """The sizes near the minimum, with tricube weights that fall with the distance from it.

    Args:
        log_n: log parameters.
        log_loss: log losses.
        config: tells the sizes that are near.
        weighted: whether weights fall with distance; else all near sizes count alike.

    Source:
        Cleveland 1979, Journal of the American Statistical Association 74 (tricube weights of local regression).
    """
    near = near_sizes(log_loss, config)
    x, y = log_n[near], log_loss[near]
    centre, root_weight = float(x.mean()), np.ones(len(x))
    for _ in range(RECENTRED + 1):
        _, slope, curvature = _parabola(x - centre, y, root_weight)
        vertex = centre - slope / (2 * curvature) if curvature > 0 else x[y.argmin()]
        centre = float(np.clip(vertex, x[0], x[-1]))
        if weighted:
            distance = np.abs(x - centre)
            root_weight = (1 - (distance / (WIDER * distance.max())) ** 3) ** 1.5
    curvature = float(_parabola(x - centre, y, root_weight)[2])
    return ProfileWindow(near, centre, root_weight, max(curvature, LEAST_CURVATURE))


def shared_skewness(
    windows: list[ProfileWindow],
    log_n: list[Float[np.ndarray, " sizes"]],
    log_loss: list[Float[np.ndarray, "draws sizes"]],
    log_noise: list[float],
    config: UncertaintyConfig,
) -> Float[np.ndarray, " draws"]:
    """Coefficient of the cube over that of the square, shared by all budgets, by least squares with a normal prior.

    Args:
        windows: of the budgets.
        log_n: log parameters of each budget's sizes.
        log_loss: log losses of each.
        log_noise: standard deviation of log loss at each, beside which the prior counts.
        config: its ``isoflop_skewness`` is the standard deviation of the prior around zero.
    """
    moment, information = np.zeros(1), 0.0
    for window, x, y, noise in zip(windows, log_n, log_loss, log_noise, strict=True):
        offset = x[window.near] - window.centre
        orthogonal, _ = np.linalg.qr(_powers(offset) * window.root_weight[:, None])
        cube = window.curvature * offset**3 * window.root_weight
        cube = (cube - orthogonal @ (orthogonal.T @ cube)) / max(noise, LEAST_NOISE)
        moment = moment + (y[:, window.near] * window.root_weight) @ cube / max(noise, LEAST_NOISE)
        information = information + cube @ cube
    return moment / (information + config.isoflop_skewness**-2)


def cubic_curve(
    window: ProfileWindow,
    log_n: Float[np.ndarray, " sizes"],
    log_loss: Float[np.ndarray, "draws sizes"],
    grid: Float[np.ndarray, " grid"],
    skewness: Float[np.ndarray, " draws"],
) -> Float[np.ndarray, "draws grid"]:
    """Weighted least-squares cubics of given skewness.

    Args:
        window: of the budget.
        log_n: log parameters.
        log_loss: log losses.
        grid: log parameters at which the cubics are evaluated.
        skewness: coefficient of the cube over that of the square.
    """
    offset, on_grid = log_n[window.near] - window.centre, grid - window.centre
    cube = window.curvature * skewness[:, None]
    coefficients = _parabola(offset, (log_loss[:, window.near] - cube * offset**3).T, window.root_weight)
    return coefficients.T @ _powers(on_grid).T + cube * on_grid**3


def akima_curve(
    log_n: Float[np.ndarray, " sizes"], log_loss: Float[np.ndarray, "draws sizes"], grid: Float[np.ndarray, " grid"]
) -> Float[np.ndarray, "draws grid"]:
    """Akima interpolations through all sizes.

    Args:
        log_n: log parameters.
        log_loss: log losses.
        grid: log parameters at which they are evaluated.
    """
    from scipy.interpolate import Akima1DInterpolator

    return Akima1DInterpolator(log_n, log_loss.T)(grid).T
