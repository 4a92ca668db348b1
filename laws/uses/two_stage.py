"""Two laws in a row: the loss of a run by one law, and what follows from that loss by another, as accuracy on a task."""

import numpy as np

from laws.base.errors import InputError
from laws.forecasting.mixture import valid
from laws.forecasting.prediction import Forecast, extrapolation, warnings_of
from laws.inference.noise import interval
from laws.results.results import FitResult


def predict_downstream(
    first: FitResult, second: FitResult, *, compute: float | None = None, **given: float | None
) -> tuple[Forecast, Forecast]:
    """Forecast of a metric that follows from a loss that is itself forecast; its interval holds both uncertainties.

    Args:
        first: a fit of the upstream loss, as ``chinchilla`` fitted to a task's loss.
        second: a fit of the metric by the upstream loss alone, as ``task_accuracy``.
        compute: training FLOPs, to be split in the best way of the first law.
        given: otherwise variable -> value, for every variable that the first law reads.

    Returns:
        the forecast of the upstream loss, and that of the metric.

    Raises:
        InputError: the second law reads anything but the upstream loss, or the request does not suit the first.
        FitFailed: the first law has no compute-optimal size at ``compute``.

    Source:
        Bhagia et al. 2024, arXiv 2412.04403; Gadre et al. 2024, arXiv 2403.08540.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> rng, n, d = np.random.default_rng(0), np.repeat([1e7, 1e8, 1e9], 4), np.tile([1e9, 4e9, 2e10, 1e11], 3)
        >>> bits = (0.4 + 40 / n**0.25 + 60 / d**0.24) * np.exp(0.003 * rng.standard_normal(12))
        >>> accuracy = (0.25 + 0.7 / (1 + np.exp(4 * (bits - 0.9)))) * np.exp(0.003 * rng.standard_normal(12))
        >>> runs = pd.DataFrame({"n": n, "d": d, "bits": bits, "accuracy": accuracy})
        >>> first = laws.load(runs, n="n", d="d", loss="bits").fit(resamples=50)
        >>> table = laws.load(runs, loss="accuracy", columns={"upstream_loss": "bits"})
        >>> second = table.fit("task_accuracy", resamples=50)
        >>> loss, metric = laws.predict_downstream(first, second, n=5e9, d=3e11)
        >>> round(loss.value, 2), round(metric.value, 2)
        (0.65, 0.76)
    """
    if second.law.columns != ("upstream_loss",):
        raise InputError(f"law '{second.law.name}' reads {', '.join(second.law.columns)}, not the upstream loss alone")
    upstream = first.forecast(compute=compute, **given)
    inputs = {variable: upstream.inputs[variable] for variable in first.law.needed}
    rng = np.random.default_rng(second.report.seed)
    losses = np.exp(first.predictor.log_losses(first.predictor.columns(valid(inputs)))[:, 0])
    predictor = second.predictor
    count = predictor.config.downstream_draws
    log_values = predictor.log_losses({"upstream_loss": rng.choice(losses, count)})
    # A draw of the second law for each draw of the loss, paired at random.
    mean_draws = log_values[rng.integers(len(log_values), size=count), np.arange(count)]
    run_noise = predictor.noise.deviation * rng.standard_t(predictor.noise.dof, count)
    point = second.forecast(upstream_loss=upstream.value)
    factors = extrapolation(predictor.ranges, {"upstream_loss": upstream.value})
    ends = [interval(np.exp(draws), predictor.level) for draws in (mean_draws + run_noise, mean_draws)]
    run_interval, mean_interval = ((float(low), float(high)) for low, high in ends)
    downstream = Forecast(
        value=point.value,
        interval=run_interval,
        mean_interval=mean_interval if len(predictor.draws) else None,
        level=predictor.level,
        inputs=inputs | {"upstream_loss": upstream.value},
        split=None,
        sd_components={},
        extrapolation=upstream.extrapolation | factors,
        warnings=(*upstream.warnings, *warnings_of(predictor, factors)),
        observable=second.observable,
    )
    return upstream, downstream
