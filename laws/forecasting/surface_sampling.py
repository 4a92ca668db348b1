"""Coordinates in which draws of the coupled surface are proposed: what runs determine, apart from what they do not.

Where parameters and tokens are nearly in step, runs determine the loss at their centre and its slope along their line, and
hardly how either is divided between size and data. In the coordinates of the priors the posterior is then a thin curved
sheet, which proposals of elliptical shape miss; in these it is nearly elliptical.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from laws.forecasting.family import Points

# The coordinates, in order; the last two are those of the priors.
COORDINATES = (
    "log loss",  # at the centre of the runs, relative to the least loss
    "logit floor",  # of E over the loss at the centre
    "log slope",  # of what the loss loses there where log N and log D rise alike
    "logit share",  # of the term of size in the coupled sum at the centre
    "log ratio",  # of alpha over beta
    "log kappa",
    "log scale",
)


def _log_logistic(x: np.ndarray) -> np.ndarray:
    """Log of 1 / (1 + e^-x)."""
    return -np.logaddexp(0.0, -x)


def to_sampling(points: Points) -> Points:
    """The coordinates of draws from those of the priors.

    Args:
        points: coordinates of ``laws.forecasting.surface``.
    """
    log_alpha, log_beta, floor, size, data, log_kappa, scale = np.moveaxis(points, -1, 0)
    kappa = np.exp(log_kappa)
    share = (size - data) / kappa
    reducible = kappa * np.logaddexp(size / kappa, data / kappa)
    log_floor = _log_logistic(floor)
    exponent = np.logaddexp(log_alpha + _log_logistic(share), log_beta + _log_logistic(-share))
    parts = (np.logaddexp(log_floor, reducible), log_floor - reducible, reducible + exponent, share)
    return np.stack([*parts, log_alpha - log_beta, log_kappa, scale], axis=-1)


def from_sampling(sampled: Points) -> tuple[Points, Float[np.ndarray, "problems samples"]]:
    """The coordinates of the priors, and the log of the volume that a unit of volume of the draws' coordinates has there.

    Args:
        sampled: coordinates of ``COORDINATES``.

    Returns:
        points, and log volumes: minus infinity where the floor would lie above the least loss.
    """
    log_loss, of_loss, slope, share, ratio, log_kappa, scale = np.moveaxis(sampled, -1, 0)
    kappa = np.exp(log_kappa)
    log_floor, reducible = log_loss + _log_logistic(of_loss), log_loss + _log_logistic(-of_loss)
    exists = log_floor < 0
    log_rest = np.log(-np.expm1(np.where(exists, log_floor, -1.0)))  # of what the floor leaves of the least loss
    log_size, log_data = _log_logistic(share), _log_logistic(-share)
    log_alpha = slope - reducible - np.logaddexp(log_size, log_data - ratio)
    terms = (reducible + kappa * log_size, reducible + kappa * log_data)
    points = np.stack([log_alpha, log_alpha - ratio, log_floor - log_rest, *terms, log_kappa, scale], axis=-1)
    return points, np.where(exists, log_kappa - log_rest, -np.inf)
