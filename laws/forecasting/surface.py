"""The coupled surface of loss over size and data, in coordinates that priors and samplers can share.

    L(N, D) = E + ((A / N^alpha)^(1/kappa) + (B / D^beta)^(1/kappa))^kappa

With endless data it is E + A / N^alpha, with endless parameters E + B / D^beta, so that the constants mean what they mean
in the separable law, kappa = 1. It is the law ``coupled``, (A'/N^alpha' + B'/D^beta')^kappa, with alpha' = alpha / kappa.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The coordinates, in order. ``size`` and ``data`` are what the two terms would each add alone at the centre of the runs,
# and ``floor`` is E; all three relative to the least loss. ``scale`` is that of the errors of log loss.
COORDINATES = ("log alpha", "log beta", "logit floor", "log size", "log data", "log kappa", "log scale")
ALPHA, BETA, FLOOR, SIZE, DATA, KAPPA, SCALE = range(len(COORDINATES))

Points = Float[np.ndarray, "problems samples coordinates"]


class Frame(NamedTuple):
    """Where the coordinates of some problems are centred, one number a problem.

    Args:
        log_n, log_d: mean log size and log data of the runs.
        log_loss: log of their least loss.
    """

    log_n: Float[np.ndarray, " problems"]
    log_d: Float[np.ndarray, " problems"]
    log_loss: Float[np.ndarray, " problems"]

    @classmethod
    def of(
        cls,
        log_n: Float[np.ndarray, " rows"],
        log_d: Float[np.ndarray, " rows"],
        log_loss: Float[np.ndarray, "problems rows"],
        weight: Float[np.ndarray, "problems rows"],
    ) -> "Frame":
        """Centred at the rows that count.

        Args:
            log_n: log parameters of the rows.
            log_d: log tokens of the rows.
            log_loss: log losses of every problem.
            weight: what each row counts in it; those of weight zero are left out.
        """
        used = (weight > 0).astype(float)
        share = used / used.sum(axis=1, keepdims=True)
        return cls(share @ log_n, share @ log_d, np.min(np.where(weight > 0, log_loss, np.inf), axis=1))

    def take(self, which: np.ndarray) -> "Frame":
        """Those of some problems, by number or mask."""
        return Frame(*(part[which] for part in self))


class _Terms(NamedTuple):
    """Parts of predictions, each (problems, samples, rows): see ``log_losses`` and ``slopes``."""

    x: np.ndarray
    z: np.ndarray
    size: np.ndarray
    data: np.ndarray
    log_reducible: np.ndarray
    floor: np.ndarray


def _column(points: Points, i: int) -> Float[np.ndarray, "problems samples 1"]:
    return points[..., i, None]


def _terms(frame: Frame, points: Points, log_n: np.ndarray, log_d: np.ndarray) -> _Terms:
    x, z = log_n - frame.log_n[:, None, None], log_d - frame.log_d[:, None, None]
    kappa = np.exp(_column(points, KAPPA))
    size = (_column(points, SIZE) - np.exp(_column(points, ALPHA)) * x) / kappa
    data = (_column(points, DATA) - np.exp(_column(points, BETA)) * z) / kappa
    floor = 1 / (1 + np.exp(-_column(points, FLOOR)))
    return _Terms(x, z, size, data, kappa * np.logaddexp(size, data), floor)


def log_losses(
    frame: Frame, points: Points, log_n: Float[np.ndarray, " rows"], log_d: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "problems samples rows"]:
    """Predicted log losses.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        log_n: log parameters of the rows.
        log_d: log tokens of the rows.
    """
    terms = _terms(frame, points, log_n, log_d)
    return frame.log_loss[:, None, None] + np.log(terms.floor + np.exp(terms.log_reducible))


def slopes(
    frame: Frame, points: Points, log_n: Float[np.ndarray, " rows"], log_d: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "problems samples rows coordinates"]:
    """Derivatives of the predicted log losses in the coordinates; that in the scale is zero.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        log_n: log parameters of the rows.
        log_d: log tokens of the rows.
    """
    terms = _terms(frame, points, log_n, log_d)
    reducible = np.exp(terms.log_reducible)
    share = 1 / (1 + np.exp(np.clip(terms.data - terms.size, -700, 700)))  # of the size term in the sum
    # The derivative of kappa log(e^size + e^data) in log kappa is kappa times the entropy of the two shares.
    entropy = np.logaddexp(terms.size, terms.data) - share * terms.size - (1 - share) * terms.data
    of_reducible = reducible / (terms.floor + reducible)
    out = np.zeros((*share.shape, len(COORDINATES)))
    out[..., ALPHA] = -of_reducible * share * np.exp(_column(points, ALPHA)) * terms.x
    out[..., BETA] = -of_reducible * (1 - share) * np.exp(_column(points, BETA)) * terms.z
    out[..., FLOOR] = terms.floor * (1 - terms.floor) / (terms.floor + reducible)
    out[..., SIZE] = of_reducible * share
    out[..., DATA] = of_reducible * (1 - share)
    out[..., KAPPA] = of_reducible * np.exp(_column(points, KAPPA)) * entropy
    return out


def constants(frame: Frame, points: Points) -> dict[str, Float[np.ndarray, "problems samples"]]:
    """Constants of the law ``coupled``: A, B, E, alpha, beta, kappa.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
    """
    alpha, beta, kappa = (np.exp(points[..., i]) for i in (ALPHA, BETA, KAPPA))
    log_loss = frame.log_loss[:, None]
    log_a = log_loss + points[..., SIZE] + alpha * frame.log_n[:, None]
    log_b = log_loss + points[..., DATA] + beta * frame.log_d[:, None]
    return {
        "A": np.exp(log_a / kappa),
        "B": np.exp(log_b / kappa),
        "E": np.exp(log_loss) / (1 + np.exp(-points[..., FLOOR])),
        "alpha": alpha / kappa,
        "beta": beta / kappa,
        "kappa": kappa,
    }
