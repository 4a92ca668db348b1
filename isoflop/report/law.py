"""All that a report of a fit has to state."""

from typing import Any

from isoflop.report.markup import (
    Html,
    count,
    definitions,
    exponent,
    formula,
    join,
    missing,
    number,
    percent,
    power_of_ten,
    span,
    table,
    tag,
)
from isoflop.report.study import Place, Study
from laws.forecasting.prediction import extrapolation

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
}


DERIVED = {
    "a": ("a, exponent of N*(C)", exponent),
    "b": ("b, exponent of D*(C)", exponent),
    "n_opt": ("N*, best number of parameters", count),
    "d_opt": ("D*, best amount of data", count),
    "tokens_per_param": ("D* / N*, data a parameter", number),
    "loss_opt": ("loss there", lambda value: number(value, 4)),
    "a_6nd": ("a, were C = 6 N D", exponent),
    "b_6nd": ("b, were C = 6 N D", exponent),
}


def law(study: Study, place: Place) -> Html | None:
    """All that a report of a fit has to state."""
    del place
    if study.fit is None:
        return None
    report = study.fit.report
    intervals, objective, certificate = report["intervals"], report["objective"], report.get("certificate", {})
    meanings = {param.name: param.meaning for param in study.fit.law.params}
    level = f"{intervals['level']:.0%} interval"
    constants = [
        [name, number(value, 4), span(intervals["params"].get(name)), meanings[name]]
        for name, value in report["params"].items()
    ]
    derived = [
        [title, write(report["derived"][key]), span(intervals["derived"].get(key), write)]
        for key, (title, write) in DERIVED.items()
        if key in report["derived"]
    ]
    target = report.get("target")
    warnings = [tag("li", text) for text in report.get("warnings", [])]
    return join(
        tag("div", tag("h3", "Read with care"), tag("ul", *warnings), class_="warnings") if warnings else None,
        table(["constant", "value", level, "meaning"], constants, words=(3,)),
        table([f"derived at {power_of_ten(target['c'])} FLOPs", "value", level], derived)
        if derived and target
        else None,
        definitions(
            [
                ("form", join(formula(report["form"]), f" ({report.get('source', '')})")),
                ("objective", _objective(objective)),
                ("starts", f"{report['starts']['at_best']} of {report['starts']['n']} reached the best objective"),
                ("certificate", _certificate(certificate)),
                ("runs", _excluded(report)),
                ("ranges", _ranges(report)),
                ("conventions", _conventions(report)),
                ("cost of a token", _cost(report["cost"])),
                ("intervals", _intervals(intervals, report)),
                ("held out", _holdout(report.get("holdout"))),
                ("extrapolation", _reach(report)),
            ]
        ),
    )


def _objective(objective: dict[str, Any]) -> str:
    name = str(objective["name"]).replace("_", " ")
    delta = f" with δ = {objective['delta']:g}" if objective.get("delta") else ""
    return f"{name}{delta}, {objective['reduction']} over the runs = {power_of_ten(objective['value'], 4)}"


def _certificate(found: dict[str, Any]) -> str | None:
    if not found:
        return None
    bound = f"; at a bound: {', '.join(found['at_bound'])}" if found["at_bound"] else "; no constant at a bound"
    return (
        f"gradient {power_of_ten(found['gradient'], 2)} and Newton decrement {power_of_ten(found['decrement'], 2)} "
        f"of the objective; condition number {number(found['condition'], 2)}{bound}"
    )


def _excluded(report: dict[str, Any]) -> Html:
    rules = [f"{rule['n']} left out: {rule['rule']}" for rule in report["excluded"]] or ["none left out"]
    return join(f"{report['n_runs']} fitted; ", "; ".join(rules))


def _ranges(report: dict[str, Any]) -> str:
    writers = {"n": ("N", count), "d": ("D", count), "c": ("C", power_of_ten)}
    shown = [(*writers[variable], ends) for variable, ends in report["ranges"].items() if variable in writers]
    return "; ".join(f"{symbol} {write(ends[0])} to {write(ends[1])}" for symbol, write, ends in shown)


def _conventions(report: dict[str, Any]) -> str:
    symbols = {"n": "N", "d": "D", "c": "C", "loss": "loss"}
    return "; ".join(
        f"{symbols[variable]} is column {column}" + (f" ({CONVENTIONS[column]})" if column in CONVENTIONS else "")
        for variable, column in report["columns"].items()
        if variable in symbols
    )


def _cost(cost: dict[str, Any]) -> str:
    if cost["convention"] == "6ND":
        return "6 N FLOPs"
    return (
        "the sweep's own curve of exact FLOPs against N, from which no run departs by more than "
        f"{percent(cost['max_error'])}; N*(C) is the numeric minimum along it, and a its slope at the target"
    )


def _intervals(intervals: dict[str, Any], report: dict[str, Any]) -> str:
    if not intervals["resamples"]:
        return "none: the fit has no bootstrap"
    lost = f", {intervals['not_converged']} of which did not converge" if intervals.get("not_converged") else ""
    drawn = f"{intervals['resamples']:,} resamples{lost}, seed {report['seed']}"
    return f"{intervals['level']:.0%}, {intervals['method']}, {drawn}"


def _holdout(holdout: dict[str, Any] | None) -> str | None:
    if not holdout:
        return None
    above = f" above {power_of_ten(holdout['above'], 2)} FLOPs" if holdout.get("above") else ""
    return (
        f"{holdout['n']} runs{above}: mean absolute relative error {percent(holdout['mean_abs_rel_error'])}, worst "
        f"{percent(holdout['max_abs_rel_error'])}, {percent(holdout['coverage'])} of them inside their intervals"
    )


def _reach(report: dict[str, Any]) -> str | None:
    target, ends = report.get("target"), report["ranges"].get("c")
    if not target or not ends:
        return None
    at = {"n": report["derived"].get("n_opt"), "d": report["derived"].get("d_opt"), "c": target["c"]}
    factors = extrapolation(report["ranges"], {variable: value for variable, value in at.items() if not missing(value)})
    return f"the target of {power_of_ten(target['c'])} FLOPs lies {distance(factors)}"


def distance(factors: dict[str, float]) -> str:
    """How far beyond the fitted runs something lies."""
    beyond = [
        f"{variable.upper()} by a factor {number(factor)}" for variable, factor in factors.items() if factor > ROUNDING
    ]
    return f"beyond the fitted runs in {', in '.join(beyond)}" if beyond else "within the fitted runs"
