"""Approaches 1 and 2 on the runs of a fit, and naive forecasts, as a report states them."""

import numpy as np

from laws.approaches.envelope import Envelope, envelope
from laws.approaches.isoflop_profiles import IsoflopFit, isoflop_profiles
from laws.approaches.loss_profiles import METHODS
from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.curves import Curves
from laws.data.grouping import frontier
from laws.data.table import Table
from laws.data.token_cost import TokenCost
from laws.results.report_parts import ApproachReport, Baselines, BudgetMinimum, PowerLaw, RejectedBudget, interval_of


def baselines(table: Table) -> Baselines:
    """Naive forecasts from a table: the best loss so far, and a power law without offset along the frontier."""
    best_loss = float(table.loss.min())
    rows = frontier(table.values["c"], table.loss) if "c" in table.values else np.empty(0, int)
    if len(rows) < 2:
        return Baselines(best_loss, None)
    slope, intercept = np.polyfit(np.log(table.values["c"][rows]), np.log(table.loss[rows]), 1)
    return Baselines(best_loss, PowerLaw(k=float(np.exp(intercept)), p=float(-slope)))


def _isoflop_report(fit: IsoflopFit) -> ApproachReport:
    return ApproachReport(
        a=fit.a,
        a_interval=interval_of(fit.a_interval),
        b=fit.b,
        b_interval=interval_of(fit.b_interval),
        log_g=fit.log_g,
        noise=fit.noise,
        noise_source=fit.noise_from,
        minima=tuple(BudgetMinimum(m.c, m.n, m.d, m.loss, m.low, m.high) for m in fit.minima if m.flaw is None),
        rejected=tuple(RejectedBudget(m.c, m.flaw) for m in fit.minima if m.flaw is not None),
    )


def _envelope_report(fit: Envelope) -> ApproachReport:
    return ApproachReport(
        a=fit.a,
        a_interval=interval_of(fit.a_interval),
        b=fit.b,
        b_interval=interval_of(fit.b_interval),
        points={name: tuple(getattr(fit, name).tolist()) for name in ("c", "n", "d", "loss")},
        n_curves=fit.runs,
    )


def other_approaches(
    table: Table,
    cost: TokenCost,
    curves: Curves | None,
    level: float,
    seed: int,
    uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> dict[str, ApproachReport]:
    """Approaches 1 and 2, each with its exponents or the reason why there are none.

    Args:
        table: the fitted runs, with n, d and c.
        cost: training FLOPs a token.
        curves: learning curves, for approach 1.
        level: of the intervals.
        seed: of the draws.
        uncertainty: settings that shape intervals.

    Returns:
        ``envelope``, ``isoflop_cubic``, ``isoflop_akima`` and ``isoflop_parabola``.
    """
    reports: dict[str, ApproachReport] = {}
    if curves is None:
        reports["envelope"] = ApproachReport(reason="no learning curves were given")
    else:
        try:
            reports["envelope"] = _envelope_report(envelope(table, curves, level, seed=seed, uncertainty=uncertainty))
        except InputError as error:
            reports["envelope"] = ApproachReport(reason=str(error))
    for method in METHODS:
        try:
            reports[f"isoflop_{method}"] = _isoflop_report(
                isoflop_profiles(table, cost, method, level=level, seed=seed, uncertainty=uncertainty)
            )
        except InputError as error:
            reports[f"isoflop_{method}"] = ApproachReport(reason=str(error))
    return reports
