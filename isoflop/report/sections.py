"""What the report says, section by section in reading order; a section without anything to say returns None."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from isoflop.report import figures
from isoflop.report.markup import (
    Html,
    count,
    definitions,
    duration,
    exponent,
    formula,
    join,
    missing,
    moment,
    number,
    percent,
    power_of_ten,
    span,
    table,
    tag,
)
from isoflop.report.runs import runs
from isoflop.report.study import Study, distinct, versions

Place = Callable[[str, go.Figure, str | Html], Html]
CONVENTIONS = {
    "params_total": "all parameters",
    "params_non_embedding": "parameters without embeddings",
    "params_active": "parameters that act on a token",
    "flops_exact": "counted product by product, full attention",
    "flops_exact_causal": "counted product by product, causal attention",
    "flops_6nd": "6 N D",
    "flops_6nd_non_embedding": "6 N D without embeddings",
    "6ND": "6 N D, for want of a column",
}
APPROACHES = (
    ("envelope", "1: envelope of the learning curves", figures.ENVELOPE),
    ("isoflop_akima", "2: minimum per budget, interpolated", figures.MINIMA),
    ("isoflop_parabola", "2: minimum per budget, parabolas", figures.MINIMA),
)
DERIVED = {
    "a": ("a, exponent of N*(C)", exponent),
    "b": ("b, exponent of D*(C)", exponent),
    "n_opt": ("N*, best number of parameters", count),
    "d_opt": ("D*, best number of tokens", count),
    "tokens_per_param": ("D* / N*, tokens a parameter", number),
    "loss_opt": ("loss there", lambda value: number(value, 4)),
    "a_6nd": ("a, were C = 6 N D", exponent),
    "b_6nd": ("b, were C = 6 N D", exponent),
}


def headline(study: Study) -> Html:
    """The law and its exponent in plain words."""
    kicker = [f"{len(study.runs)} runs"] if len(study.runs) else []
    if study.fit is None:
        said = tag("p", "These runs have no fit yet: isoflop fit makes one.", class_="lead")
        return join(tag("h1", study.name), tag("p", *kicker, class_="kicker"), said)
    report = study.fit.report
    kicker += [f"law fitted to {report['n_runs']} of them" if kicker else f"law fitted to {report['n_runs']} runs"]
    ends = report["ranges"].get("c")
    kicker += [f"{power_of_ten(ends[0], 2)} to {power_of_ten(ends[1], 2)} training FLOPs"] if ends else []
    warned = len(report.get("warnings", []))
    cautions = tag("a", f"{warned} caution{'s' if warned > 1 else ''}", href="#law") if warned else None
    return join(
        tag("h1", study.name),
        tag("p", " · ".join(kicker), " · " if warned else None, cautions, class_="kicker"),
        _in_words(report),
        tag("p", _scored_in_words(study.score), class_="lead") if study.score else None,
        tag("p", formula(_with_values(report)), class_="formula"),
        _cards(report),
    )


def _with_values(report: dict[str, Any]) -> str:
    """The law's formula with its constants put in."""
    text = report["form"]
    for name, value in sorted(report["params"].items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", lambda _, v=value: number(v, 4).replace(",", ""), text)
    return text


def _in_words(report: dict[str, Any]) -> Html | None:
    derived, ends = report["derived"], report["intervals"]["derived"]
    if missing(derived.get("a")):
        return tag("p", f"Loss follows {report['form']}.", class_="lead") if not derived else None
    n, d = 10 ** derived["a"], 10 ** derived["b"]
    size, data = (
        span([10**x for x in ends.get(key, ())] or None, lambda v: number(v, 2)).strip("[]").replace(", ", " to ")
        for key in ("a", "b")
    )
    level = f"{report['intervals']['level']:.0%} interval "
    return tag(
        "p",
        "The compute-optimal model grows as compute to the power ",
        tag("b", f"a = {exponent(derived['a'])}"),
        f" {span(ends.get('a'), exponent)}. Ten times the compute is best spent on a model {number(n, 2)} times as large",
        f" ({level}{size})" if size else "",
        f" that reads {number(d, 2)} times as many tokens",
        f" ({data})." if data else ".",
        class_="lead",
    )


def _scored_in_words(score: dict[str, Any]) -> Html:
    """How the blind prediction fared."""
    target = score["target"]
    at = f" at {power_of_ten(target['c'], 2)} FLOPs" if "c" in target else ""
    blind = "Frozen before any run there had ended" if score["blind"] else "Before it was compared with the runs there"
    return join(
        f"{blind}, its prediction of the loss{at} was ",
        tag("b", f"{number(score['predicted']['loss'], 4)}"),
        f" {span(score['predicted']['interval'], lambda v: number(v, 4))}; ",
        tag("b", number(score["measured"]["loss"], 4)),
        f" was measured, {percent(score['are'])} away and ",
        "inside" if score["covered"] else "outside",
        " the interval.",
    )


def prediction(study: Study, place: Place) -> Html | None:
    """The frozen prediction, what was measured since, and what naive forecasters would have said."""
    frozen, score = study.prediction, study.score
    if frozen is None and score is None:
        return None
    made = _frozen(frozen, study) if frozen else None
    if score is None:
        return join(tag("p", "Not measured yet: isoflop score compares once the runs are there."), made)
    said, naive = score["predicted"], score["baselines"]
    rows = [
        [
            tag("b", "the law"),
            number(said["loss"], 5),
            span(said["interval"], lambda v: number(v, 5)),
            tag("b", percent(score["are"])),
        ]
    ]
    for key, title in figures.NAIVE_NAMES.items():
        if naive.get(key):
            rows.append([f"naive: {title}", number(naive[key]["loss"], 5), "", percent(naive[key]["are"])])
    rows.append(["measured", number(score["measured"]["loss"], 5), "", ""])
    level, runs_ = f"{said['level']:.0%}", score["runs"]
    verdict = tag("span", "inside", class_="good") if score["covered"] else tag("span", "outside", class_="bad")
    notes = [
        join(
            "The measured loss lies ",
            verdict,
            f" the {level} interval, which is {percent(score['relative_width'])} of the loss wide.",
        ),
        "" if score["informative"] else "An interval as wide as that says little.",
        f"Measured is the {score['measured']['how']}.",
        f"At their own sizes, the {runs_['n']} runs there lie {percent(runs_['mean_are'])} from the law on average and "
        f"{percent(runs_['max_are'])} at worst; {percent(runs_['coverage'])} are inside their intervals.",
    ]
    cautions = [tag("li", text) for text in score["warnings"]]
    return join(
        place(
            "forecasts",
            figures.forecasts(score),
            "Three forecasts made from the smaller budgets, and the loss that was measured.",
        ),
        table(["forecast", "loss", f"{level} interval", "absolute relative error"], rows),
        tag("p", *(join(note, " ") for note in notes if note)),
        tag("ul", *cautions) if cautions else None,
        made,
    )


def _frozen(frozen: dict[str, Any], study: Study) -> Html:
    said, first = frozen["prediction"], (study.score or {}).get("first_record_at")
    factors = [f"{role.upper()} {number(factor)}" for role, factor in said.get("extrapolation", {}).items()]
    inputs = [join(tag("code", item["path"]), f" {item['sha256'][:16]} ") for item in frozen.get("inputs", [])]
    best = [
        f"{role.upper()}* = {count(said[role])} {span(said.get(f'{role}_interval'), count)}"
        for role in ("n", "d")
        if role in said
    ]
    return definitions(
        [
            (
                "predicted",
                f"loss {number(said['loss'], 5)} {span(said['interval'], lambda v: number(v, 5))} for one run",
            ),
            ("at", ", ".join(best)),
            ("frozen", moment(frozen["created_at"])),
            ("first run there ended", moment(first) if first else None),
            ("extrapolation", f"by the factors {', '.join(factors)} beyond the fitted runs" if factors else None),
            ("made from (sha256)", join(*inputs) if inputs else None),
            ("seal (sha256)", tag("code", frozen.get("sha256", "none"))),
        ]
    )


def _cards(report: dict[str, Any]) -> Html | None:
    derived, ends, target = report["derived"], report["intervals"]["derived"], report.get("target")
    if not derived or not target:
        return None
    at = f"at {power_of_ten(target['c'], 2)} FLOPs"
    chosen = (
        ("a", "exponent of N*(C)"),
        ("n_opt", f"best parameters {at}"),
        ("d_opt", f"best tokens {at}"),
        ("tokens_per_param", f"tokens a parameter {at}"),
        ("loss_opt", f"loss of the law {at}"),
    )
    cards = []
    for key, meaning in chosen:
        write = DERIVED[key][1]
        cards.append(
            tag(
                "div",
                tag("b", write(derived[key])),
                tag("span", span(ends.get(key), write)),
                tag("span", meaning),
                class_="card",
            )
        )
    return tag("div", *cards, class_="cards")


def _drawn(name: str, draw: Callable[[Study], go.Figure | None], caption: Callable[[Study], str]):
    """A section that is one figure."""

    def section(study: Study, place: Place) -> Html | None:
        figure = draw(study)
        return None if figure is None else place(name, figure, caption(study))

    return section


def _isoflop_caption(study: Study) -> str:
    groups = study.points.groupby("budget")
    known, crowded = groups["fitted"].any(), groups["n"].nunique() >= figures.FEWEST_SIZES
    if not crowded.any():
        return "Every dot is a run, darker for less compute; too few share a budget for curves of equal compute."
    text = f"Every dot is a run; each colour is one of {crowded.sum()} budgets of equal compute."
    if study.fit is None:
        return text
    text += " Curves are the fitted law along each budget"
    text += "; ticks with whiskers are the minima of the runs themselves." if figures.minima_of(study.fit) else "."
    held = int((crowded & ~known).sum())
    which = "the budget" if held == 1 else f"{held} budgets"
    return text + (f" Open dots and dashes: {which} that the fit never saw." if held else "")


def _residual_caption(study: Study) -> str:
    fitted = study.points[study.points["fitted"]]
    rms = float(np.sqrt(np.mean(fitted["residual"] ** 2)))
    text = f"The fitted runs scatter by {percent(rms)} around the law (root mean square)"
    seeds = study.fit.report["noise"].get("seeds") if study.fit else None
    text += f"; runs that differ in their seed alone by {percent(seeds)}." if seeds else "."
    return text + " A trend in any panel is something that the law's form misses. Grey: one standard deviation."


def approaches(study: Study, place: Place) -> Html | None:
    """The exponent by all three approaches."""
    report = study.fit.report if study.fit else {}
    found = report.get("approaches")
    if not found:
        return None
    rows, dots = [], []
    for key, name, colour in APPROACHES:
        line = found.get(key, {"reason": "not computed"})
        if "reason" in line:
            rows.append([name, "–", "", "–", "", line["reason"]])
            continue
        minima = line.get("minima", [])
        used = sum(m["reason"] is None for m in minima)
        note = (
            f"{used} of {len(minima)} budgets"
            if minima
            else f"{len(line['points']['c'])} points, {line['runs']} curves"
        )
        ends = (line["a_interval"], line["b_interval"])
        rows.append(
            [name, exponent(line["a"]), span(ends[0], exponent), exponent(line["b"]), span(ends[1], exponent), note]
        )
        dots.append((name, line["a"], line["a_interval"], colour))
    derived, ends = report["derived"], report["intervals"]["derived"]
    ours = "3: the law, along this sweep's FLOPs" if "a_6nd" in derived else "3: the law"
    for name, a, b in ((ours, "a", "b"), ("3: the law, were C = 6 N D", "a_6nd", "b_6nd")):
        if not missing(derived.get(a)):
            written = [text for key in (a, b) for text in (exponent(derived[key]), span(ends.get(key), exponent))]
            rows.append([name, *written, f"{report['n_runs']} runs"])
            dots.append((name, derived[a], ends.get(a), figures.LAW))
    level = f"{report['intervals']['level']:.0%}"
    caption = (
        "One exponent, found in three ways from the same runs. Dashed: 0.5, where model and data grow alike. "
        "Approach 2 is biased by the width and the centring of each budget's sizes even without noise: where the three "
        "agree, that counts for more than any one of them."
    )
    figure = figures.exponents(dots)
    unused = [m for m in found.get("isoflop_akima", {}).get("minima", []) if m["reason"]]
    left = [tag("li", f"{power_of_ten(m['c'], 2)} FLOPs: {m['reason']}") for m in unused]
    return join(
        place("exponents", figure, caption) if figure else None,
        table(["approach", "a", level, "b", level, "from"], rows, words=(5,)),
        join(tag("h3", "Budgets without a minimum of their own"), tag("ul", *left)) if left else None,
    )


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
        f"gradient {power_of_ten(found['gradient'], 2)} and Newton decrement {power_of_ten(found['decrement'], 2)} of the "
        f"objective; condition number {number(found['condition'], 2)}{bound}"
    )


def _excluded(report: dict[str, Any]) -> Html:
    rules = [f"{rule['n']} left out: {rule['rule']}" for rule in report["excluded"]] or ["none left out"]
    return join(f"{report['n_runs']} fitted; ", "; ".join(rules))


def _ranges(report: dict[str, Any]) -> str:
    writers = {"n": ("N", count), "d": ("D", count), "c": ("C", power_of_ten)}
    shown = [(*writers[role], ends) for role, ends in report["ranges"].items() if role in writers]
    return "; ".join(f"{symbol} {write(ends[0])} to {write(ends[1])}" for symbol, write, ends in shown)


def _conventions(report: dict[str, Any]) -> str:
    symbols = {"n": "N", "d": "D", "c": "C", "loss": "loss"}
    return "; ".join(
        f"{symbols[role]} is column {column}" + (f" ({CONVENTIONS[column]})" if column in CONVENTIONS else "")
        for role, column in report["columns"].items()
        if role in symbols
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
    return f"{intervals['level']:.0%}, {intervals['method']}, {intervals['resamples']:,} resamples{lost}, seed {report['seed']}"


def _holdout(holdout: dict[str, Any] | None) -> str | None:
    if not holdout:
        return None
    above = f" above {power_of_ten(holdout['above'], 2)} FLOPs" if holdout.get("above") else ""
    return (
        f"{holdout['n']} runs{above}: mean absolute relative error {percent(holdout['mean_are'])}, worst "
        f"{percent(holdout['max_are'])}, {percent(holdout['coverage'])} of them inside their intervals"
    )


def _reach(report: dict[str, Any]) -> str | None:
    target, ends = report.get("target"), report["ranges"].get("c")
    if not target or not ends:
        return None
    derived = report["derived"]
    at = {"C": (target["c"], "c"), "N": (derived.get("n_opt"), "n"), "D": (derived.get("d_opt"), "d")}
    factors = [
        f"{symbol} by a factor {number(max(value / report['ranges'][role][1], report['ranges'][role][0] / value), 3)}"
        for symbol, (value, role) in at.items()
        if not missing(value) and not report["ranges"][role][0] <= value <= 1.005 * report["ranges"][role][1]
    ]
    where = f"the target of {power_of_ten(target['c'])} FLOPs lies "
    return where + ("beyond the fitted runs in " + ", ".join(factors) if factors else "within the fitted runs")


def provenance(study: Study, place: Place) -> Html:
    """What produced the study, and how to check it."""
    del place
    frame, report = study.runs, study.fit.report if study.fit else {}
    kept = (report, study.prediction or {}, study.score or {})
    commands = [str(found["command"]) for found in kept if found.get("command")] + [f"isoflop report {study.folder}"]
    devices = [f"{number} × {kind}" for kind, number in _pairs(frame, "device_kind", "num_devices")]
    systems = [f"Python {e.get('python')}, {e.get('platform')}" for e in study.environments]
    inputs = [join(tag("code", i["path"]), " sha256 ", tag("code", i["sha256"][:16])) for i in report.get("inputs", [])]
    return join(
        tag("pre", tag("code", "\n".join(commands))),
        definitions(
            [
                ("training FLOPs", power_of_ten(_sum(frame, "flops_exact")) if len(frame) else None),
                ("tokens trained on", count(_sum(frame, "tokens")) if len(frame) else None),
                ("time of the runs", _time(frame)),
                ("device", ", ".join(devices)),
                ("system", ", ".join(dict.fromkeys(systems))),
                ("versions", ", ".join(versions(frame))),
                ("revision", _codes(distinct(frame, "git_revision"))),
                ("corpus", ", ".join(distinct(frame, "corpus"))),
                ("data hash", _codes(distinct(frame, "data_hash"))),
                (
                    "tokenizer",
                    join(", ".join(distinct(frame, "tokenizer")), " ", _codes(distinct(frame, "tokenizer_hash"))),
                ),
                ("evaluation set", ", ".join(distinct(frame, "eval_set"))),
                ("table fitted", join(*inputs) if inputs else None),
            ]
        ),
    )


def _pairs(frame: pd.DataFrame, *columns: str) -> list[tuple]:
    if not set(columns) <= set(frame):
        return []
    return [tuple(row) for row in frame[list(columns)].dropna().drop_duplicates().astype({columns[1]: int}).to_numpy()]


def _sum(frame: pd.DataFrame, column: str) -> float | None:
    return float(pd.to_numeric(frame[column], errors="coerce").sum()) if column in frame else None


def _codes(values: list[str]) -> Html:
    return join(*(join(tag("code", value), " ") for value in values))


def _time(frame: pd.DataFrame) -> str | None:
    total, compiling = _sum(frame, "wall_seconds"), _sum(frame, "compile_seconds")
    if not total:
        return None
    return f"{duration(total)} summed over the runs" + (
        f", {duration(compiling)} of them compiling" if compiling else ""
    )


SECTIONS: tuple[tuple[str, str, Callable[[Study, Place], Html | None]], ...] = (
    ("prediction", "Blind prediction", prediction),
    ("isoflop", "Loss against size", _drawn("isoflop", figures.isoflop, _isoflop_caption)),
    (
        "compute",
        "Loss against compute",
        _drawn(
            "compute",
            figures.compute,
            lambda study: (
                "The orange frontier is what the law promises to the best use of each compute. Open dots: runs that the fit never saw."
            ),
        ),
    ),
    (
        "allocation",
        "Best use of compute",
        _drawn(
            "allocation",
            figures.allocation,
            lambda study: "The best number of parameters and of tokens at each compute, by all three approaches.",
        ),
    ),
    ("residuals", "Residuals", _drawn("residuals", figures.residuals, _residual_caption)),
    (
        "curves",
        "Learning curves",
        _drawn("curves", figures.curves, lambda study: "Training loss of every run that completed, averaged in bins."),
    ),
    ("approaches", "Three approaches", approaches),
    ("law", "The law", law),
    ("runs", "Runs", runs),
    ("provenance", "Provenance", provenance),
)
