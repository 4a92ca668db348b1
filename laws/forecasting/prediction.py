"""Predictions with intervals: uncertainty of the constants and of the form, a run's noise, and how far they reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import FitFailed, InputError
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.inference.allocation import Allocation, allocate
from laws.inference.noise import RunNoise, interval
from laws.model.law import Law
from laws.model.variables import VARIABLES, checked_variable, flag

FAR = 10.0  # extrapolation beyond this factor is called far
# Spread of each form in a mixture, relative to its own: linear pools of calibrated forecasts are too wide (Gneiting and
# Ranjan 2013, Electronic Journal of Statistics 7). Set so that `benchmarks.coverage` finds nominal coverage.
POOL_SHRINKAGE = 0.93
PREFERRED = 0.8  # weight of a rival above which the reader is told
FEWEST = 400  # draws of a mixture
NOISE_DRAWS = 8  # of a run's noise, for every draw of the mixture
SIGMA = 0.6827  # share of a normal distribution within one standard deviation


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

    def columns(self, given: dict[str, Float[np.ndarray, " runs"]]) -> dict[str, Float[np.ndarray, " runs"]]:
        """The variables the law reads, compute filled in from N and D where it can be.

        Raises:
            InputError: a variable is unknown, one that the law reads is missing, or a value is not positive or finite.
        """
        columns = valid(given)
        if "c" not in columns and {"n", "d"} <= set(columns):
            columns["c"] = columns["d"] * np.exp(self.cost.log_flops_per_token(np.log(columns["n"])))
        missing = [variable for variable in self.law.needed if variable not in columns]
        if missing:
            needed = " and ".join(flag(variable, "VALUE", "at") for variable in missing)
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
        own = 1 - sum(rival.weight for rival in self.rivals)
        return (Rival(self.law.name, self.law, self.constants, self.draws, own), *self.rivals)

    def _mixture(self) -> list[tuple[Law, Float[np.ndarray, "draws params"]]]:
        """As many draws of each form as it has weight, in all as many as the law has or ``FEWEST``."""
        count = max(len(self.draws), FEWEST)
        shares = [(form, round(form.weight * count)) for form in self.forms]
        return [(form.law, form.draws[np.arange(count) % len(form.draws)]) for form, count in shares if count]

    def _shrunk_to_median(self, draws: Float[np.ndarray, "draws ..."]) -> Float[np.ndarray, "draws ..."]:
        """Draws of one form drawn together: a pool of calibrated forecasts is wider than it should be."""
        known = np.isfinite(draws).any(axis=0)
        centre = np.nanmedian(np.where(known, draws, 0.0), axis=0)
        return centre + (POOL_SHRINKAGE if self.rivals else 1.0) * (draws - centre)

    def _inflated(self, log_loss, distance):
        """Draws widened by what the roll-outs' errors grew by with distance."""
        wander = np.random.default_rng([self.seed, 1]).standard_normal((len(log_loss), 1))
        return log_loss + self.extrapolation_inflation * np.asarray(distance) * wander

    def distance(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, " runs"]:
        """Log of the largest factor by which a run lies outside the fitted ones, over all quantities."""
        beyond = [
            np.maximum(np.log(columns[variable] / high), np.log(low / columns[variable]))
            for variable, (low, high) in self.ranges.items()
            if variable in columns and low > 0
        ]
        return np.max([np.zeros(len(next(iter(columns.values())))), *beyond], axis=0)

    def allocation(self, compute, draws: bool = False) -> Allocation:
        """Compute-optimal sizes under the fitted constants, or under every draw of the mixture of forms."""
        compute, reach = np.atleast_1d(compute), (self.cost, self.ranges["n"])
        if not draws:
            return allocate(self.law, self.constants[None], compute, *reach)
        found = [allocate(law, params, compute, *reach) for law, params in self._mixture()]
        logs = {
            name: np.concatenate([self._shrunk_to_median(np.log(getattr(part, name))) for part in found])
            for name in ("n", "d", "loss")
        }
        logs["loss"] = self._inflated(logs["loss"], self.distance({"c": compute}))
        slopes = {
            name: np.concatenate([self._shrunk_to_median(getattr(part, name)) for part in found]) for name in ("a", "b")
        }
        return Allocation(**{name: np.exp(values) for name, values in logs.items()}, **slopes)

    def log_losses(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, "draws runs"]:
        """Predicted log losses under every draw of the mixture of forms, without a run's noise."""
        if not len(self.draws):
            return log_predictions(self.law, self.constants[None], columns)
        found = [self._shrunk_to_median(log_predictions(law, params, columns)) for law, params in self._mixture()]
        return self._inflated(np.concatenate(found), self.distance(columns))

    def scattered(self, log_loss: Float[np.ndarray, "draws runs"]) -> Float[np.ndarray, "many runs"]:
        """Losses of new runs: predicted log losses with a run's noise added."""
        rng = np.random.default_rng(self.seed)
        shape = (NOISE_DRAWS, *log_loss.shape)
        return np.exp(log_loss + self.noise.deviation * rng.standard_t(self.noise.dof, shape)).reshape(
            -1, log_loss.shape[1]
        )

    def losses(self, given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted losses of runs, and the ends of their intervals."""
        columns = self.columns(given)
        point = np.exp(log_predictions(self.law, self.constants[None], columns)[0])
        low, high = interval(self.scattered(self.log_losses(columns)), self.level)
        return point, low, high

    def parts(self, log_loss: list[np.ndarray], distance: float) -> dict[str, float]:
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
            "growth": self.extrapolation_inflation * distance,
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
            said = "positive" if VARIABLES[variable].positive else "finite"
            raise InputError(f"{flag(variable, 'VALUE', 'at')} must be {said}, and is {value[~good][:1]}")
    return columns


def extrapolation(ranges: dict[str, tuple[float, float]], at: dict[str, float]) -> dict[str, float]:
    """By what factor each quantity lies outside the fitted runs; 1 inside them."""
    return {
        variable: float(max(at[variable] / high, low / at[variable], 1.0))
        for variable, (low, high) in ranges.items()
        if variable in at and low > 0
    }


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
        out.append("the fit has no bootstrap: the interval holds run noise only")
    preferred = max(predictor.forms, key=lambda form: form.weight)
    if preferred.weight > PREFERRED and preferred.label != predictor.law.name:
        out.append(
            f"in roll-outs over the runs '{preferred.label}' forecast better (weight {preferred.weight:.0%}): the interval "
            "is mostly its own"
        )
    return out


def _pair(ends) -> list[float]:
    return [float(end) for end in ends]


def predict_loss(predictor: Predictor, **given: float) -> dict[str, Any]:
    """Loss of a run of given size and data (or compute, for a law of compute alone).

    Args:
        given: values of the variables that the law reads.

    Returns:
        as ``isoflop predict --json`` prints it.
    """
    columns = predictor.columns({variable: np.array([value]) for variable, value in given.items()})
    loss, low, high = predictor.losses(columns)
    both = [np.concatenate([form.constants[None], form.draws]) for form in predictor.forms]
    log_loss = [
        log_predictions(form.law, params, columns)[:, 0] for form, params in zip(predictor.forms, both, strict=True)
    ]
    at = {variable: float(value[0]) for variable, value in columns.items()}
    factors = extrapolation(predictor.ranges, at)
    return at | {
        "loss": float(loss[0]),
        "interval": [float(low[0]), float(high[0])],
        "level": predictor.level,
        "parts": predictor.parts(log_loss, float(predictor.distance(columns)[0])),
        "extrapolation": factors,
        "warnings": warnings_of(predictor, factors),
    }


def predict_compute(predictor: Predictor, compute: float) -> dict[str, Any]:
    """The best split of a compute budget, and the loss that it should reach.

    Args:
        compute: training FLOPs, in the convention of the fit.

    Raises:
        FitFailed: the law has no interior optimum at that compute.
    """
    if not (np.isfinite(compute) and compute > 0):
        raise InputError(f"--compute must be positive, and is {compute}")
    point = predictor.allocation(compute)
    if not np.isfinite(point.n).all():
        raise FitFailed(f"the fitted law has no compute-optimal size at {compute:.4g} FLOPs")
    out: dict[str, Any] = {"c": float(compute)} | {
        name: float(getattr(point, name)[0, 0]) for name in ("n", "d", "loss", "a", "b")
    }
    warned, forms = [], []
    if len(predictor.draws):
        spread = predictor.allocation(compute, draws=True)
        lost = int(np.sum(~np.isfinite(spread.n)))
        if lost:
            warned.append(
                f"{lost} of {len(spread.n)} resamples have no compute-optimal size and are not in the intervals"
            )
        for name in ("n", "d", "a", "b"):
            out[f"{name}_interval"] = _pair(np.ravel(interval(getattr(spread, name), predictor.level)))
        log_loss = np.log(spread.loss[np.isfinite(spread.loss[:, 0])])
    else:
        log_loss = np.log(point.loss)
    for form in predictor.forms:
        params = np.concatenate([form.constants[None], form.draws])
        forms.append(
            np.log(allocate(form.law, params, np.array([compute]), predictor.cost, predictor.ranges["n"]).loss)
        )
    factors = extrapolation(predictor.ranges, {variable: out[variable] for variable in ("n", "d", "c")})
    distance = predictor.distance({"c": np.array([compute])})[0]
    return out | {
        "interval": _pair(np.ravel(interval(predictor.scattered(log_loss), predictor.level))),
        "level": predictor.level,
        "parts": predictor.parts([values[:, 0] for values in forms], float(distance)),
        "extrapolation": factors,
        "warnings": warnings_of(predictor, factors) + warned,
    }
