"""The top of the page: the law, its exponent and its frozen prediction in plain words."""

import re
from typing import Any

from isoflop.report.forecast import closer
from isoflop.report.law import DERIVED
from isoflop.report.markup import (
    Html,
    exponent,
    formula,
    join,
    missing,
    number,
    percent,
    power_of_ten,
    span,
    tag,
)
from isoflop.report.study import Study
from laws.results.report import FitReport, Interval


def headline(study: Study) -> Html:
    """The law and its exponent in plain words."""
    kicker = [f"{len(study.runs)} runs"] if len(study.runs) else []
    if study.fit is None:
        said = tag("p", "These runs have no fit yet: isoflop fit makes one.", class_="lead")
        return join(tag("h1", study.name), tag("p", *kicker, class_="kicker"), said)
    report = study.fit.report
    kicker += [f"law fitted to {report.n_runs} of them" if kicker else f"law fitted to {report.n_runs} runs"]
    ends = report.ranges.get("c")
    kicker += [f"{power_of_ten(ends[0], 2)} to {power_of_ten(ends[1], 2)} training FLOPs"] if ends else []
    warned = len(report.warnings)
    cautions = tag("a", f"{warned} caution{'s' if warned > 1 else ''}", href="#law") if warned else None
    return join(
        tag("h1", study.name),
        tag("p", " · ".join(kicker), " · " if warned else None, cautions, class_="kicker"),
        _in_words(report),
        tag("p", _scored_in_words(study.score), class_="lead") if study.score else None,
        tag("p", formula(_with_values(report)), class_="formula"),
        _cards(report),
    )


def _with_values(report: FitReport) -> str:
    """The law's formula with its constants put in."""
    text = report.formula
    for name, value in sorted(report.params.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", lambda _, v=value: number(v, 4).replace(",", ""), text)
    return text


def _in_words(report: FitReport) -> Html | None:
    derived, ends = report.derived, report.intervals.derived
    if missing(derived.get("a")):
        return tag("p", f"Loss follows {report.formula}.", class_="lead") if not derived else None
    n, d = 10 ** derived["a"], 10 ** derived["b"]
    size, data = (
        span(_tenfold(ends.get(key)), lambda v: number(v, 2)).strip("[]").replace(", ", " to ") for key in ("a", "b")
    )
    level = f"{report.intervals.level:.0%} interval "
    return tag(
        "p",
        "The compute-optimal model grows as compute to the power ",
        tag("b", f"a = {exponent(derived['a'])}"),
        f" {span(ends.get('a'), exponent)}. Ten times the compute is best spent on a model ",
        f"{number(n, 2)} times as large",
        f" ({level}{size})" if size else "",
        f" that reads {number(d, 2)} times as much data",
        f" ({data})." if data else ".",
        class_="lead",
    )


def _tenfold(interval: Interval | None) -> tuple[float, float] | None:
    """Factors by which ten times the compute multiplies a quantity with an exponent in this interval."""
    low, high = interval or (None, None)
    return None if low is None or high is None else (10**low, 10**high)


def _scored_in_words(score: dict[str, Any]) -> Html:
    """The frozen prediction beside what was measured."""
    target = score["target"]
    at = f" at {power_of_ten(target['c'], 2)} FLOPs" if "c" in target else ""
    when = (
        "frozen before any run there had ended"
        if score["preregistered"]
        else "made before it was compared with runs there"
    )
    return join(
        f"A prediction of the loss{at}, {when}, was ",
        tag("b", f"{number(score['predicted']['loss'], 4)}"),
        f" {span(score['predicted']['interval'], lambda v: number(v, 4))}; ",
        tag("b", number(score["measured"]["loss"], 4)),
        f" was measured, {percent(score['abs_rel_error'])} away and ",
        "inside" if score["covered"] else "outside",
        " the interval.",
        *(f" A naive forecast came closer: {name}, {percent(are)}." for name, are in closer(score)),
    )


def _cards(report: FitReport) -> Html | None:
    derived, ends, target = report.derived, report.intervals.derived, report.target_flops
    if not derived or not target:
        return None
    at = f"at {power_of_ten(target, 2)} FLOPs"
    chosen = (
        ("a", "exponent of N*(C)"),
        ("n_opt", f"best parameters {at}"),
        ("d_opt", f"best data {at}"),
        ("tokens_per_param", f"data a parameter {at}"),
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
