"""What posteriors need of a family of functions: its coordinates, where they are centred, predictions and slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "problems samples coordinates"]
Inputs = Float[np.ndarray, "variables rows"]  # logs of what losses are predicted from, as of parameters and tokens


class Frame(NamedTuple):
    """Where the coordinates of some problems are centred.

    Args:
        centre: mean log of every variable over the runs.
        log_loss: log of their least loss.
    """

    centre: Float[np.ndarray, "problems variables"]
    log_loss: Float[np.ndarray, " problems"]

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        log_loss: Float[np.ndarray, "problems rows"],
        weight: Float[np.ndarray, "problems rows"],
    ) -> Frame:
        """Centred at the rows that count.

        Args:
            inputs: logs of the variables.
            log_loss: log losses of every problem.
            weight: what each row counts in it; those of weight zero are left out.
        """
        used = (weight > 0).astype(float)
        share = used / used.sum(axis=1, keepdims=True)
        return cls(share @ inputs.T, np.min(np.where(weight > 0, log_loss, np.inf), axis=1))

    def take(self, which: np.ndarray) -> Frame:
        """Those of some problems, by number or mask."""
        return Frame(*(part[which] for part in self))


def unchanged(points: Points) -> Points:
    """Draws are proposed in the coordinates of the priors."""
    return points


def unchanged_back(sampled: Points) -> tuple[Points, Float[np.ndarray, "problems samples"]]:
    """The same the other way, with log volumes of zero."""
    return sampled, np.zeros(sampled.shape[:-1])


class Family(NamedTuple):
    """A family of functions of some variables.

    Args:
        coordinates: names, the last being the log scale of the errors of log loss.
        log_losses: predicted log losses, (problems, samples, rows).
        slopes: their derivatives in the coordinates, (problems, samples, rows, coordinates); that in the scale is zero.
        to_sampling: coordinates in which draws are proposed, where the posterior is nearly elliptical. They leave those
            that priors hold as they are.
        from_sampling: its inverse, with the log of the volume that a unit of volume has among the coordinates; minus
            infinity where there is no point.
    """

    coordinates: tuple[str, ...]
    log_losses: Callable[[Frame, Points, Inputs], np.ndarray]
    slopes: Callable[[Frame, Points, Inputs], np.ndarray]
    to_sampling: Callable[[Points], Points] = unchanged
    from_sampling: Callable[[Points], tuple[Points, np.ndarray]] = unchanged_back


def column(points: Points, i: int) -> Float[np.ndarray, "problems samples 1"]:
    """One coordinate, to be combined with rows."""
    return points[..., i, None]
