"""Forecasts of one run with intervals: uncertainty of constants and form, a run's noise, and how far they reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import FitFailed, InputError
from laws.estimation.estimate import log_predictions
from laws.forecasting.mixture import Predictor, extrapolation_factors
from laws.inference.allocation import Allocation, allocate
from laws.inference.noise import interval
from laws.model.variables import VARIABLES

FAR = 10.0  # extrapolation beyond this factor is called far
PREFERRED = 0.8  # weight of a rival above which the reader is told


@dataclass(frozen=True)
class OptimalSplit:
    """The compute-optimal split of one budget.

    Args:
        n, d: parameters and training tokens.
        a, b: local exponents of N*(C) and D*(C).
        n_interval, d_interval, a_interval, b_interval: at the level of the forecast; None without resamples,
            or where none of them has a compute-optimal size.
        n_without_optimum: resamples without a compute-optimal size, which are not in the intervals.
    """

    n: float
    d: float
    a: float
    b: float
    n_interval: tuple[float, float] | None
    d_interval: tuple[float, float] | None
    a_interval: tuple[float, float] | None
    b_interval: tuple[float, float] | None
    n_without_optimum: int


@dataclass(frozen=True)
class FrontierForecast:
    """What the law of the frontier forecasts for a budget, beside surfaces.

    Args:
        value: median.
        interval, mean_interval: of one run, and of the mean over repeated runs.
        surfaces_interval: that of the mean by the surfaces alone.
        disagrees: whether the intervals of the mean are apart: then those of the forecast hold both.
    """

    value: float
    interval: tuple[float, float]
    mean_interval: tuple[float, float]
    surfaces_interval: tuple[float, float]
    disagrees: bool


@dataclass(frozen=True)
class CertificateTolerance:
    """What a certificate (``laws.forecasting.certificate``) rests on.

    Args:
        tolerance: relative distance within which the points of the frontier are met.
        least: the least that some mixture of power laws meets, in units of the one asked for; above one, it was added.
        points: of the frontier.
    """

    tolerance: float
    least: float
    points: int


@dataclass(frozen=True)
class Forecast:
    """The forecast of one run.

    Args:
        value: the median of the mixture for laws whose forecasts are those of surfaces, else predicted by the law.
        interval: of one run: uncertainty of constants and form, and the run's noise.
        mean_interval: of the mean over repeated runs, without a run's noise; None without resamples.
        level: of both.
        inputs: variable -> value at which it was made, as ``n``, ``d`` and ``c``.
        split: the compute-optimal split, if the forecast is of a budget.
        sd_components: standard deviations relative to the value: ``constants``, ``form``, ``extrapolation``, ``noise``.
        extrapolation: variable -> factor by which it lies outside the fitted runs; 1 inside them.
        warnings: what the reader must know.
        observable: what is predicted, with its unit where that is known.
        frontier: what the law of the frontier forecasts beside surfaces, if the forecast is of a budget.
        certificate: where the intervals are those of a certificate, what it rests on: they have no level then.
    """

    value: float
    interval: tuple[float, float]
    mean_interval: tuple[float, float] | None
    level: float
    inputs: dict[str, float]
    split: OptimalSplit | None
    sd_components: dict[str, float]
    extrapolation: dict[str, float]
    warnings: tuple[str, ...]
    observable: str = ""
    frontier: FrontierForecast | None = None
    certificate: CertificateTolerance | None = None


def extrapolation(ranges: dict[str, tuple[float, float]], inputs: dict[str, float]) -> dict[str, float]:
    """Extrapolation factor of each variable of one run: how far outside the fitted runs it lies; 1 inside them.

    Args:
        ranges: variable -> smallest and largest value of the fitted runs.
        inputs: variable -> value of the run.
    """
    return {variable: float(factor) for variable, factor in extrapolation_factors(ranges, inputs).items()}


def warnings_of(predictor: Predictor, factors: dict[str, float]) -> list[str]:
    """What the reader of a prediction must know."""
    beyond = {variable: factor for variable, factor in factors.items() if factor > 1.005}
    out = []
    if beyond:
        listed = ", ".join(
            f"{VARIABLES[variable].symbol} by a factor {factor:.3g}" for variable, factor in beyond.items()
        )
        far = (
            "; a good fit in range has missed by several percent at such distances"
            if max(beyond.values()) > FAR
            else ""
        )
        out.append(f"extrapolation beyond the fitted runs: {listed}{far}")
    if predictor.ladder is not None:
        out.append("n and d of the fitted runs are in step: the forecast is along their line, and says nothing off it")
    if not len(predictor.draws):
        out.append("the fit has no resamples: the interval holds run noise only")
    preferred = max(predictor.forms, key=lambda form: form.weight)
    if predictor.ladder is None and preferred.weight > PREFERRED and preferred.label != predictor.law.name:
        out.append(
            f"in backtests over the runs '{preferred.label}' forecast better (weight {preferred.weight:.0%}): the interval "
            "is mostly its own"
        )
    return out


def predict_runs(predictor: Predictor, **given: float) -> Forecast:
    """Forecast of a run of given size and data (or compute, for a law of compute alone).

    Args:
        predictor: of the fit.
        given: variable -> value, for every variable that the law reads.

    Raises:
        InputError: a variable is unknown or missing, or a value is not positive or finite.
    """
    columns = predictor.columns({variable: np.array([value]) for variable, value in given.items()})
    log_losses = predictor.log_losses(columns)
    value = float(predictor.central_losses(columns, log_losses)[0])
    of_forms = [
        log_predictions(form.law, np.concatenate([form.constants[None], form.draws]), columns)[:, 0]
        for form in predictor.forms
    ]
    inputs = {variable: float(value[0]) for variable, value in columns.items()}
    return _forecast(predictor, value, log_losses, of_forms, inputs, columns)


def predict_compute(predictor: Predictor, compute: float) -> Forecast:
    """Forecast of a run at the best split of a compute budget.

    Args:
        predictor: of the fit.
        compute: training FLOPs, in the convention of the fit.

    Raises:
        InputError: the compute is not positive.
        FitFailed: the law has no interior optimum at that compute.
    """
    if not (np.isfinite(compute) and compute > 0):
        raise InputError(f"compute must be positive, and is {compute}")
    point, draws = predictor.forecast_allocation(compute)
    if not np.isfinite(point.n).all():
        raise FitFailed(f"the fitted law has no compute-optimal size at {compute:.4g} FLOPs")
    lost = int(np.sum(~np.isfinite(draws.loss)))
    of_forms = [
        np.log(allocate(form.law, np.concatenate([form.constants[None], form.draws]), np.array([compute]),
                        predictor.cost, predictor.ranges["n"]).loss)[:, 0]
        for form in predictor.forms
    ]  # fmt: skip
    inputs = {"n": float(point.n[0, 0]), "d": float(point.d[0, 0]), "c": float(compute)}
    columns = {"c": np.array([float(compute)])}
    forecast = _forecast(predictor, float(point.loss[0, 0]), np.log(draws.loss), of_forms, inputs, columns)
    warned = (
        [f"{lost} of {len(draws.loss)} resamples have no compute-optimal size and are not in the intervals"]
        if lost
        else []
    )
    forecast = replace(forecast, split=_split(predictor, point, draws, lost), warnings=(*forecast.warnings, *warned))
    return forecast if predictor.frontier is None else _beside_frontier(forecast, predictor.frontier, compute)


def disagree(one: tuple[Any, Any], other: tuple[Any, Any]) -> Any:
    """Whether two intervals, or each pair of many, have nothing in common.

    Args:
        one: lower and upper ends.
        other: likewise.
    """
    return (one[0] > other[1]) | (other[0] > one[1])


def _beside_frontier(forecast: Forecast, frontier: Predictor, compute: float) -> Forecast:
    """A forecast of a budget with that of the frontier beside it, its intervals widened where the two disagree.

    Args:
        forecast: by surfaces.
        frontier: predictor of the law of the frontier.
        compute: training FLOPs.
    """
    alone = predict_runs(frontier, c=compute)
    if forecast.mean_interval is None or alone.mean_interval is None:
        return forecast
    apart = bool(disagree(forecast.mean_interval, alone.mean_interval))
    beside = FrontierForecast(alone.value, alone.interval, alone.mean_interval, forecast.mean_interval, apart)
    if not apart:
        return replace(forecast, frontier=beside)
    hull = lambda one, other: (min(one[0], other[0]), max(one[1], other[1]))
    text = (
        f"surfaces and the law of the frontier disagree ({forecast.value:.5g} and {alone.value:.5g}): the intervals hold "
        "both"
    )
    return replace(
        forecast,
        frontier=beside,
        interval=hull(forecast.interval, alone.interval),
        mean_interval=hull(forecast.mean_interval, alone.mean_interval),
        warnings=(*forecast.warnings, text),
    )


def _split(predictor: Predictor, point: Allocation, draws: Allocation, lost: int) -> OptimalSplit:
    """The best split of one budget, with intervals where there are draws."""
    ends = lambda draws: (
        _ends(draws[:, 0], predictor.level) if len(predictor.draws) and np.isfinite(draws).any() else None
    )
    return OptimalSplit(
        n=float(point.n[0, 0]),
        d=float(point.d[0, 0]),
        a=float(point.a[0, 0]),
        b=float(point.b[0, 0]),
        n_interval=ends(draws.n),
        d_interval=ends(draws.d),
        a_interval=ends(draws.a),
        b_interval=ends(draws.b),
        n_without_optimum=lost,
    )


def _ends(draws: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    low, high = interval(draws, level)
    return float(low), float(high)


def _forecast(
    predictor: Predictor,
    value: float,
    log_losses: Float[np.ndarray, "draws 1"],
    of_forms: list[Float[np.ndarray, " draws"]],
    inputs: dict[str, float],
    columns: dict[str, Float[np.ndarray, " 1"]],
) -> Forecast:
    factors = extrapolation(predictor.ranges, inputs)
    return Forecast(
        value=value,
        interval=_ends(predictor.scattered(log_losses, columns)[:, 0], predictor.level),
        mean_interval=_ends(np.exp(log_losses[:, 0]), predictor.level) if len(predictor.draws) else None,
        level=predictor.level,
        inputs=inputs,
        split=None,
        sd_components=predictor.sd_components(of_forms, float(predictor.distance(columns)[0])),
        extrapolation=factors,
        warnings=tuple(warnings_of(predictor, factors)),
    )
