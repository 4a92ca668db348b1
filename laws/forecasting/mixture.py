"""Mixtures of forms: the law with its rivals, or surfaces under a prior, and the draws that forecasts take from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.array_math import numbers_of
from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.ladder import Ladder
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.forecasting.posterior import NU
from laws.inference.allocation import Allocation, allocate
from laws.inference.noise import RunNoise, interval
from laws.model.law import Law
from laws.model.variables import VARIABLES, checked_variable, value_flag

SIGMA = 0.6827  # share of a normal distribution within one standard deviation


@dataclass(frozen=True)
class Rival:
    """Another form that may be the true one, fitted to the same runs.

    Args:
        label: for people.
        law: its law.
        constants, draws: its constants, and those of its resamples or of its posterior.
        weight: of its forecasts.
        noise: scale of a run's error in each draw, in log loss; None where that of the fit holds.
        locality: power p of (C / C_max) by which rows counted: below C_max its weight falls in the same way.
    """

    label: str
    law: Law
    constants: Float[np.ndarray, " params"]
    draws: Float[np.ndarray, "draws params"]
    weight: float
    noise: Float[np.ndarray, " draws"] | None = None
    locality: float = 0.0


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
        frontier: of the law of the frontier, beside surfaces.
        ladder: the line of the fitted runs, whose parameters and tokens are in step; forecasts are along it.
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
    ladder: Ladder | None = None
    frontier: Predictor | None = None

    def beside(self, frontier: Predictor) -> Predictor:
        """The same beside the law of the frontier.

        Args:
            frontier: its predictor.
        """
        return replace(self, frontier=frontier)

    def columns(self, given: dict[str, Float[np.ndarray, " runs"]]) -> dict[str, Float[np.ndarray, " runs"]]:
        """The variables that the law reads, compute filled in from N and D where it can be.

        Raises:
            InputError: a variable is unknown, one that the law reads is missing, a value is not positive or finite, or a
                run lies off the ladder of the fitted ones.
        """
        columns = valid(given)
        if "c" not in columns and {"n", "d"} <= set(columns):
            columns["c"] = columns["d"] * np.exp(self.cost.log_flops_per_token(np.log(columns["n"])))
        needed = dict.fromkeys([*self.law.needed, *(name for form in self.rivals for name in form.law.needed)])
        missing = [variable for variable in needed if variable not in columns]
        if missing:
            needed, flags = " and ".join(missing), " ".join(map(value_flag, missing))
            raise InputError(f"law '{self.law.name}' needs {needed} for a prediction", flag=flags)
        if self.ladder is not None:
            on_line = self.ladder.n_at(columns["c"])
            self.ladder.check(columns.setdefault("n", on_line), columns["c"])
            per_token = np.exp(self.cost.log_flops_per_token(np.log(columns["n"])))
            columns.setdefault("d", columns["c"] / per_token)
        return columns

    def with_inputs_fixed(self, **given: float) -> Predictor:
        """The same where columns have given values, under every form."""
        values = {variable: float(value[0]) for variable, value in valid(given).items()}
        rivals = tuple(replace(rival, law=rival.law.with_inputs_fixed(values)) for rival in self.rivals)
        return replace(self, law=self.law.with_inputs_fixed(values), rivals=rivals)

    @property
    def of_surfaces(self) -> bool:
        """Whether forecasts are those of surfaces under a prior (``laws.forecasting.surface_ensemble``)."""
        return any(form.noise is not None for form in self.rivals)

    @property
    def forms(self) -> tuple[Rival, ...]:
        """The law first, and its rivals; or the surfaces, among which the law has its place."""
        if self.of_surfaces:
            return self.rivals
        weight = 1 - sum(rival.weight for rival in self.rivals)
        return (Rival(self.law.name, self.law, self.constants, self.draws, weight), *self.rivals)

    def _votes(self, columns: Mapping[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, "forms runs"]:
        """Weight of each form for each run: a form fitted to the largest runs counts less below them."""
        has_compute = "c" in columns and "c" in self.ranges
        below = np.minimum(np.log(columns["c"] / self.ranges["c"][1]), 0.0) if has_compute else np.zeros(1)
        votes = np.array([form.weight * np.exp(form.locality * below) for form in self.forms])
        return votes / votes.sum(axis=0)

    def _mixed(
        self,
        columns: Mapping[str, Float[np.ndarray, " runs"]],
        of_form: Callable[[Rival], Float[np.ndarray, "draws runs"]],
    ) -> Float[np.ndarray, "draws runs"]:
        """Draws of the mixture, each form having as many as its weight asks for, those of one form together.

        Args:
            columns: where; only compute is looked at.
            of_form: draws of one form.
        """
        count = max(len(self.draws), self.config.mixture_draws)
        ends = np.cumsum(self._votes(columns), axis=0)
        place = (np.arange(count) + 0.5) / count
        chosen = np.sum(place[:, None, None] > ends[None, :-1], axis=1)  # number of the form, (draws, runs)
        mixed = np.zeros((count, len(next(iter(columns.values())))))
        for number, form in enumerate(self.forms):
            if np.any(chosen == number):
                draws = of_form(form)
                mixed = np.where(chosen == number, draws[np.arange(count) % len(draws)], mixed)
        return mixed

    def voting_forms(self, columns: Mapping[str, Float[np.ndarray, " runs"]]) -> list[Rival]:
        """The forms that a forecast there draws on."""
        votes = zip(self.forms, self._votes(columns), strict=True)
        return [form for form, of_form in votes if np.max(of_form, initial=0.0) > 0]

    def _shrunk_to_median(self, draws: Float[np.ndarray, "draws ..."]) -> Float[np.ndarray, "draws ..."]:
        """Draws of one form drawn together: a pool of calibrated forecasts is wider than it should be."""
        known = np.isfinite(draws).any(axis=0)
        centre = np.nanmedian(np.where(known, draws, 0.0), axis=0)
        shrinkage = self.config.pool_shrinkage if self.rivals and not self.of_surfaces else 1.0
        return centre + shrinkage * (draws - centre)

    def _inflated(self, log_loss, distance):
        """Draws widened by the growth of the backtests' errors with distance."""
        wander = np.random.default_rng([self.seed, 1]).standard_normal((len(log_loss), 1))
        return log_loss + self.extrapolation_inflation * np.asarray(distance) * wander

    def distance(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, " runs"]:
        """Log of the largest extrapolation factor of each run, over all variables."""
        within = np.ones(len(next(iter(columns.values()))))
        return np.log(np.max([within, *extrapolation_factors(self.ranges, columns).values()], axis=0))

    def allocation(self, compute, draws: bool = False) -> Allocation:
        """Compute-optimal sizes under the fitted constants, or under every draw of the mixture of forms."""
        compute, reach = np.atleast_1d(compute), (self.cost, self.ranges["n"])
        if not draws:
            return allocate(self.law, self.constants[None], compute, *reach)
        columns = {"c": compute}
        of_label = {form.label: allocate(form.law, form.draws, compute, *reach) for form in self.voting_forms(columns)}

        def mixed(name: str, transform: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, "draws budgets"]:
            of_form = lambda form: self._shrunk_to_median(transform(getattr(of_label[form.label], name)))
            return self._mixed(columns, of_form)

        logs = {name: mixed(name, np.log) for name in ("n", "d", "loss")}
        logs["loss"] = self._inflated(logs["loss"], self.distance(columns))
        slopes = {name: mixed(name, np.asarray) for name in ("a", "b")}
        return Allocation(**{name: np.exp(values) for name, values in logs.items()}, **slopes)

    def floors(self, compute) -> Float[np.ndarray, "draws budgets"]:
        """The floor E of every draw of ``allocation``, in the same order.

        Args:
            compute: training FLOPs; near the largest fitted run other forms count than far below.
        """
        columns = {"c": np.atleast_1d(compute)}
        tiled = lambda form: np.tile(form.draws[:, [form.law.names.index("E")]], (1, len(columns["c"])))
        return self._mixed(columns, tiled)

    def forecast_allocation(self, compute) -> tuple[Allocation, Allocation]:
        """Compute-optimal sizes as they are forecast, and under every draw.

        Forecast are the medians of surfaces (and the tokens that the compute buys at that size), or the sizes of the
        fitted law. Without resamples the draws are the one of the law.
        """
        draws = self.allocation(compute, draws=len(self.draws) > 0)
        if not self.of_surfaces:
            return self.allocation(compute), draws
        middle = medians(draws)
        tokens = np.atleast_1d(compute) / np.exp(self.cost.log_flops_per_token(np.log(middle.n)))
        return replace(middle, d=tokens), draws

    def log_losses(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, "draws runs"]:
        """Predicted log losses under every draw of the mixture of forms, without a run's noise."""
        if not len(self.draws):
            return log_predictions(self.law, self.constants[None], columns)
        of_form = lambda form: self._shrunk_to_median(log_predictions(form.law, form.draws, columns))
        return self._inflated(self._mixed(columns, of_form), self.distance(columns))

    def central_losses(
        self, columns: dict[str, Float[np.ndarray, " runs"]], log_loss: Float[np.ndarray, "draws runs"]
    ) -> Float[np.ndarray, " runs"]:
        """Losses as they are forecast: medians of the mixture, or those of the law where it has no rivals.

        Args:
            columns: of the runs.
            log_loss: predicted log losses under every draw.
        """
        if self.of_surfaces and len(self.draws):
            return np.exp(_median(log_loss)[0])
        return np.exp(log_predictions(self.law, self.constants[None], columns)[0])

    def scattered(
        self, log_loss: Float[np.ndarray, "draws runs"], columns: Mapping[str, Float[np.ndarray, " runs"]]
    ) -> Float[np.ndarray, "many runs"]:
        """Losses of new runs: predicted log losses with a run's noise added, the same draws of it for every run.

        So the interval of a run does not depend on what else is predicted beside it.

        Args:
            log_loss: predicted log losses under every draw of the mixture.
            columns: of the runs; only compute is looked at.
        """
        rng = np.random.default_rng(self.seed)
        scale, dof = np.full((1, 1), self.noise.deviation), self.noise.dof
        if self.of_surfaces:
            runs = log_loss.shape[1]
            noise = lambda form: np.tile(form.noise[:, None], (1, runs))
            scale, dof = self._mixed(columns, noise), NU
        losses = np.exp(log_loss + scale * rng.standard_t(dof, (self.config.noise_draws, len(log_loss), 1)))
        return losses.reshape(self.config.noise_draws * len(log_loss), log_loss.shape[1])

    def losses(self, given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Forecast losses of runs, and the ends of their intervals."""
        columns = self.columns(given)
        log_loss = self.log_losses(columns)
        low, high = interval(self.scattered(log_loss, columns), self.level)
        return self.central_losses(columns, log_loss), low, high

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
            "noise": self._run_deviation(weight),
        }

    def _run_deviation(self, weight: Float[np.ndarray, " forms"]) -> float:
        """Standard deviation of a run's log loss: of the fit, or the root mean square of the surfaces'."""
        if not self.of_surfaces:
            return self.noise.deviation
        squares = [0.0 if form.noise is None else np.mean(np.square(form.noise)) for form in self.forms]
        return float(np.sqrt(NU / (NU - 2) * (weight @ np.array(squares))))


def medians(draws: Allocation) -> Allocation:
    """The median of every quantity over the draws."""
    return Allocation(**{name: _median(values) for name, values in vars(draws).items()})


def _median(draws: Float[np.ndarray, "draws columns"]) -> Float[np.ndarray, "1 columns"]:
    """Medians over the draws that are finite."""
    known = np.isfinite(draws).any(axis=0)
    return np.where(known, np.nanmedian(np.where(known, draws, 0.0), axis=0), np.nan)[None]


def valid(given: Mapping[str, Any]) -> dict[str, Float[np.ndarray, " runs"]]:
    """Values of variables as arrays.

    Raises:
        InputError: a variable is unknown, or a value is not positive or finite.
    """
    columns = {
        checked_variable(variable): np.atleast_1d(numbers_of(value, variable)) for variable, value in given.items()
    }
    for variable, value in columns.items():
        good = np.isfinite(value) & ((value > 0) | (not VARIABLES[variable].positive))
        if not good.all():
            requirement = "positive" if VARIABLES[variable].positive else "finite"
            raise InputError(f"{variable} must be {requirement}, and is {value[~good][0]}", flag=value_flag(variable))
    return columns


def extrapolation_factors(
    ranges: dict[str, tuple[float, float]], columns: Mapping[str, float | Float[np.ndarray, " runs"]]
) -> dict[str, Float[np.ndarray, "*runs"]]:
    """Factor by which each variable lies outside its range; 1 inside it. Variables whose range reaches zero have none."""
    return {
        variable: np.maximum(np.maximum(columns[variable] / high, low / columns[variable]), 1.0)
        for variable, (low, high) in ranges.items()
        if variable in columns and low > 0
    }
