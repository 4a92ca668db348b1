"""Two laws in a row: the loss of a run by one, and what follows from that loss by another, as accuracy on a task."""

import numpy as np

from laws.base.errors import InputError
from laws.forecasting.prediction import Forecast, extrapolation, valid, warnings_of
from laws.inference.noise import interval
from laws.results.results import FitResult

DRAWS = 2048


def predict_downstream(
    first: FitResult, second: FitResult, *, compute: float | None = None, **given: float | None
) -> tuple[Forecast, Forecast]:
    """Forecast of what follows from a loss that is itself forecast, the uncertainty of both in its interval.

    Args:
        first: of the loss, as ``chinchilla`` fitted to a task's loss.
        second: of the upstream loss alone, as ``task_accuracy``.
        compute: as in ``FitResult.forecast`` of the first.
        given: likewise.

    Returns:
        the forecast of the upstream loss, and that of what follows from it.

    Raises:
        InputError: the second law reads anything but the upstream loss.

    Source:
        Bhagia et al. 2024, arXiv 2412.04403; Gadre et al. 2024, arXiv 2403.08540.
    """
    if second.law.columns != ("upstream_loss",):
        raise InputError(f"law '{second.law.name}' reads {', '.join(second.law.columns)}, not the upstream loss alone")
    upstream = first.forecast(compute=compute, **given)
    at = {variable: upstream.inputs[variable] for variable in first.law.needed}
    rng = np.random.default_rng(second.report.seed)
    losses = np.exp(first.predictor.log_losses(first.predictor.columns(valid(at)))[:, 0])
    predictor = second.predictor
    log_values = predictor.log_losses({"upstream_loss": rng.choice(losses, DRAWS)})
    drawn = log_values[
        rng.integers(len(log_values), size=DRAWS), np.arange(DRAWS)
    ]  # draws of both laws, paired at random
    noise = predictor.noise.deviation * rng.standard_t(predictor.noise.dof, DRAWS)
    point = second.forecast(upstream_loss=upstream.value)
    factors = extrapolation(predictor.ranges, {"upstream_loss": upstream.value})
    ends = [interval(np.exp(values), predictor.level) for values in (drawn + noise, drawn)]
    run_interval, mean_interval = ((float(low), float(high)) for low, high in ends)
    downstream = Forecast(
        value=point.value,
        interval=run_interval,
        mean_interval=mean_interval if len(predictor.draws) else None,
        level=predictor.level,
        inputs=at | {"upstream_loss": upstream.value},
        split=None,
        sd_components={},
        extrapolation=upstream.extrapolation | factors,
        warnings=(*upstream.warnings, *warnings_of(predictor, factors)),
        observable=second.observable,
    )
    return upstream, downstream
