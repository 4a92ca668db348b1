"""The top of the page: the law, its exponent and its frozen prediction in plain words."""

import re
from typing import Any

from isoflop.report.forecast import closer
from isoflop.report.formats import missing, number, power_of_ten, span
from isoflop.report.law import DERIVED
from isoflop.report.study import Study
from laws.results.report import FitReport
from laws.results.report_parts import Interval

CARDS = {
    "a": "exponent of N*(C)",
    "n_opt": "best parameters",
    "d_opt": "best data",
    "tokens_per_param": "data per parameter",
    "loss_opt": "loss of the law",
}


def headline(study: Study) -> dict[str, Any]:
    """What `headline.html` shows."""
    report = study.fit.report if study.fit else None
    facts = [f"{len(study.runs)} runs"] if len(study.runs) else []
    if report is not None:
        facts += [f"law fitted to {report.n_runs} of them" if facts else f"law fitted to {report.n_runs} runs"]
        ends = report.ranges.get("c")
        facts += [f"{power_of_ten(ends[0], 2)} to {power_of_ten(ends[1], 2)} training FLOPs"] if ends else []
    return {
        "name": study.name,
        "facts": facts,
        "report": report,
        "n_warnings": len(report.warnings) if report else 0,
        "level": f"{report.intervals.level:.0%}" if report else None,
        "growth": _growth(report) if report else None,
        "score": study.score,
        "closer": closer(study.score) if study.score else [],
        "formula_with_values": _formula_with_values(report) if report else "",
        "cards": _cards(report) if report else [],
    }


def _formula_with_values(report: FitReport) -> str:
    """The law's formula with its constants put in."""
    text = report.formula
    for name, value in sorted(report.params.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", lambda _, v=value: number(v, 4).replace(",", ""), text)
    return text


def _growth(report: FitReport) -> dict[str, Any] | None:
    """How model and data grow with compute: the exponent, and the factors for ten times the compute."""
    derived, ends = report.derived, report.intervals.derived
    if missing(derived.get("a")):
        return None
    return {
        "a": derived["a"],
        "interval": ends.get("a"),
        "size": 10 ** derived["a"],
        "size_interval": _tenfold(ends.get("a")),
        "data": 10 ** derived["b"],
        "data_interval": _tenfold(ends.get("b")),
    }


def _tenfold(interval: Interval | None) -> str:
    """Factors by which ten times the compute multiplies a quantity with an exponent in this interval."""
    low, high = interval or (None, None)
    return "" if low is None or high is None else f"{number(10**low, 2)} to {number(10**high, 2)}"


def _cards(report: FitReport) -> list[dict[str, str]]:
    if not report.derived or not report.target_flops:
        return []
    target, cards = f" at {power_of_ten(report.target_flops, 2)} FLOPs", []
    for key, meaning in CARDS.items():
        write = DERIVED[key][1]
        cards.append(
            {
                "value": write(report.derived[key]),
                "interval": span(report.intervals.derived.get(key), write),
                "meaning": meaning + ("" if key == "a" else target),
            }
        )
    return cards
