"""The law: all that a report of a fit has to state."""

from typing import Any

from markupsafe import Markup

from isoflop.report.formats import count, exponent, formula, number, percent, power_of_ten, span
from isoflop.report.study import Study
from laws.data.token_cost import TokenCost
from laws.forecasting.prediction import extrapolation
from laws.results.report import FitReport
from laws.results.report_parts import Certificate, HoldoutReport, ObjectiveReport

ROUNDING = 1.005  # a factor up to which a target counts as inside

CONVENTIONS = {
    "params_total": "all parameters",
    "params_non_embedding": "parameters without embeddings",
    "params_active": "parameters that act on a token",
    "flops_exact": "counted product by product, full attention",
    "flops_exact_causal": "counted product by product, causal attention",
    "flops_6nd": "6 N D",
    "flops_6nd_non_embedding": "6 N D without embeddings",
    "flops_6nd_active": "6 N D of the parameters that act on a token",
    "6ND": "6 N D, for want of a column",
    "C/6N": "C / (6 N), for want of a column",
    "C/6D": "C / (6 D), for want of a column",
}


DERIVED = {
    "a": ("a, exponent of N*(C)", exponent),
    "b": ("b, exponent of D*(C)", exponent),
    "n_opt": ("N*, best number of parameters", count),
    "d_opt": ("D*, best amount of data", count),
    "tokens_per_param": ("D* / N*, data per parameter", number),
    "loss_opt": ("loss there", lambda value: number(value, 4)),
    "a_6nd": ("a, were C = 6 N D", exponent),
    "b_6nd": ("b, were C = 6 N D", exponent),
}


def law(study: Study) -> dict[str, Any] | None:
    """What `law.html` shows: all that a report of a fit has to state."""
    if study.fit is None:
        return None
    report = study.fit.report
    meanings = {param.name: param.meaning for param in study.fit.law.params}
    constants = [
        [name, number(value, 4), span(report.intervals.params.get(name)), meanings[name]]
        for name, value in report.params.items()
    ]
    derived = [
        [title, write(report.derived[key]), span(report.intervals.derived.get(key), write)]
        for key, (title, write) in DERIVED.items()
        if key in report.derived
    ]
    return {
        "warnings": report.warnings,
        "level": f"{report.intervals.level:.0%} interval",
        "constants": constants,
        "derived": derived if report.target_flops else [],
        "target": report.target_flops,
        "statements": [
            ("form", Markup("{} ({})").format(formula(report.formula), report.source)),
            ("objective", _objective(report.objective)),
            ("starts", _starts(report.certificate)),
            ("certificate", _certificate(report.certificate)),
            ("runs", _excluded(report)),
            ("ranges", _ranges(report)),
            ("conventions", _conventions(report)),
            ("cost of a token", _cost(report.token_cost)),
            ("intervals", _intervals(report)),
            ("held out", _holdout(report.holdout)),
            ("extrapolation", _reach(report)),
        ],
    }


def _objective(objective: ObjectiveReport) -> str:
    name = objective.name.replace("_", " ")
    delta = f" with δ = {objective.delta:g}" if objective.has_threshold else ""
    return f"{name}{delta}, summed over the runs = {power_of_ten(objective.value, 4)}"


def _starts(certificate: Certificate) -> str:
    return f"{certificate.n_at_best} of {certificate.n_starts} reached the best objective"


def _certificate(certificate: Certificate) -> str:
    bound = f"; at a bound: {', '.join(certificate.at_bound)}" if certificate.at_bound else "; no constant at a bound"
    return (
        f"gradient {power_of_ten(certificate.gradient, 2)} and Newton decrement {power_of_ten(certificate.decrement, 2)} "
        f"of the objective; condition number {number(certificate.condition, 2)}{bound}"
    )


def _excluded(report: FitReport) -> str:
    rules = [f"{rule.n} left out: {rule.rule}" for rule in report.excluded] or ["none left out"]
    return f"{report.n_runs} fitted; {'; '.join(rules)}"


def _ranges(report: FitReport) -> str:
    writers = {"n": ("N", count), "d": ("D", count), "c": ("C", power_of_ten)}
    known = [(*writers[variable], ends) for variable, ends in report.ranges.items() if variable in writers]
    return "; ".join(f"{symbol} {write(ends[0])} to {write(ends[1])}" for symbol, write, ends in known)


def _conventions(report: FitReport) -> str:
    symbols = {"n": "N", "d": "D", "c": "C", "loss": "loss"}
    return "; ".join(
        f"{symbols[variable]} is column {column}" + (f" ({CONVENTIONS[column]})" if column in CONVENTIONS else "")
        for variable, column in report.columns.items()
        if variable in symbols
    )


def _cost(cost: TokenCost) -> str:
    if cost.six_nd:
        return "6 N FLOPs"
    return (
        "the sweep's own curve of exact FLOPs against N, from which no run departs by more than "
        f"{percent(cost.error)}; N*(C) is the numeric minimum along it, and a its slope at the target"
    )


def _intervals(report: FitReport) -> str:
    intervals = report.intervals
    if not intervals.resamples:
        return "none: the fit has no resamples"
    lost = f", {intervals.n_not_converged} of which did not converge" if intervals.n_not_converged else ""
    drawn = f"{intervals.resamples:,} resamples{lost}, seed {report.seed}"
    return f"{intervals.level:.0%}, {intervals.method.title}, {drawn}"


def _holdout(holdout: HoldoutReport | None) -> str | None:
    if holdout is None:
        return None
    return (
        f"{holdout.n} runs above {power_of_ten(holdout.above, 2)} FLOPs: mean absolute relative error "
        f"{percent(holdout.mean_abs_rel_error)}, worst {percent(holdout.max_abs_rel_error)}, "
        f"{percent(holdout.coverage)} of them inside their intervals"
    )


def _reach(report: FitReport) -> str | None:
    target = report.target_flops
    if target is None or "n_opt" not in report.derived:
        return None
    inputs = {"n": report.derived["n_opt"], "d": report.derived["d_opt"], "c": target}
    return f"the target of {power_of_ten(target)} FLOPs lies {distance(extrapolation(report.ranges, inputs))}"


def distance(factors: dict[str, float]) -> str:
    """How far beyond the fitted runs something lies."""
    outside = {variable: factor for variable, factor in factors.items() if factor > ROUNDING}
    beyond = [f"{variable.upper()} by a factor {number(factor)}" for variable, factor in outside.items()]
    return f"beyond the fitted runs in {', in '.join(beyond)}" if beyond else "within the fitted runs"
