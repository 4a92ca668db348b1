"""Predictions with intervals: uncertainty of the constants and of the form, a run's noise, and how far they reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import FitFailed, InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.inference.allocation import Allocation, allocate
from laws.inference.noise import RunNoise, interval
from laws.model.law import Law
from laws.model.variables import VARIABLES, checked_variable, value_flag

FAR = 10.0  # extrapolation beyond this factor is called far
PREFERRED = 0.8  # weight of a rival above which the reader is told
SIGMA = 0.6827  # share of a normal distribution within one standard deviation


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
class Forecast:
    """The forecast of one run.

    Args:
        value: predicted by the law.
        interval: of one run: uncertainty of constants and form, and the run's noise.
        mean_interval: of the mean over repeated runs, without a run's noise; None without resamples.
        level: of both.
        inputs: variable -> value at which it was made, as ``n``, ``d`` and ``c``.
        split: the compute-optimal split, if the forecast is of a budget.
        sd_components: standard deviations relative to the value: ``constants``, ``form``, ``extrapolation``, ``noise``.
        extrapolation: variable -> factor by which it lies outside the fitted runs; 1 inside them.
        warnings: what the reader must know.
        observable: what is predicted, with its unit where that is known.
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


@dataclass(frozen=True)
class Rival:
    """Another form that may be the true one, fitted to the same runs.

    Args:
        label: for people.
        law: its law.
        constants, draws: its constants, and those of its resamples.
        weight: of its forecasts.
    """

    label: str
    law: Law
    constants: Float[np.ndarray, " params"]
    draws: Float[np.ndarray, "draws params"]
    weight: float


@dataclass(frozen=True)
class Predictor:
    """All that a prediction needs of a fit.

    Args:
        law: the law.
        constants: its constants, in order.
        draws: the same for every resample.
        cost: what a token costs.
        noise: scatter of one run.
        ranges: variable -> smallest and largest value among the fitted runs.
        level: of the intervals.
        seed: of the noise draws.
        rivals: the other forms; what their weights leave is the law's own.
        extrapolation_inflation: relative error per e-fold of extrapolation, from the backtests
            (``laws.forecasting.model_averaging``).
        config: settings of mixtures.
    """

    law: Law
    constants: Float[np.ndarray, " params"]
    draws: Float[np.ndarray, "draws params"]
    cost: TokenCost
    noise: RunNoise
    ranges: dict[str, tuple[float, float]]
    level: float
    seed: int
    rivals: tuple[Rival, ...] = ()
    extrapolation_inflation: float = 0.0
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY

    def columns(self, given: dict[str, Float[np.ndarray, " runs"]]) -> dict[str, Float[np.ndarray, " runs"]]:
        """The variables that the law reads, compute filled in from N and D where it can be.

        Raises:
            InputError: a variable is unknown, one that the law reads is missing, or a value is not positive or finite.
        """
        columns = valid(given)
        if "c" not in columns and {"n", "d"} <= set(columns):
            columns["c"] = columns["d"] * np.exp(self.cost.log_flops_per_token(np.log(columns["n"])))
        missing = [variable for variable in self.law.needed if variable not in columns]
        if missing:
            needed = " and ".join(value_flag(variable) for variable in missing)
            raise InputError(f"law '{self.law.name}' needs {needed} for a prediction")
        return columns

    def with_inputs_fixed(self, **given: float) -> Predictor:
        """The same where columns have given values, under every form."""
        values = {variable: float(value[0]) for variable, value in valid(given).items()}
        rivals = tuple(replace(rival, law=rival.law.with_inputs_fixed(values)) for rival in self.rivals)
        return replace(self, law=self.law.with_inputs_fixed(values), rivals=rivals)

    @property
    def forms(self) -> tuple[Rival, ...]:
        """The law first, and its rivals."""
        weight = 1 - sum(rival.weight for rival in self.rivals)
        return (Rival(self.law.name, self.law, self.constants, self.draws, weight), *self.rivals)

    def _mixture(self) -> list[tuple[Law, Float[np.ndarray, "draws params"]]]:
        """As many draws of each form as it has weight, in all as many as the law has or the settings' ``mixture_draws``."""
        count = max(len(self.draws), self.config.mixture_draws)
        shares = [(form, round(form.weight * count)) for form in self.forms]
        return [(form.law, form.draws[np.arange(count) % len(form.draws)]) for form, count in shares if count]

    def _shrunk_to_median(self, draws: Float[np.ndarray, "draws ..."]) -> Float[np.ndarray, "draws ..."]:
        """Draws of one form drawn together: a pool of calibrated forecasts is wider than it should be."""
        known = np.isfinite(draws).any(axis=0)
        centre = np.nanmedian(np.where(known, draws, 0.0), axis=0)
        return centre + (self.config.pool_shrinkage if self.rivals else 1.0) * (draws - centre)

    def _inflated(self, log_loss, distance):
        """Draws widened by the growth of the backtests' errors with distance."""
        wander = np.random.default_rng([self.seed, 1]).standard_normal((len(log_loss), 1))
        return log_loss + self.extrapolation_inflation * np.asarray(distance) * wander

    def distance(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, " runs"]:
        """Log of the largest extrapolation factor of each run, over all variables."""
        within = np.ones(len(next(iter(columns.values()))))
        return np.log(np.max([within, *_extrapolation_factors(self.ranges, columns).values()], axis=0))

    def allocation(self, compute, draws: bool = False) -> Allocation:
        """Compute-optimal sizes under the fitted constants, or under every draw of the mixture of forms."""
        compute, reach = np.atleast_1d(compute), (self.cost, self.ranges["n"])
        if not draws:
            return allocate(self.law, self.constants[None], compute, *reach)
        allocations = [allocate(law, params, compute, *reach) for law, params in self._mixture()]
        logs = {
            name: np.concatenate([self._shrunk_to_median(np.log(getattr(part, name))) for part in allocations])
            for name in ("n", "d", "loss")
        }
        logs["loss"] = self._inflated(logs["loss"], self.distance({"c": compute}))
        slopes = {
            name: np.concatenate([self._shrunk_to_median(getattr(part, name)) for part in allocations])
            for name in ("a", "b")
        }
        return Allocation(**{name: np.exp(values) for name, values in logs.items()}, **slopes)

    def log_losses(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, "draws runs"]:
        """Predicted log losses under every draw of the mixture of forms, without a run's noise."""
        if not len(self.draws):
            return log_predictions(self.law, self.constants[None], columns)
        log_losses = [self._shrunk_to_median(log_predictions(law, params, columns)) for law, params in self._mixture()]
        return self._inflated(np.concatenate(log_losses), self.distance(columns))

    def scattered(self, log_loss: Float[np.ndarray, "draws runs"]) -> Float[np.ndarray, "many runs"]:
        """Losses of new runs: predicted log losses with a run's noise added, the same draws of it for every run.

        So the interval of a run does not depend on what else is predicted beside it.
        """
        rng = np.random.default_rng(self.seed)
        shape = (self.config.noise_draws, len(log_loss), 1)
        losses = np.exp(log_loss + self.noise.deviation * rng.standard_t(self.noise.dof, shape))
        return losses.reshape(shape[0] * shape[1], log_loss.shape[1])

    def losses(self, given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted losses of runs, and the ends of their intervals."""
        columns = self.columns(given)
        point = np.exp(log_predictions(self.law, self.constants[None], columns)[0])
        low, high = interval(self.scattered(self.log_losses(columns)), self.level)
        return point, low, high

    def sd_components(self, log_loss: list[np.ndarray], distance: float) -> dict[str, float]:
        """What the uncertainty of one prediction is made of, as standard deviations relative to the loss.

        Args:
            log_loss: predicted log losses of each form, the fitted constants first, then the draws.
            distance: log of the extrapolation factor.
        """
        weight = np.array([form.weight for form in self.forms])
        centre = np.array([values[0] for values in log_loss])
        within = [np.ptp(interval(values[1:], SIGMA)) / 2 if len(values) > 1 else 0.0 for values in log_loss]
        known = np.isfinite(centre) & np.isfinite(within)
        weight = np.where(known, weight, 0.0) / np.sum(weight[known])
        centre, within = np.where(known, centre, 0.0), np.where(known, within, 0.0)
        return {
            "constants": float(np.sqrt(weight @ np.square(within))),
            "form": float(np.sqrt(weight @ (centre - weight @ centre) ** 2)),
            "extrapolation": self.extrapolation_inflation * distance,
            "noise": self.noise.deviation,
        }


def valid(given: Mapping[str, Any]) -> dict[str, Float[np.ndarray, " runs"]]:
    """Values of variables as arrays.

    Raises:
        InputError: a variable is unknown, or a value is not positive or finite.
    """
    columns = {
        checked_variable(variable): np.atleast_1d(np.asarray(value, np.float64)) for variable, value in given.items()
    }
    for variable, value in columns.items():
        good = np.isfinite(value) & ((value > 0) | (not VARIABLES[variable].positive))
        if not good.all():
            requirement = "positive" if VARIABLES[variable].positive else "finite"
            raise InputError(f"{value_flag(variable)} must be {requirement}, and is {value[~good][:1]}")
    return columns


def _extrapolation_factors(
    ranges: dict[str, tuple[float, float]], columns: Mapping[str, float | Float[np.ndarray, " runs"]]
) -> dict[str, Float[np.ndarray, "*runs"]]:
    """Factor by which each variable lies outside its range; 1 inside it. Variables whose range reaches zero have none."""
    return {
        variable: np.maximum(np.maximum(columns[variable] / high, low / columns[variable]), 1.0)
        for variable, (low, high) in ranges.items()
        if variable in columns and low > 0
    }


def extrapolation(ranges: dict[str, tuple[float, float]], inputs: dict[str, float]) -> dict[str, float]:
    """Extrapolation factor of each variable of one run: how far outside the fitted runs it lies; 1 inside them.

    Args:
        ranges: variable -> smallest and largest value of the fitted runs.
        inputs: variable -> value of the run.
    """
    return {variable: float(factor) for variable, factor in _extrapolation_factors(ranges, inputs).items()}


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
    if not len(predictor.draws):
        out.append("the fit has no resamples: the interval holds run noise only")
    preferred = max(predictor.forms, key=lambda form: form.weight)
    if preferred.weight > PREFERRED and preferred.label != predictor.law.name:
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
    of_forms = [
        log_predictions(form.law, np.concatenate([form.constants[None], form.draws]), columns)[:, 0]
        for form in predictor.forms
    ]
    inputs = {variable: float(value[0]) for variable, value in columns.items()}
    point = np.exp(log_predictions(predictor.law, predictor.constants[None], columns)[0, 0])
    return _forecast(predictor, float(point), log_losses, of_forms, inputs, predictor.distance(columns)[0])


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
    point = predictor.allocation(compute)
    if not np.isfinite(point.n).all():
        raise FitFailed(f"the fitted law has no compute-optimal size at {compute:.4g} FLOPs")
    draws = predictor.allocation(compute, draws=True) if len(predictor.draws) else point
    lost = int(np.sum(~np.isfinite(draws.loss)))
    of_forms = [
        np.log(allocate(form.law, np.concatenate([form.constants[None], form.draws]), np.array([compute]),
                        predictor.cost, predictor.ranges["n"]).loss)[:, 0]
        for form in predictor.forms
    ]  # fmt: skip
    inputs = {"n": float(point.n[0, 0]), "d": float(point.d[0, 0]), "c": float(compute)}
    distance = predictor.distance({"c": np.array([compute])})[0]
    forecast = _forecast(predictor, float(point.loss[0, 0]), np.log(draws.loss), of_forms, inputs, distance)
    warned = (
        [f"{lost} of {len(draws.loss)} resamples have no compute-optimal size and are not in the intervals"]
        if lost
        else []
    )
    return replace(forecast, split=_split(predictor, point, draws, lost), warnings=(*forecast.warnings, *warned))


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
    distance: float,
) -> Forecast:
    factors = extrapolation(predictor.ranges, inputs)
    return Forecast(
        value=value,
        interval=_ends(predictor.scattered(log_losses)[:, 0], predictor.level),
        mean_interval=_ends(np.exp(log_losses[:, 0]), predictor.level) if len(predictor.draws) else None,
        level=predictor.level,
        inputs=inputs,
        split=None,
        sd_components=predictor.sd_components(of_forms, float(distance)),
        extrapolation=factors,
        warnings=tuple(warnings_of(predictor, factors)),
    )
