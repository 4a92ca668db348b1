"""A law fitted to a table: point estimate, resampled constants, rival forms, and what predictions need of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import FitFailed, InputError
from laws.base.uncertainty_config import UncertaintyConfig
from laws.data.curves import Curves
from laws.data.grouping import budget_groups
from laws.data.ladder import Ladder, ladder_of
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.estimation.estimate import PointEstimate, estimate, weights_of
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.ensemble import members_of, rivals_of
from laws.forecasting.frontier import LAW as ALONG_LADDER
from laws.forecasting.member import Member, pooled_inflation
from laws.forecasting.mixture import Predictor
from laws.forecasting.priors import PriorName, prior_of
from laws.forecasting.surface_ensemble import is_surface
from laws.inference.methods import IntervalMethod
from laws.inference.noise import RunNoise, noise_of
from laws.inference.resampling import (
    DesignFits,
    LeaveOneOut,
    Resamples,
    draw_bootstrap_errors,
    leave_one_out,
    method_for,
    resample,
)
from laws.model.forms import LAWS
from laws.model.law import Law


@dataclass(frozen=True)
class FitSettings:
    """What a fit was asked for.

    Args:
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        resamples: draws of the constants; 0 for no intervals.
        ci_method: of the intervals, one of ``laws.inference.resampling.METHODS``.
        uncertainty: settings that shape intervals.
        level: of all intervals.
        target: FLOPs at which the best size and loss are derived; by default the largest compute of the table.
        holdout_above: runs with more FLOPs are left out of the fit and predicted; a budget is never cut in two.
        fixed: constants of the law that are held at given values.
        curves: learning curves from ``laws.data.curves.load_curves``, for approach 1.
        seed: of all draws.
        prior: of the surfaces that forecast loss over size and data, one of ``PriorName``.
        prior_without: sources that the public prior leaves out: those of the table itself.
        group: column of groups of runs that share the law (``laws.model.grouped``), or None.

    Raises:
        InputError: a setting means nothing.
    """

    objective: str
    delta: float
    resamples: int
    ci_method: str
    uncertainty: UncertaintyConfig
    level: float
    target: float | None
    holdout_above: float | None
    fixed: Mapping[str, float] | None
    curves: Curves | None
    seed: int
    prior: PriorName
    prior_without: tuple[str, ...]
    group: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"no objective is called '{self.objective}' (objectives: {', '.join(OBJECTIVES)})")
        for name, unit, value in (
            ("delta", "", self.delta),
            ("target", " FLOPs", self.target),
            ("holdout_above", " FLOPs", self.holdout_above),
        ):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be positive{unit} and finite, and is {value}")
        for name, count in (("resamples", self.resamples), ("seed", self.seed)):
            if count < 0:
                raise InputError(f"{name} must not be negative, and is {count}")
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, and is {self.level}")


class Spread(NamedTuple):
    """Noise and resampled constants of a fit, and the forms that its forecasts mix.

    Args:
        noise: of one run.
        left: the fits without each run; None without resamples.
        drawn: resampled constants; None likewise.
        forms: the model average, the law first; empty likewise.
    """

    noise: RunNoise
    left: LeaveOneOut | None
    drawn: Resamples | None
    forms: list[Member]


class FittedTable(NamedTuple):
    """A law fitted to a table.

    Args:
        settings: what was asked for.
        table: all rows that the law describes, held-out ones included.
        fitted_rows: those that were fitted.
        weight: what each row counts; 0 for those held out.
        optimum: the point estimate.
        fits: the fit as one of many designs, to be resampled.
        method: of the intervals.
        spread: noise, resampled constants and rival forms.
        target: FLOPs at which best size and loss are derived; None for a law without an optimum.
        predictor: what predictions need.
        asked: name of the law that was asked for; another than the fitted one where the runs do not determine it.
    """

    settings: FitSettings
    table: Table
    fitted_rows: Bool[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    optimum: PointEstimate
    fits: DesignFits
    method: IntervalMethod
    spread: Spread
    target: float | None
    predictor: Predictor
    asked: str

    @property
    def law(self) -> Law:
        """The law, without the constants that are held."""
        return self.optimum.law

    @property
    def by_surfaces(self) -> bool:
        """Whether forecasts are those of surfaces under a prior, which also stand in for a law that is not determined."""
        return is_surface(self.fits) or (self.law.name != self.asked and self.predictor.ladder is None)

    @property
    def train(self) -> Table:
        """The fitted rows alone."""
        return self.table.take(self.fitted_rows)


def fit_table(table: Table, law: Law, settings: FitSettings) -> FittedTable:
    """A law fitted to a table, with its resamples and rival forms.

    Args:
        table: from ``laws.data.loading.load``.
        law: its declaration.
        settings: what is asked for.

    Raises:
        InputError: the table does not suit the law, or the hold-out leaves nothing.
        FitFailed: no start reached an optimum.
    """
    law = law.with_fixed(settings.fixed)
    asked = law.name
    table = table.for_law(law)
    objective, uncertainty = settings.objective, settings.uncertainty
    fitted_rows = _rows_to_fit(table, settings.holdout_above)
    ladder = ladder_of(table.take(fitted_rows).values) if splits_compute(law) else None
    if ladder is not None:
        law = LAWS[ALONG_LADDER]
    weight, train = weights_of(table, fitted_rows, objective), table.take(fitted_rows)
    optimum = _estimate(law, table, weight, settings)
    law = optimum.law
    stratum = budget_groups(train.values["c"]) if "c" in train.values else None
    method = method_for(settings.ci_method, train.runs, len(law.params), objective, uncertainty)
    fits = DesignFits.of(optimum, train, weight[fitted_rows], stratum, uncertainty)
    noise = noise_of(optimum, table, weight, uncertainty)
    stands_in = ladder is None and law.name != asked
    spread = _spread(fits, noise, method, settings, ladder is not None, stands_in)
    return FittedTable(
        settings=settings,
        table=table,
        fitted_rows=fitted_rows,
        weight=weight,
        optimum=optimum,
        fits=fits,
        method=method,
        spread=spread,
        target=_target(law, table, settings.target),
        predictor=_predictor(fits, optimum, spread, train, settings, ladder),
        asked=asked,
    )


def splits_compute(law: Law) -> bool:
    """Whether a law is one of ours, of parameters and tokens alone and free: a ladder does not determine its constants."""
    return law.has_compute_optimum and law.columns == ("n", "d") and not law.fixed and LAWS.get(law.name) is law


def simpler_law(law: Law, values: Mapping[str, Float[np.ndarray, " rows"]]) -> Law | None:
    """The law that runs may determine where they do not determine one of parameters and tokens; None if there is none.

    Args:
        law: the one of parameters and tokens.
        values: variable -> numbers of the fitted rows.
    """
    if not splits_compute(law):
        return None
    for variable, other in (("n", "d"), ("d", "n")):
        if len(np.unique(values[variable])) == 1:
            return LAWS[f"power_offset_{other}"]
    return LAWS["chinchilla"] if law.name == "coupled" else None


def _estimate(law: Law, table: Table, weight: Float[np.ndarray, " rows"], settings: FitSettings) -> PointEstimate:
    """The point estimate of a law, or of a simpler one where the runs do not determine it: surfaces then forecast.

    Args:
        law: what was asked for.
        table: all rows.
        weight: what each row counts.
        settings: of the fit; without resamples there are no surfaces.

    Raises:
        FitFailed: no start reached an optimum, of the simpler law neither.
    """
    try:
        return estimate(law, table, settings.objective, settings.delta, weight)
    except FitFailed:
        simpler = simpler_law(law, table.take(weight > 0).values) if settings.resamples else None
        if simpler is None:
            raise
        return _estimate(simpler, table, weight, settings)


def _rows_to_fit(table: Table, holdout_above: float | None) -> Bool[np.ndarray, " rows"]:
    """The rows that are fitted: all, or those that are not held out."""
    if holdout_above is None:
        return np.ones(len(table), bool)
    table.need(("c",), "hold-out")
    rows = ~table.above_budget(holdout_above)
    if rows.all():
        raise InputError(f"{table.name}: no run has more than {holdout_above:.4g} FLOPs, so none would be held out")
    return rows


def _target(law: Law, table: Table, target: float | None) -> float | None:
    """FLOPs at which best size and loss are derived: as asked for, or the largest of the table."""
    if not law.has_compute_optimum:
        return None
    return float(table.values["c"].max()) if target is None else target


def _spread(
    fits: DesignFits,
    noise: RunNoise,
    method: IntervalMethod,
    settings: FitSettings,
    along_ladder: bool,
    stands_in: bool,
) -> Spread:
    """Resampled constants of the law, and the forms that its forecasts mix.

    Args:
        fits: the law's fit.
        noise: of one run.
        method: of the intervals.
        settings: of the fit.
        along_ladder: whether the law is that of a ladder.
        stands_in: whether it stands in for a law of n and d that the runs do not determine.
    """
    if not settings.resamples:
        return Spread(noise, None, None, [])
    left = leave_one_out(fits)
    drawn = resample(fits, noise, left, method, settings.resamples, settings.seed)
    rng = np.random.default_rng([settings.seed, 2])
    errors = lambda: draw_bootstrap_errors(
        fits, left, np.array([noise.deviation]), noise.dof, fits.config.member_draws, rng
    )
    prior = prior_of(settings.prior, settings.prior_without)
    forms = members_of(fits, drawn.params[None], errors, prior, settings.seed, along_ladder, stands_in)
    return Spread(noise, left, drawn, forms)


def _predictor(
    fits: DesignFits,
    optimum: PointEstimate,
    spread: Spread,
    train: Table,
    settings: FitSettings,
    ladder: Ladder | None,
) -> Predictor:
    """What predictions need of a fit."""
    return Predictor(
        law=optimum.law,
        constants=optimum.params,
        draws=np.empty((0, len(optimum.params))) if spread.drawn is None else spread.drawn.params,
        cost=fit_token_cost(train) if {"n", "d"} <= set(train.values) else TokenCost(),
        noise=spread.noise,
        ranges={variable: (float(values.min()), float(values.max())) for variable, values in train.values.items()},
        level=settings.level,
        seed=settings.seed,
        rivals=rivals_of(spread.forms),
        extrapolation_inflation=pooled_inflation(spread.forms),
        config=fits.config,
        ladder=ladder,
    )
