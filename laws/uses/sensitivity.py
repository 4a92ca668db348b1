"""Sensitivity of a fit to choices that runs do not decide: objective, outliers, budgets, form, conventions of N and C, and
which runs count most when surfaces are scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from laws.base.errors import FitFailed, InputError
from laws.data.grouping import budget_groups
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.estimation.estimate import PointEstimate, estimate, weights_of
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.priors import PriorName
from laws.inference.allocation import derive
from laws.model.forms import LAWS
from laws.model.law import Law
from laws.results.fitting import FitSettings, fit_table
from laws.results.report import FitReport
from laws.results.report_parts import SensitivityRow
from laws.results.results import FitResult

# Objectives and Huber thresholds that are tried beside the fit's own: a decade to either side of the default, and squares.
ALTERNATIVES = (("log_huber", 1e-4), ("log_huber", 1e-3), ("log_huber", 1e-2), ("log_squared", 1e-3))
# Factors in size from the best of its budget at which a run counts half in the scores of surfaces: the default between a
# narrower and two wider ones, of which the last hardly tells runs apart.
NEARNESS = (2.0, 4.0, 16.0, 1e3)
NEAR_RESAMPLES = 20  # of the law beside the surfaces, whose draws do not depend on them
# Share of the runs that an outlier rule leaves out: the published code of Besiroglu et al. 2024, arXiv 2404.10102, fits
# without the 5 highest losses of 245.
OUTLIER_SHARE = 0.02
# Conventions of N and C that a collected table holds; the last is the one of Kaplan et al. 2020.
CONVENTIONS: tuple[dict[str, str], ...] = (
    {"n": "params_non_embedding"},
    {"c": "flops_exact_causal"},
    {"c": "flops_6nd"},
    {"n": "params_non_embedding", "c": "flops_6nd_non_embedding"},
)


def sensitivity(fitted: FitResult, table: Table, reload: Callable[..., Table]) -> tuple[SensitivityRow, ...]:
    """Exponent, best size, data and loss at the target of a fit, under every other choice.

    Args:
        fitted: the fit, of a law of N and D.
        table: the table that was fitted.
        reload: reads that table with other columns, given by variable, as ``reload(n="params_non_embedding")``.

    Returns:
        a row a choice, in the choice's own conventions of N and C: ``c`` (FLOPs of the target), ``a`` (exponent of
        N*(C)), ``n`` (parameters), ``d`` (tokens) and ``loss``; ``reason`` where it has no fit. The fit as it is comes
        first.

    Raises:
        InputError: the law does not trade N against D.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> frame = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28})
        >>> table = laws.load(frame, n="n", d="d")
        >>> rows = laws.sensitivity(table.fit(resamples=0), table, lambda **columns: laws.load(frame, **columns))
        >>> rows[0].kind, round(rows[0].a, 3), rows[1].choice
        ('as fitted', 0.452, 'log_huber, delta 0.0001')
    """
    law, report = fitted.law, fitted.report
    if not law.has_compute_optimum:
        raise InputError(f"law '{law.name}' is not a law of both n and d, so it has no optimum to move")
    table = table.for_law(law)
    objective = (report.objective.name, report.objective.delta)
    params = np.array([report.params[name] for name in law.names])
    fitted_rows = np.ones(len(table), bool)
    if report.holdout:
        fitted_rows = ~table.above_budget(report.holdout.above)
    weight = weights_of(table, fitted_rows, objective[0])
    residual = np.abs(np.log(table.loss) - law.log_value(params, table.values))

    def row(kind: str, choice: str, law=law, changed_table=table, weight=weight, objective=objective) -> SensitivityRow:
        try:
            point_estimate = estimate(law, changed_table, objective[0], objective[1], weight)
        except (InputError, FitFailed) as error:
            return SensitivityRow(kind, choice, reason=str(error))
        cost = report.token_cost if changed_table is table else fit_token_cost(changed_table.take(fitted_rows))
        target = _same_target(report, table.values["n"], changed_table.values["n"], cost)
        return replace(_at_target(point_estimate, cost, target, changed_table, weight), kind=kind, choice=choice)

    rows = [row("as fitted", law.name), *_other_nearness(fitted, table)]
    rows += [row("objective", _label(*other), objective=other) for other in ALTERNATIVES if other != objective]
    rows += [row("left out", rule, weight=weight * keep) for rule, keep in _left_out(table, weight, residual)]
    rows += [row("form", other.name, law=other) for other in _other_laws(law)]
    for columns in CONVENTIONS:
        changed = {variable: column for variable, column in columns.items() if table.columns.get(variable) != column}
        if changed and all(column in table.header for column in changed.values()):
            choice = ", ".join(f"{variable} = {column}" for variable, column in changed.items())
            rows.append(row("convention", choice, changed_table=_same_rows(reload(**changed), table)))
    return tuple(rows)


def _other_nearness(fitted: FitResult, table: Table) -> Iterator[SensitivityRow]:
    """Forecasts of the surfaces at the target when runs further from the best size count more or less in their scores.

    Args:
        fitted: the fit.
        table: the table that was fitted.
    """
    report, target = fitted.report, fitted.report.target_flops
    if not fitted.predictor.of_surfaces or target is None:
        return
    average = report.model_average
    for near in NEARNESS:
        config = replace(report.uncertainty, near_factor=near)
        predictor = fitted.predictor
        if near != report.uncertainty.near_factor:
            settings = FitSettings(
                objective=report.objective.name,
                delta=report.objective.delta,
                resamples=NEAR_RESAMPLES,
                ci_method="auto",
                uncertainty=config,
                level=report.intervals.level,
                target=target,
                holdout_above=report.holdout.above if report.holdout else None,
                fixed=None,
                curves=None,
                seed=report.seed,
                prior=cast(PriorName, average.prior),
                prior_without=average.prior_without,
            )
            predictor = fit_table(table, fitted.law, settings).predictor
        point, _ = predictor.forecast_allocation(np.array([target]))
        a, n, d, loss = (float(getattr(point, name)[0, 0]) for name in ("a", "n", "d", "loss"))
        choice = f"half at a factor {near:g} from the best size"
        choice += " (as fitted)" if near == report.uncertainty.near_factor else ""
        yield SensitivityRow("near", choice, c=target, n_runs=report.n_runs, a=a, n=n, d=d, loss=loss)


def _same_rows(other: Table, table: Table) -> Table:
    """The rows of a table, as another reading of its file has them."""
    return other.take(np.isin(other.row, table.row))


def _label(objective: str, delta: float) -> str:
    """An objective, with its threshold where it has one."""
    return f"{objective}, delta {delta:g}" if OBJECTIVES[objective].has_threshold else objective


def _left_out(table: Table, weight: np.ndarray, residual: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Rules that leave runs out, each with a weight of 1 for the rows it keeps and 0 for the others."""
    fitted_rows = np.flatnonzero(weight > 0)
    count = int(np.ceil(OUTLIER_SHARE * len(fitted_rows)))
    for rule, order in (("worst-fitted", -residual), ("highest losses", -table.loss)):
        keep = np.ones(len(table))
        keep[fitted_rows[np.argsort(order[fitted_rows], kind="stable")[:count]]] = 0
        yield f"the {count} {rule}", keep
    group = budget_groups(table.values["c"])
    fitted_budgets = np.unique(group[fitted_rows])
    if len(fitted_budgets) > 2:
        for rule, budget in (("the lowest budget", fitted_budgets[0]), ("the highest budget", fitted_budgets[-1])):
            yield rule, (group != budget).astype(float)


def _other_laws(law: Law) -> list[Law]:
    """The laws of N and D alone, but one."""
    return [other for other in LAWS.values() if other.has_compute_optimum and not other.optional and other != law]


def _same_target(report: FitReport, sizes: np.ndarray, other_sizes: np.ndarray, cost: TokenCost) -> float:
    """Training FLOPs of the fit's compute-optimal run in other conventions of N and C.

    Args:
        report: of the fit.
        sizes: parameters of the runs in the convention of the fit.
        other_sizes: the same in the other convention.
        cost: training FLOPs a token in the other convention.
    """
    n_opt, d_opt = report.derived["n_opt"], report.derived["d_opt"]
    order = np.argsort(sizes)
    log_sizes, log_others = np.log(sizes[order]), np.log(other_sizes[order])
    clipped = np.clip(np.log(n_opt), log_sizes[0], log_sizes[-1])
    slope = np.polyfit(log_sizes, log_others, 1)[0]
    log_n = np.interp(clipped, log_sizes, log_others) + slope * (np.log(n_opt) - clipped)
    return float(d_opt * np.exp(cost.log_flops_per_token(log_n)))


def _at_target(
    point_estimate: PointEstimate, cost: TokenCost, target: float, table: Table, weight: np.ndarray
) -> SensitivityRow:
    """Compute-optimal split of the target under an estimate; kind and choice are left empty.

    Args:
        point_estimate: the fitted constants.
        cost: training FLOPs a token.
        target: training FLOPs.
        table: the runs.
        weight: what each row counts; 0 for rows that were left out.
    """
    sizes = table.values["n"][weight > 0]
    derived = derive(
        point_estimate.law, point_estimate.params[None], cost, target, (float(sizes.min()), float(sizes.max()))
    )
    if not np.isfinite(derived["n_opt"][0]):
        return SensitivityRow("", "", reason=f"no compute-optimal size at {target:.4g} FLOPs")
    a, n, d, loss = (float(derived[name][0]) for name in ("a", "n_opt", "d_opt", "loss_opt"))
    return SensitivityRow("", "", c=target, n_runs=int((weight > 0).sum()), a=a, n=n, d=d, loss=loss)
