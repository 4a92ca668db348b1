"""The sections of the report in reading order; one without anything to say returns None."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from isoflop.report import budget as budgets, figures, forecast, interval_figures, law, provenance
from isoflop.report.embedding import embed_figure
from isoflop.report.formats import exponent, percent, power_of_ten, span
from isoflop.report.runs import runs
from isoflop.report.study import Study
from laws.plotting import plot_data
from laws.plotting.style import LAW, SECOND as MINIMA, THIRD as ENVELOPE
from laws.results.report_parts import ApproachReport, RejectedBudget

APPROACHES = (
    ("envelope", "1: envelope of the learning curves", ENVELOPE),
    ("isoflop_cubic", "2: minimum per budget, cubics", MINIMA),
    ("isoflop_akima", "2: minimum per budget, interpolated", MINIMA),
    ("isoflop_parabola", "2: minimum per budget, parabolas", MINIMA),
)


SMOOTHED = "smoothed, and shifted to end at the evaluated loss of its run"
NAMED_BUDGETS = 4  # budgets with one flaw that are named, rather than counted


def _isoflop_caption(study: Study) -> str:
    curves = plot_data.budget_curves(study.points, None)
    drawn = plot_data.drawn_budgets(curves, study.points)
    if not drawn:
        return "Every dot is a run, darker for less compute; too few share a budget for curves of equal compute."
    text = f"Every dot is a run; each colour is one of {len(curves)} budgets of equal compute."
    if study.fit is None or not study.fit.law.has_compute_optimum:
        return text
    which = "each budget" if len(drawn) == len(curves) else f"{len(drawn)} of them"
    text += f" Curves are the fitted law along {which}"
    minima = len(plot_data.budget_minima(study.fit))
    text += "; ticks with whiskers are the minima of the runs themselves." if minima else "."
    held_out = sum(not curve.fitted for curve in drawn)
    which = "the budget" if held_out == 1 else f"{held_out} budgets"
    return text + (f" Open dots and dashes: {which} that the fit never saw." if held_out else "")


def _compute_caption(study: Study) -> str:
    fit, text = study.fit, "Every dot is a run, darker for less compute."
    if fit is not None and fit.law.has_compute_optimum:
        text += " The blue frontier is what the law predicts for the best use of each compute."
    elif fit is not None and fit.law.columns == ("c",):
        text += " The blue line is the law."
    if fit is not None and not study.points["fitted"].all():
        text += " Open dots: runs that the fit never saw."
    return text + (f" A learning curve is a training loss, {SMOOTHED}." if len(study.curves) else "")


def _residual_caption(study: Study) -> str:
    fitted = study.points[study.points["fitted"]]
    rms = float(np.sqrt(np.mean(fitted["residual"] ** 2)))
    text = f"The fitted runs scatter by {percent(rms)} around the law (root mean square)"
    seeds = study.fit.report.noise.seeds if study.fit else None
    text += f"; runs that differ in their seed alone by {percent(seeds)}." if seeds else "."
    return text + " A trend in any panel is something that the law's form misses."


def approaches(study: Study) -> dict[str, Any] | None:
    """What `approaches.html` shows: the exponents by all three approaches."""
    if study.fit is None or not study.fit.report.approaches:
        return None
    report = study.fit.report
    rows, intervals = [], []
    for key, name, colour in APPROACHES:
        approach = report.approaches.get(key, ApproachReport(reason="not computed"))
        if approach.a is None or approach.b is None:
            rows.append([name, "–", "", "–", "", approach.reason or ""])
            continue
        note = f"{len(approach.minima)} of {len(approach.minima) + len(approach.rejected)} budgets"
        if approach.points:
            note = f"{len(approach.points['c'])} points, {approach.n_curves} curves"
        ends = [span(interval, exponent) for interval in (approach.a_interval, approach.b_interval)]
        rows.append([name, exponent(approach.a), ends[0], exponent(approach.b), ends[1], note])
        intervals.append((name, approach.a, approach.a_interval, colour))
    derived, ends = report.derived, report.intervals.derived
    ours = "3: the law, along this sweep's FLOPs" if "a_6nd" in derived else "3: the law"
    for name, a, b in ((ours, "a", "b"), ("3: the law, were C = 6 N D", "a_6nd", "b_6nd")):
        if a in derived:
            cells = [text for key in (a, b) for text in (exponent(derived[key]), span(ends.get(key), exponent))]
            rows.append([name, *cells, f"{report.n_runs} runs"])
            intervals.append((name, derived[a], ends.get(a), LAW))
    figure = interval_figures.exponents(intervals)
    return {
        "figure": embed_figure("exponents", figure, CAPTIONS["exponents"]) if figure else None,
        "level": f"{report.intervals.level:.0%} interval",
        "rows": rows,
        "rejected": _rejected(report.approaches.get("isoflop_cubic", ApproachReport()).rejected),
    }


def _rejected(budgets: tuple[RejectedBudget, ...]) -> list[tuple[str, str]]:
    """Budgets without a minimum, those with the same flaw together: their compute, and the flaw."""
    computes: dict[str, list[float]] = {}
    for budget in budgets:
        computes.setdefault(budget.flaw, []).append(budget.c)
    return [(_computes(sorted(values)), flaw) for flaw, values in computes.items()]


def _computes(values: list[float]) -> str:
    """Few computes by name, many by their number and range."""
    if len(values) <= NAMED_BUDGETS:
        return ", ".join(power_of_ten(value, 2) for value in values) + " FLOPs"
    return f"{len(values)} budgets from {power_of_ten(values[0], 2)} to {power_of_ten(values[-1], 2)} FLOPs"


CAPTIONS = {
    "exponents": "One exponent, found in three ways from the same runs. Dashed: 0.5, where model and data grow alike. "
    "Approach 2 is biased by the width and the centring of each budget's sizes even without noise, its parabolas most: "
    "where the three agree, that counts for more than any one of them.",
    "allocation": "The best number of parameters and of tokens at each compute, by all three approaches.",
    "surface": "Lines of equal loss by the law, over all sizes and data. Dots are runs, darker for less compute; "
    "the blue line is the best split of every compute, up to the target.",
    "curves": f"Every run that completed: its training loss, {SMOOTHED}.",
}


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        name: of its element.
        title: its heading.
        content: what its template shows of a study; None where it has nothing to show.
        template: file name.
    """

    name: str
    title: str
    content: Callable[[Study], dict[str, Any] | None]
    template: str = "figure.html"


def _figure(
    name: str, draw: Callable[[Study], go.Figure | None], caption: Callable[[Study], str] | None = None
) -> Callable[[Study], dict[str, Any] | None]:
    """The content of a section that is one figure.

    Args:
        name: of the figure.
        draw: the figure.
        caption: of the figure; by default that of ``CAPTIONS``.
    """

    def content(study: Study) -> dict[str, Any] | None:
        figure = draw(study)
        text = caption(study) if figure is not None and caption else CAPTIONS.get(name, "")
        return None if figure is None else {"figure": embed_figure(name, figure, text)}

    return content


SECTIONS = (
    Section("prediction", "Frozen prediction", forecast.prediction, "prediction.html"),
    Section("isoflop", "Loss against size", _figure("isoflop", figures.isoflop, _isoflop_caption)),
    Section("compute", "Loss against compute", _figure("compute", figures.compute, _compute_caption)),
    Section("allocation", "Best use of compute", _figure("allocation", figures.allocation)),
    Section("budget", "Choose a budget", budgets.budget, "budget.html"),
    Section("surface", "The surface", _figure("surface", figures.surface)),
    Section("residuals", "Residuals", _figure("residuals", figures.residuals, _residual_caption)),
    Section("curves", "Learning curves", _figure("curves", figures.curves)),
    Section("approaches", "Three approaches", approaches, "approaches.html"),
    Section("law", "The law", law.law, "law.html"),
    Section("runs", "Runs", runs, "runs.html"),
    Section("provenance", "Provenance", provenance.provenance, "provenance.html"),
)
