"""What a fit states: the report of a law fitted to a table, part by part, and its warnings."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from jaxtyping import Bool, Float

from laws.base.json_files import sha256
from laws.base.x64 import float64
from laws.data.groups import with_groups
from laws.data.table import Exclusion, Table
from laws.estimation.estimate import PointEstimate
from laws.forecasting.backtest import Backtest, backtest
from laws.forecasting.floor_forecast import floor_forecasts
from laws.forecasting.member import pooled_inflation
from laws.forecasting.mixture import Predictor
from laws.forecasting.priors import prior_of
from laws.forecasting.surface_check import surface_check
from laws.inference.allocation import derive
from laws.inference.methods import IntervalMethod
from laws.inference.noise import interval
from laws.inference.profile import collinear
from laws.inference.resampling import DesignFits, Resamples
from laws.model.coordinates import Coordinates
from laws.model.forms import find
from laws.model.grouped import grouped
from laws.model.law import Law
from laws.results.approach_reports import baselines, other_approaches
from laws.results.diagnostics import warnings
from laws.results.fitting import FitSettings, FittedTable, fit_table
from laws.results.form_reports import rival_report, samples_of
from laws.results.frontier_report import frontier_report
from laws.results.groups import efficiencies
from laws.results.profiling import profile_all, profile_intervals, profile_report
from laws.results.report import FitReport
from laws.results.report_parts import (
    ApproachReport,
    CentroidTerms,
    Certificate,
    FittedRows,
    FitWarning,
    GroupEfficiency,
    Groups,
    HoldoutReport,
    InputFile,
    Intervals,
    ModelAverage,
    ObjectiveReport,
    Profiles,
    WarningKind,
    interval_of,
)

SEED = "seed"  # column of the seed of a run


def analyse(table: Table, law: str | Law, settings: FitSettings) -> tuple[Law, FitReport]:
    """A law fitted to a table, with all that a reader needs in order to trust it or not.

    Args:
        table: from ``laws.data.loading.load``.
        law: a name of ``laws.model.forms.LAWS`` or a declaration.
        settings: what is asked for.

    Returns:
        the law as it was fitted (without the constants that are held), and the report.

    Raises:
        InputError: the table does not suit the law, or the hold-out leaves nothing.
        FitFailed: no start reached an optimum.
    """
    law, names = find(law), ()
    if settings.group is not None:
        table, names = with_groups(table, settings.group)
    fit = fit_table(table, grouped(law, len(names)) if names else law, settings)
    report = _report(fit)
    if settings.group is not None:
        report = dataclasses.replace(report, groups=Groups(settings.group, law.name, _efficiencies(fit, names)))
    of_table = (FitWarning(WarningKind.TABLE, text) for text in fit.table.warnings)
    of_fit = warnings(report, fit.optimum, fit.table, fit.weight)
    return fit.law, dataclasses.replace(report, warnings=(*of_table, *of_fit))


def _efficiencies(fit: FittedTable, names: tuple[str, ...]) -> tuple[GroupEfficiency, ...]:
    """Efficiencies of the groups of a fit."""
    group, run = fit.train.values["group"], fit.train.run
    runs = tuple(len(np.unique(run[group == number])) for number in range(len(names)))
    return efficiencies(fit.law, fit.optimum.params, fit.predictor.draws, names, runs, fit.settings.level)


def _report(fit: FittedTable) -> FitReport:
    """The content of ``fit.json``, without warnings."""
    approaches = _approaches(fit)
    settings, table, law, train, predictor = fit.settings, fit.table, fit.law, fit.train, fit.predictor
    derived, derived_draws = _derived(predictor, fit.target)
    intervals = _intervals(law, fit.spread.drawn, derived_draws, settings.level)
    profile, intervals = _profiled(fit, intervals)
    return FitReport(
        law=law.name,
        declared_in=law.origin,
        formula=law.formula,
        source=law.source,
        observable=law.target_label(table.columns["loss"]),
        fixed=dict(law.fixed),
        params=fit.optimum.constants,
        derived=derived,
        target_flops=fit.target,
        objective=ObjectiveReport(settings.objective, settings.delta, fit.optimum.value),
        certificate=_certificate(fit.optimum),
        weights="one a row" if table.noise is None else f"1 / {table.columns['noise']}^2, mean one",
        n_runs=train.runs,
        n_rows=len(train),
        dof_resid=fit.spread.noise.dof,
        excluded=_exclusions(table, fit.fitted_rows, settings.holdout_above),
        intervals=intervals,
        profile=profile,
        backtest=_backtest(fit),
        noise=fit.spread.noise,
        uncertainty=settings.uncertainty,
        model_average=_model_average(fit),
        samples=samples_of(law, predictor.draws),
        terms_at_centroid=_terms_at_centroid(fit.fits, predictor.draws, settings.level),
        holdout=_holdout_errors(fit),
        baselines=baselines(train),
        approaches=approaches,
        frontier=frontier_report(fit, approaches),
        ranges=predictor.ranges,
        columns=dict(table.columns),
        quantity=dict(table.quantity),
        read_with=dict(table.options),
        token_cost=predictor.cost,
        inputs=_inputs(table, law),
        data=_fitted_rows(train, fit.weight[fit.fitted_rows]),
        seed=settings.seed,
        created_at=time.time(),
        ladder=predictor.ladder,
        asked_law=fit.asked,
        floor_forecast=() if fit.target is None else floor_forecasts(predictor, fit.target),
    )


def _approaches(fit: FittedTable) -> dict[str, ApproachReport]:
    """Approaches 1 and 2 on the fitted runs; none for a law without a compute-optimal split."""
    settings = fit.settings
    if not fit.law.has_compute_optimum:
        return {}
    return other_approaches(
        fit.train, fit.predictor.cost, settings.curves, settings.level, settings.seed, settings.uncertainty
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


def _profiled(fit: FittedTable, intervals: Intervals) -> tuple[Profiles | None, Intervals]:
    """The profiles of a fit, None without resamples, and its intervals, which are theirs if that was asked for."""
    left, target, cost = fit.spread.left, fit.target, fit.predictor.cost
    if left is None:
        return None, intervals
    level, identified = fit.settings.level, fit.settings.uncertainty.identified_level
    curves = profile_all(fit.fits, left, fit.spread.noise, cost, target, max(level, identified))
    report = profile_report(curves, fit.law, cost, target, identified)
    if fit.method != IntervalMethod.PROFILE:
        return report, intervals
    params, derived = profile_intervals(curves, fit.law, cost, target, level)
    return report, dataclasses.replace(
        intervals, method=IntervalMethod.PROFILE, params=params, derived=intervals.derived | derived
    )


def _backtest(fit: FittedTable) -> Backtest | None:
    """Forecasts of larger runs from smaller ones, over the whole table; None without resamples."""
    if fit.spread.left is None:
        return None
    every = DesignFits.of(fit.optimum, fit.table, fit.weight, config=fit.settings.uncertainty)
    return backtest(every, fit.fitted_rows, fit.settings.level)


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


def _holdout_errors(fit: FittedTable) -> HoldoutReport | None:
    """Errors on the runs that were held out, and the share of them inside their intervals; None where none were."""
    above, rows, table = fit.settings.holdout_above, ~fit.fitted_rows, fit.table
    if above is None:
        return None
    measured = table.loss[rows]
    predicted, low, high = fit.predictor.losses({variable: values[rows] for variable, values in table.values.items()})
    error = np.abs(predicted / measured - 1)
    return HoldoutReport(
        above=above,
        n=int(rows.sum()),
        mean_abs_rel_error=float(error.mean()),
        max_abs_rel_error=float(error.max()),
        coverage=float(np.mean((low <= measured) & (measured <= high))),
        best_loss=float(measured.min()),
    )


def _model_average(fit: FittedTable) -> ModelAverage:
    """The forms that forecasts mix, and the prior of surfaces beside what the runs say."""
    forms, settings = fit.spread.forms, fit.settings
    of_surfaces = any(form.noise is not None for form in forms)
    return ModelAverage(
        extrapolation_inflation=pooled_inflation(forms),
        forms=tuple(rival_report(form, is_law=k == 0) for k, form in enumerate(forms)),
        prior=settings.prior if of_surfaces else None,
        prior_without=settings.prior_without if of_surfaces else (),
        surface=surface_check(
            fit.fits,
            prior_of(settings.prior, settings.prior_without),
            is_public=settings.prior == "public",
            level=settings.level,
            seed=settings.seed,
        )
        if fit.by_surfaces
        else None,
    )


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


def _fitted_rows(table: Table, weight: Float[np.ndarray, " rows"]) -> FittedRows:
    weights = None if table.noise is None else tuple(weight.tolist())
    values = {variable: tuple(values.tolist()) for variable, values in table.values.items()}
    has_seeds = table.frame is not None and SEED in table.frame.columns
    seeds = tuple(map(str, table.frame[SEED])) if has_seeds and table.frame is not None else None
    return FittedRows(tuple(map(str, table.run)), values, tuple(table.loss.tolist()), weights, seeds)


def _inputs(table: Table, law: Law) -> tuple[InputFile, ...]:
    """The files behind a fit: its table first, then that of a law of one's own."""
    if not table.path:
        return ()
    declared = law.origin.rpartition(":")[0] if law.origin else None
    return (InputFile(table.path, table.sha256), *([InputFile(declared, sha256(declared))] if declared else []))
