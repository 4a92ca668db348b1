"""Two laws in a row: the loss of a run by one, and what follows from that loss by another, as accuracy on a task."""

from typing import Any

import numpy as np

from laws.base.errors import InputError
from laws.forecasting.prediction import extrapolation, valid, warnings_of
from laws.inference.noise import interval
from laws.results.results import FitResult

DRAWS = 2048


def predict_downstream(
    first: FitResult, second: FitResult, *, compute: float | None = None, **given: float
) -> dict[str, Any]:
    """What a second fit says of the loss that a first one predicts, the uncertainty of both in its interval.

    Args:
        first: of the loss, as ``chinchilla`` fitted to a task's loss.
        second: of the upstream loss alone, as ``task_accuracy``.
        compute, given: as in ``FitResult.predict``, of the first.

    Returns:
        as ``FitResult.predict`` of the second, with the loss in between as ``q`` and its interval as ``q_interval``.

    Raises:
        InputError: the second law reads anything but the upstream loss.

    Source: Bhagia et al. 2024, arXiv 2412.04403; Gadre et al. 2024, arXiv 2403.08540.
    """
    given = {variable: value for variable, value in given.items() if value is not None}
    if second.law.columns != ("upstream_loss",):
        raise InputError(
            f"law '{second.law.name}' reads {', '.join(second.law.columns)}, not the upstream loss q alone"
        )
    if compute is not None:
        best = first.predict(compute=compute, **given)
        given = {variable: best[variable] for variable in first.law.needed}
    upstream = first.predict(**given)
    rng, ahead, behind = np.random.default_rng(second.report["seed"]), first.predictor, second.predictor
    loss = np.exp(ahead.log_losses(ahead.columns(valid(given)))[:, 0])
    every = behind.log_losses({"upstream_loss": rng.choice(loss, DRAWS)})
    target_label = np.exp(
        every[rng.integers(len(every), size=DRAWS), np.arange(DRAWS)]
    )  # a draw of each, paired at random
    noise = behind.noise.deviation * rng.standard_t(behind.noise.dof, DRAWS)
    factors = extrapolation(behind.ranges, {"upstream_loss": upstream["loss"]})
    low, high = interval(target_label * np.exp(noise), behind.level)
    asked = {variable: upstream[variable] for variable in given}
    return asked | {
        "upstream_loss": upstream["loss"],
        "q_interval": upstream["interval"],
        "observable": second.observable,
        "loss": float(second.law.value(behind.law.constants(behind.constants), {"upstream_loss": upstream["loss"]})),
        "interval": [float(low), float(high)],
        "level": behind.level,
        "extrapolation": upstream["extrapolation"] | factors,
        "warnings": upstream["warnings"] + warnings_of(behind, factors),
    }
