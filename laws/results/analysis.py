"""The whole analysis of a table under a law: estimate, intervals, hold-out, the three approaches, and warnings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import InputError
from laws.base.json_files import sha256
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.base.x64 import float64
from laws.data.curves import Curves
from laws.data.grouping import budget_groups
from laws.data.table import Exclusion, Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.estimation.estimate import PointEstimate, estimate, weights_of
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.backtest import backtest
from laws.forecasting.model_averaging import Member, model_average, pooled_inflation
from laws.forecasting.prediction import Predictor, Rival
from laws.inference.allocation import derive
from laws.inference.methods import IntervalMethod
from laws.inference.noise import RunNoise, interval, noise_of
from laws.inference.profile import collinear
from laws.inference.resampling import (
    DesignFits,
    LeaveOneOut,
    Resamples,
    draw_bootstrap_errors,
    leave_one_out,
    method_for,
    resample,
)
from laws.model.coordinates import Coordinates
from laws.model.forms import find
from laws.model.law import Law
from laws.results.approach_reports import baselines, other_approaches
from laws.results.diagnostics import warnings
from laws.results.profiling import profile_all, profile_intervals, profile_report
from laws.results.report import (
    CentroidTerms,
    Certificate,
    FitReport,
    FittedRows,
    FitWarning,
    HoldoutReport,
    InputFile,
    Intervals,
    ModelAverage,
    ObjectiveReport,
    RivalReport,
    WarningKind,
    finite,
    interval_of,
)

SAMPLE_DIGITS = 12  # significant digits of the resampled constants in a report


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


def analyse(
    table: Table,
    law: str | Law = "chinchilla",
    *,
    objective: str = "log_huber",
    delta: float = 1e-3,
    resamples: int = 1000,
    holdout_above: float | None = None,
    target: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    curves: Curves | None = None,
    fixed: Mapping[str, float] | None = None,
    ci_method: str = "auto",
    uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> tuple[Law, FitReport]:
    """A law fitted to a table, with all that a reader needs in order to trust it or not.

    Args:
        table: from ``laws.data.loading.load``.
        law: a name of ``laws.model.forms.LAWS`` or a declaration.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        resamples: draws of the constants; 0 for no intervals.
        holdout_above: runs with more FLOPs are left out of the fit and predicted; a budget is never cut in two.
        target: FLOPs at which the best size and loss are derived; by default the largest compute of the table.
        level: of all intervals.
        seed: of all draws.
        curves: learning curves from ``laws.data.curves.load_curves``, for approach 1.
        fixed: constants of the law that are held at given values.
        ci_method: of the intervals, one of ``laws.inference.resampling.METHODS``.
        uncertainty: settings that shape intervals.

    Returns:
        the law as it was fitted (without the constants that are held), and the report.

    Raises:
        InputError: the table does not suit the law, the hold-out leaves nothing, or a setting means nothing.
        FitFailed: no start reached an optimum.
    """
    law = find(law).with_fixed(fixed)
    table = table.for_law(law)
    _check_settings(objective, delta, level, target)
    fitted_rows = _rows_to_fit(table, holdout_above)
    weight, train = weights_of(table, fitted_rows, objective), table.take(fitted_rows)
    method = method_for(ci_method, train.runs, len(law.params), objective, uncertainty)
    optimum = estimate(law, table, objective, delta, weight)
    stratum = budget_groups(train.values["c"]) if "c" in train.values else None
    fits = DesignFits.of(optimum, train, weight[fitted_rows], stratum, uncertainty)
    spread = _spread(fits, noise_of(optimum, table, weight, uncertainty), method, resamples, seed)
    cost = fit_token_cost(train) if {"n", "d"} <= set(table.values) else TokenCost()
    if not law.has_compute_optimum:
        target = None
    elif target is None:
        target = float(table.values["c"].max())
    predictor = _predictor(fits, optimum, spread, cost, _ranges(train), level, seed)
    derived, derived_draws = _derived(predictor, target)
    intervals = _intervals(law, spread.drawn, derived_draws, level)
    profile = None
    if spread.left is not None:
        identified = uncertainty.identified_level
        curves_found = profile_all(fits, spread.left, spread.noise, cost, target, max(level, identified))
        profile = profile_report(curves_found, law, cost, target, identified)
        if method == IntervalMethod.PROFILE:
            params, of_derived = profile_intervals(curves_found, law, cost, target, level)
            intervals = dataclasses.replace(
                intervals, method=IntervalMethod.PROFILE, params=params, derived=intervals.derived | of_derived
            )
    every = DesignFits.of(optimum, table, weight, config=uncertainty)
    report = FitReport(
        law=law.name,
        declared_in=law.origin,
        formula=law.formula,
        source=law.source,
        observable=law.target_label(table.columns["loss"]),
        fixed=dict(law.fixed),
        params=optimum.constants,
        derived=derived,
        target_flops=target,
        objective=ObjectiveReport(objective, delta, optimum.value),
        certificate=_certificate(optimum),
        weights="one a row" if table.noise is None else f"1 / {table.columns['noise']}^2, mean one",
        n_runs=train.runs,
        n_rows=len(train),
        dof_resid=spread.noise.dof,
        excluded=_exclusions(table, fitted_rows, holdout_above),
        intervals=intervals,
        profile=profile,
        backtest=backtest(every, fitted_rows, level) if spread.left else None,
        noise=spread.noise,
        uncertainty=uncertainty,
        model_average=_model_average(spread.forms),
        samples=samples_of(law, predictor.draws),
        terms_at_centroid=_terms_at_centroid(fits, predictor.draws, level),
        holdout=None if holdout_above is None else holdout_errors(predictor, table, ~fitted_rows, holdout_above),
        baselines=baselines(train),
        approaches=other_approaches(train, cost, curves, level, seed) if law.has_compute_optimum else {},
        ranges=predictor.ranges,
        columns=dict(table.columns),
        quantity=dict(table.quantity),
        read_with=dict(table.options),
        token_cost=cost,
        inputs=_inputs(table, law),
        data=_fitted_rows(train, weight[fitted_rows]),
        seed=seed,
        created_at=time.time(),
    )
    of_table = (FitWarning(WarningKind.TABLE, text) for text in table.warnings)
    return law, dataclasses.replace(report, warnings=(*of_table, *warnings(report, optimum, table, weight)))


def _check_settings(objective: str, delta: float, level: float, target: float | None) -> None:
    """Refuses settings that mean nothing."""
    if objective not in OBJECTIVES:
        raise InputError(f"no objective is called '{objective}' (objectives: {', '.join(OBJECTIVES)})")
    if not delta > 0:
        raise InputError(f"delta must be positive, and is {delta}")
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, and is {level}")
    if target is not None and not target > 0:
        raise InputError(f"target must be positive FLOPs, and is {target}")


def _rows_to_fit(table: Table, holdout_above: float | None) -> Bool[np.ndarray, " rows"]:
    """The rows that are fitted: all, or those that are not held out."""
    if holdout_above is None:
        return np.ones(len(table), bool)
    table.need(("c",), "hold-out")
    rows = ~table.above_budget(holdout_above)
    if rows.all():
        raise InputError(f"{table.name}: no run has more than {holdout_above:.4g} FLOPs, so none would be held out")
    return rows


def _spread(fits: DesignFits, noise: RunNoise, method: IntervalMethod, resamples: int, seed: int) -> Spread:
    """Resampled constants of the law, and the forms that its forecasts mix."""
    if not resamples:
        return Spread(noise, None, None, [])
    left = leave_one_out(fits)
    drawn = resample(fits, noise, left, method, resamples, seed)
    rng = np.random.default_rng([seed, 2])
    few = draw_bootstrap_errors(fits, left, np.array([noise.deviation]), noise.dof, fits.config.member_draws, rng)
    return Spread(noise, left, drawn, model_average(fits, drawn.params[None], few))


def _predictor(
    fits: DesignFits, optimum: PointEstimate, spread: Spread, cost: TokenCost, ranges, level: float, seed: int
) -> Predictor:
    forms, drawn = spread.forms, spread.drawn
    return Predictor(
        law=optimum.law,
        constants=optimum.params,
        draws=np.empty((0, len(optimum.params))) if drawn is None else drawn.params,
        cost=cost,
        noise=spread.noise,
        ranges=ranges,
        level=level,
        seed=seed,
        rivals=rivals_of(forms),
        extrapolation_inflation=pooled_inflation(forms),
        config=fits.config,
    )


def rivals_of(forms: list[Member]) -> tuple[Rival, ...]:
    """The forms beside the law itself, as a prediction needs them."""
    return tuple(
        Rival(form.label, form.law, form.params[0], form.draws[0], float(form.weight[0])) for form in forms[1:]
    )


def _derived(
    predictor: Predictor, target: float | None
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " draws"]]]:
    """Exponents, best size and data, and loss at the target: of the estimate, and of every draw."""
    if target is None:
        return {}, {}
    law, cost, n_range = predictor.law, predictor.cost, predictor.ranges["n"]
    point = derive(law, predictor.constants[None], cost, target, n_range)
    draws = derive(law, predictor.draws, cost, target, n_range) if len(predictor.draws) else {}
    return {name: float(values[0]) for name, values in point.items() if np.isfinite(values[0])}, draws


def _intervals(law: Law, drawn: Resamples | None, derived_draws, level: float) -> Intervals:
    """Intervals of the constants and of what is derived, from the draws."""
    if drawn is None:
        return Intervals(level, IntervalMethod.NONE, 0, 0, 0, 0, {}, {})
    missing = ~np.isfinite(derived_draws["n_opt"]) if derived_draws else np.zeros(0)
    return Intervals(
        level=level,
        method=drawn.method,
        resamples=drawn.asked,
        n_not_converged=drawn.not_converged,
        n_at_bound=drawn.at_bound,
        n_without_optimum=int(np.sum(missing)),
        params={name: interval_of(interval(drawn.params[:, i], level)) for i, name in enumerate(law.names)},
        derived={name: interval_of(interval(draws, level)) for name, draws in derived_draws.items()},
    )


def _certificate(optimum: PointEstimate) -> Certificate:
    return Certificate(
        n_starts=optimum.starts,
        n_at_best=optimum.at_best,
        gradient=optimum.gradient,
        decrement=optimum.decrement,
        condition=optimum.condition,
        at_bound=optimum.at_bound,
    )


def _exclusions(
    table: Table, fitted_rows: Bool[np.ndarray, " rows"], holdout_above: float | None
) -> tuple[Exclusion, ...]:
    """The rules that left rows out, the hold-out last."""
    rules = [*table.excluded]
    if holdout_above is not None:
        rules.append(Exclusion(f"held out: more than {holdout_above:.6g} FLOPs", int(np.sum(~fitted_rows))))
    return tuple(rules)


def holdout_errors(predictor: Predictor, table: Table, rows: Bool[np.ndarray, " rows"], above: float) -> HoldoutReport:
    """Errors on runs that the fit did not see, and the share of them inside their intervals.

    Args:
        predictor: of the fit.
        table: all runs.
        rows: those that were held out.
        above: FLOPs above which they were.
    """
    loss, low, high = predictor.losses({variable: values[rows] for variable, values in table.values.items()})
    error = np.abs(loss / table.loss[rows] - 1)
    return HoldoutReport(
        above=above,
        n=int(rows.sum()),
        mean_abs_rel_error=float(error.mean()),
        max_abs_rel_error=float(error.max()),
        coverage=float(np.mean((low <= table.loss[rows]) & (table.loss[rows] <= high))),
    )


def _model_average(forms: list[Member]) -> ModelAverage:
    return ModelAverage(
        extrapolation_inflation=pooled_inflation(forms),
        forms=tuple(
            RivalReport(
                label=form.label,
                law=form.law.name,
                weight=float(form.weight[0]),
                score=finite(form.score[0]),
                params=dict(zip(form.law.names, map(float, form.params[0]), strict=True)),
                samples={} if k == 0 else samples_of(form.law, form.draws[0]),
            )
            for k, form in enumerate(forms)
        ),
    )


def samples_of(law: Law, params: Float[np.ndarray, "draws params"]) -> dict[str, tuple[float, ...]]:
    """Resampled constants by name, to ``SAMPLE_DIGITS`` significant digits."""
    return {
        name: tuple(float(f"{value:.{SAMPLE_DIGITS}g}") for value in params[:, i]) for i, name in enumerate(law.names)
    }


def _terms_at_centroid(fits: DesignFits, draws: Float[np.ndarray, "draws params"], level: float) -> CentroidTerms:
    """What each linear constant adds to the prediction at the centre of the runs, where A and B are not collinear."""
    coordinates = Coordinates.of(fits.law, fits.columns)
    with float64():
        point, of_draws = (np.asarray(coordinates.to_unconstrained(params)) for params in (fits.params, draws))
    index = {name: fits.law.names.index(name) for name in fits.law.linear}
    return CentroidTerms(
        centroid={variable: float(value) for variable, value in coordinates.centre.items()},
        collinear=collinear(fits.law, fits.params[0], coordinates.centre),
        params={name: float(point[0, i]) for name, i in index.items()},
        intervals={name: interval_of(interval(of_draws[:, i], level)) for name, i in index.items()}
        if len(draws)
        else {},
    )


def _ranges(table: Table) -> dict[str, tuple[float, float]]:
    return {variable: (float(values.min()), float(values.max())) for variable, values in table.values.items()}


def _fitted_rows(table: Table, weight: Float[np.ndarray, " rows"]) -> FittedRows:
    weights = None if table.noise is None else tuple(weight.tolist())
    values = {variable: tuple(values.tolist()) for variable, values in table.values.items()}
    return FittedRows(tuple(map(str, table.run)), values, tuple(table.loss.tolist()), weights)


def _inputs(table: Table, law: Law) -> tuple[InputFile, ...]:
    """The files behind a fit: its table first, then that of a law of one's own."""
    if not table.path:
        return ()
    declared = law.origin.rpartition(":")[0] if law.origin else None
    return (InputFile(table.path, table.sha256), *([InputFile(declared, sha256(declared))] if declared else []))
