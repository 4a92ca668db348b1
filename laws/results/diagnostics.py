"""What a reader of a fit must know: faults that published fits had, each looked for by one function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from laws.approaches.budget_minima import MinimumFlaw
from laws.data.checks import DERIVED
from laws.data.loading import TRUNK
from laws.data.table import Table
from laws.data.token_cost import ROUGH
from laws.estimation.estimate import PointEstimate
from laws.estimation.newton import minimise
from laws.inference.methods import IntervalMethod
from laws.model.forms.allocation import COUPLED
from laws.results.report import FitReport
from laws.results.report_parts import FitWarning, Interval, WarningKind
from laws.results.surface_diagnostics import SURFACE_CHECKS

FEW_AT_BEST = 0.05  # share of starts at the best objective below which the optimum may not be global
OUTLIER_SHARE = 0.02  # share of the runs, the worst fitted, that the outlier check leaves out
UNEVEN = 0.9  # share of the runs below which the effective number of runs is stated
# What is said of the variable that no column states.
THIRD = {
    "c": "no column of compute: C = 6 N D",
    "d": "no column of training data: D = C / (6 N)",
    "n": "no column of parameters: N = C / (6 D)",
}
TARGET_TOLERANCE = 1.05  # factor beyond the fitted compute from which a target counts as extrapolation


def warnings(
    report: FitReport, optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"]
) -> tuple[FitWarning, ...]:
    """All that applies, in the order in which it matters.

    Args:
        report: of the fit, without warnings.
        optimum: its point estimate.
        table: all rows, held-out ones included.
        weight: what each row counts; 0 for those held out.
    """
    applying = [*_equals_start(optimum), *(warning for check in CHECKS for warning in check(report))]
    return (*applying, *_outliers(report, optimum, table, weight))


def _at_bound(report: FitReport) -> list[FitWarning]:
    if not report.certificate.at_bound:
        return []
    listed = ", ".join(f"{name} = {report.params[name]:.3g}" for name in report.certificate.at_bound)
    return [FitWarning(WarningKind.AT_BOUND, f"at a bound: {listed}; the runs do not determine it")]


def _equals_start(optimum: PointEstimate) -> list[FitWarning]:
    if not optimum.equals_start:
        return []
    text = "the answer equals one of the starts: the optimiser did not move"
    return [FitWarning(WarningKind.EQUALS_START, text)]


def _few_at_best(report: FitReport) -> list[FitWarning]:
    count, starts = report.certificate.n_at_best, report.certificate.n_starts
    if starts == 1 or (count > 1 and count >= FEW_AT_BEST * starts):
        return []
    text = f"only {count} of {starts} starts reached the best objective, which may not be global"
    return [FitWarning(WarningKind.FEW_AT_BEST, text)]


def _leaves_size_open(interval: Interval, factor: float) -> bool:
    low, high = interval
    return low is None or high is None or high > factor * max(low, 1e-300)


def _unidentified(report: FitReport) -> list[FitWarning]:
    """By the profile where there is one. A and B are always nearly collinear with their exponents and are not judged."""
    source, name = (report.profile, "profile") if report.profile else (report.intervals, "interval")
    judged = {k: v for k, v in source.params.items() if k not in report.terms_at_centroid.collinear} | source.derived
    factor = report.uncertainty.unidentified_span
    wide = [name for name, interval in judged.items() if _leaves_size_open(interval, factor)]
    if not wide:
        return []
    text = f"unidentified: the {source.level:.0%} {name} of {', '.join(wide)} spans more than a factor {factor:g}"
    return [FitWarning(WarningKind.UNIDENTIFIED, text)]


def _few_runs(report: FitReport) -> list[FitWarning]:
    constants, method, enough = len(report.params), report.intervals.method, report.uncertainty.runs_per_constant
    if report.n_runs >= enough * constants:
        return []
    text = f"few runs: {report.n_runs} for {constants} constants, fewer than {enough} a constant"
    if method == IntervalMethod.PAIRS:
        text += f": the bootstrap over runs is unreliable (use the method '{IntervalMethod.WILD}')"
    elif method != IntervalMethod.NONE:
        text += f": intervals by {method.title}, as the bootstrap over runs degenerates"
    return [FitWarning(WarningKind.FEW_RUNS, text)]


def _resamples(report: FitReport) -> list[FitWarning]:
    intervals = report.intervals
    counts = (
        (intervals.n_not_converged, "did not converge"),
        (intervals.n_at_bound, "ended on a bound"),
        (intervals.n_without_optimum, "have no compute-optimal size at the target and are not in its intervals"),
    )
    lost = [f"{count} {text}" for count, text in counts if count]
    if not lost:
        return []
    return [FitWarning(WarningKind.RESAMPLES, f"of {intervals.resamples} resamples {' and '.join(lost)}")]


def _rivals(report: FitReport) -> list[FitWarning]:
    """Rivals that forecast the larger runs better from the smaller."""
    forms, config = report.model_average.forms, report.uncertainty
    weight = sum(form.weight for form in forms if form.law == report.law)
    before = config.law_weight
    if report.model_average.prior is not None:
        before = config.coupled_weight if report.law == COUPLED.name else 1 - config.coupled_weight
        if all(form.law != report.law for form in forms[1:]):  # it stands in for a law that is not determined
            return []
    others = [form for form in forms if form.law != report.law or form.label != forms[0].label]
    if not others or weight >= config.outdone_share * before:
        return []
    better = max(others, key=lambda form: form.weight)
    text = (
        f"the law has a weight of {weight:.0%} among its rivals: '{better.label}' ({better.weight:.0%}) "
        "forecast the larger runs better from the smaller"
    )
    return [FitWarning(WarningKind.RIVALS, text)]


def _inflation(report: FitReport) -> list[FitWarning]:
    """Errors of forecasts that grow with distance."""
    inflation = report.model_average.extrapolation_inflation
    if report.model_average.prior is not None:  # of surfaces it is the same for all tables
        return []
    if inflation * np.log(10) <= report.uncertainty.inflation_warning * report.noise.deviation:
        return []
    text = (
        "forecasts of the larger runs from the smaller erred by more than their intervals: predictions widen by "
        f"{inflation:.2%} for every factor e of extrapolation"
    )
    return [FitWarning(WarningKind.INFLATION, text)]


def _extrapolation(report: FitReport) -> list[FitWarning]:
    if report.target_flops is None:
        return []
    factor = report.target_flops / report.ranges["c"][1]
    if factor < TARGET_TOLERANCE:
        return []
    text = f"the target lies a factor {factor:.3g} in compute beyond the fitted runs"
    return [FitWarning(WarningKind.EXTRAPOLATION, text)]


def _rows_of_one_run(report: FitReport) -> list[FitWarning]:
    if report.n_rows <= report.n_runs or report.columns.get("run") == TRUNK:  # the table says that of trunks itself
        return []
    effective = report.dof_resid + len(report.params)
    uneven = f", as {effective:.3g} of equal numbers of rows" if effective < UNEVEN * report.n_runs else ""
    text = (
        f"{report.n_rows} rows of {report.n_runs} runs: those of one run are not independent, so intervals count runs"
        f"{uneven}; and unfinished runs on a decaying schedule lie above the law"
    )
    return [FitWarning(WarningKind.ROWS_OF_ONE_RUN, text)]


def _compute(report: FitReport) -> list[FitWarning]:
    for variable, rule in THIRD.items():
        if report.columns.get(variable) == DERIVED[variable]:
            return [FitWarning(WarningKind.COMPUTE, rule)]
    if report.token_cost.error <= ROUGH:
        return []
    text = (
        f"FLOPs a token are not one smooth curve of N: a run lies {report.token_cost.error:.1%} off it; N*(C) mixes "
        "shapes or contexts"
    )
    return [FitWarning(WarningKind.COMPUTE, text)]


def _approach_2_bias(report: FitReport) -> list[FitWarning]:
    """Approach 2 is biased even without noise (arXiv 2603.22339): said wherever its exponent is shown."""
    profiles = [approach for approach in report.approaches.values() if approach.minima and approach.a is not None]
    if not profiles:
        return []
    edge_flaws = (MinimumFlaw.AT_SMALLEST, MinimumFlaw.AT_LARGEST, MinimumFlaw.NOISY_EDGE)
    rejected = max(sum(budget.flaw in edge_flaws for budget in approach.rejected) for approach in profiles)
    edge = f"; {rejected} of the budgets have their minimum at an edge and are left out" if rejected else ""
    text = (
        "approach 2 is biased by the width and centring of each budget's sizes and by alpha != beta, even without "
        f"noise, its parabolas most: compare the three approaches{edge}"
    )
    return [FitWarning(WarningKind.APPROACH_2_BIAS, text)]


def _approaches_disagree(report: FitReport) -> list[FitWarning]:
    """Approaches whose interval of the exponent a does not meet the law's own."""
    low, high = report.intervals.derived.get("a", (None, None))
    if (
        low is None
        or high is None
        or not any(approach.minima and approach.a for approach in report.approaches.values())
    ):
        return []
    outside = {
        name: f"{name} {approach.a:.3f} [{approach.a_interval[0]:.3f}, {approach.a_interval[1]:.3f}]"
        for name, approach in report.approaches.items()
        if approach.a is not None
        and approach.a_interval is not None
        and None not in approach.a_interval
        and (approach.a_interval[0] > high or approach.a_interval[1] < low)  # pyright: ignore[reportOptionalOperand]
    }
    if not outside:
        return []
    text = f"the approaches disagree on a: {'; '.join(outside.values())} against [{low:.3f}, {high:.3f}] here"
    if "envelope" in outside:
        text += "; the envelope reads unfinished runs, whose schedules have not decayed"
    return [FitWarning(WarningKind.APPROACHES_DISAGREE, text)]


CHECKS: tuple[Callable[[FitReport], list[FitWarning]], ...] = (
    _at_bound,
    _few_at_best,
    _unidentified,
    _few_runs,
    _resamples,
    _rivals,
    _inflation,
    _extrapolation,
    _rows_of_one_run,
    _compute,
    _approach_2_bias,
    _approaches_disagree,
    *SURFACE_CHECKS,
)


def _outliers(
    report: FitReport, optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"]
) -> list[FitWarning]:
    """How far the exponent moves when the worst-fitted 2% of the runs are left out."""
    law = optimum.law
    low, high = report.intervals.derived.get("a", (None, None))
    count = int(np.ceil(OUTLIER_SHARE * weight.sum()))
    if low is None or high is None or law.exponents is None or weight.sum() - count <= len(law.params):
        return []
    residual = np.abs(np.log(table.loss) - optimum.predict(table.values)) * (weight > 0)
    fewer = weight.copy()
    fewer[np.argsort(-residual)[:count]] = 0
    refitted = minimise(
        law, table.values, np.log(table.loss)[None], fewer[None], optimum.params[None], optimum.objective, optimum.delta
    )
    before = report.derived["a_6nd" if "a_6nd" in report.derived else "a"]
    after = float(law.exponents(dict(zip(law.names, refitted.params[0], strict=True)))[0])
    if abs(after - before) < 0.5 * (high - low) / 2:
        return []
    text = (
        f"outliers matter: leaving out the {count} worst-fitted runs moves a = beta / (alpha + beta) from {before:.3f} "
        f"to {after:.3f}"
    )
    return [FitWarning(WarningKind.OUTLIERS, text)]
