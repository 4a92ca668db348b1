"""The coupled surface of loss over size and data, in coordinates that priors and samplers can share.

    L(N, D) = E + ((A / N^alpha)^(1/kappa) + (B / D^beta)^(1/kappa))^kappa

With endless data it is E + A / N^alpha, with endless parameters E + B / D^beta, so that the constants mean what they mean
in the separable law, kappa = 1. It is the law ``coupled``, (A'/N^alpha' + B'/D^beta')^kappa, with alpha' = alpha / kappa.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from laws.forecasting.family import Family, Frame, Inputs, Points, column
from laws.forecasting.surface_sampling import from_sampling, to_sampling

# The coordinates, in order. ``size`` and ``data`` are what the two terms would each add alone at the centre of the runs,
# and ``floor`` is E; all three relative to the least loss. ``scale`` is that of the errors of log loss.
COORDINATES = ("log alpha", "log beta", "logit floor", "log size", "log data", "log kappa", "log scale")
ALPHA, BETA, FLOOR, SIZE, DATA, KAPPA, SCALE = range(len(COORDINATES))


class _Terms(NamedTuple):
    """Parts of predictions, each (problems, samples, rows): see ``log_losses`` and ``slopes``."""

    x: np.ndarray
    z: np.ndarray
    size: np.ndarray
    data: np.ndarray
    log_reducible: np.ndarray
    floor: np.ndarray


def _terms(frame: Frame, points: Points, inputs: Inputs) -> _Terms:
    x, z = (inputs[i] - frame.centre[:, i, None, None] for i in range(2))
    kappa = np.exp(column(points, KAPPA))
    size = (column(points, SIZE) - np.exp(column(points, ALPHA)) * x) / kappa
    data = (column(points, DATA) - np.exp(column(points, BETA)) * z) / kappa
    floor = 1 / (1 + np.exp(-column(points, FLOOR)))
    return _Terms(x, z, size, data, kappa * np.logaddexp(size, data), floor)


def log_losses(frame: Frame, points: Points, inputs: Inputs) -> Float[np.ndarray, "problems samples rows"]:
    """Predicted log losses.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        inputs: log parameters and log tokens of the rows.
    """
    terms = _terms(frame, points, inputs)
    return frame.log_loss[:, None, None] + np.log(terms.floor + np.exp(terms.log_reducible))


def slopes(frame: Frame, points: Points, inputs: Inputs) -> Float[np.ndarray, "problems samples rows coordinates"]:
    """Derivatives of the predicted log losses in the coordinates; that in the scale is zero.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        inputs: log parameters and log tokens of the rows.
    """
    terms = _terms(frame, points, inputs)
    reducible = np.exp(terms.log_reducible)
    share = 1 / (1 + np.exp(np.clip(terms.data - terms.size, -700, 700)))  # of the size term in the sum
    # The derivative of kappa log(e^size + e^data) in log kappa is kappa times the entropy of the two shares.
    entropy = np.logaddexp(terms.size, terms.data) - share * terms.size - (1 - share) * terms.data
    of_reducible = reducible / (terms.floor + reducible)
    out = np.zeros((*share.shape, len(COORDINATES)))
    out[..., ALPHA] = -of_reducible * share * np.exp(column(points, ALPHA)) * terms.x
    out[..., BETA] = -of_reducible * (1 - share) * np.exp(column(points, BETA)) * terms.z
    out[..., FLOOR] = terms.floor * (1 - terms.floor) / (terms.floor + reducible)
    out[..., SIZE] = of_reducible * share
    out[..., DATA] = of_reducible * (1 - share)
    out[..., KAPPA] = of_reducible * np.exp(column(points, KAPPA)) * entropy
    return out


def constants(frame: Frame, points: Points) -> dict[str, Float[np.ndarray, "problems samples"]]:
    """Constants of the law ``coupled``: A, B, E, alpha, beta, kappa.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
    """
    alpha, beta, kappa = (np.exp(points[..., i]) for i in (ALPHA, BETA, KAPPA))
    log_loss = frame.log_loss[:, None]
    log_a = log_loss + points[..., SIZE] + alpha * frame.centre[:, :1]
    log_b = log_loss + points[..., DATA] + beta * frame.centre[:, 1:]
    return {
        "A": np.exp(log_a / kappa),
        "B": np.exp(log_b / kappa),
        "E": np.exp(log_loss) / (1 + np.exp(-points[..., FLOOR])),
        "alpha": alpha / kappa,
        "beta": beta / kappa,
        "kappa": kappa,
    }


SURFACE = Family(COORDINATES, log_losses, slopes, to_sampling, from_sampling)
