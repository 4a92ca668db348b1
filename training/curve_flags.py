"""Rules by which a finished run's training curve says that its final loss is no measurement of its size and data.

    not_finite   the loss or a parameter was not finite, and the run ended there
    risen        the mean loss of the last tenth of the steps lies above that of the steps from 5% to 15% of the run, by more
                 than two standard errors of the difference
    plateau      the learning rate was at least half its peak through the last third, and the mean loss fell from the second
                 third to the last by less than a fiftieth of its fall from the first to the second, with two standard errors
                 of the difference added to the fall. Of a power law t^-b the ratio is 0.24 at b = 0.3 and 0.06 at b = 0.8

Noise is that of logged losses about their trend: half the mean square of the differences of neighbours. A part of fewer than
`LEAST` logged losses decides nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NOT_FINITE, RISEN, PLATEAU = "not_finite", "risen", "plateau"
LEAST = 3  # losses of a part
FALL = 0.02  # of the fall before, below which there is none
DEVIATIONS = 2.0  # standard errors


def flag(lines: Sequence[dict[str, Any]], steps: int, diverged: bool = False) -> str | None:
    """The rule that a run's curve meets, the first of those above; None: none.

    Args:
      lines: of its metrics, in order of steps.
      steps: of the run.
      diverged: whether it has the status "diverged".
    """
    if diverged:
        return NOT_FINITE
    curve = [line for line in lines if isinstance(line.get("loss"), float) and math.isfinite(line["loss"])]
    place = np.array([line["step"] for line in curve], float) / max(steps, 1)
    losses = np.array([line["loss"] for line in curve])
    if _risen(place, losses):
        return RISEN
    rates = np.array([line.get("learning_rate") or 0.0 for line in curve])
    return PLATEAU if _flat(place, losses, rates) else None


def _risen(place: np.ndarray, losses: np.ndarray) -> bool:
    early, late = losses[(place >= 0.05) & (place <= 0.15)], losses[place > 0.9]
    if min(len(early), len(late)) < LEAST:
        return False
    return bool(late.mean() - early.mean() > DEVIATIONS * _standard_error(early, late))


def _flat(place: np.ndarray, losses: np.ndarray, rates: np.ndarray) -> bool:
    first, second, last = place <= 1 / 3, (place > 1 / 3) & (place <= 2 / 3), place > 2 / 3
    if min(map(np.sum, (first, second, last))) < LEAST or rates[last].min() < rates.max() / 2:
        return False
    before, fall = losses[first].mean() - losses[second].mean(), losses[second].mean() - losses[last].mean()
    return bool(fall + DEVIATIONS * _standard_error(losses[second], losses[last]) < FALL * before)


def _standard_error(one: np.ndarray, other: np.ndarray) -> float:
    """Of the difference of the means of two parts of a curve, of the noise about its trend."""
    return math.sqrt(sum(np.square(np.diff(part)).mean() / 2 / len(part) for part in (one, other)))
