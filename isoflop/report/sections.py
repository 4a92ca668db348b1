"""The sections of the report in reading order; one without anything to say returns None."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from isoflop.report import figures, forecast, interval_figures, law, provenance
from isoflop.report.embedding import embed_figure
from isoflop.report.formats import exponent, percent, span
from isoflop.report.runs import runs
from isoflop.report.study import Study
from laws.plotting import plot_data
from laws.plotting.style import LAW, SECOND as MINIMA, THIRD as ENVELOPE
from laws.results.report_parts import ApproachReport

APPROACHES = (
    ("envelope", "1: envelope of the learning curves", ENVELOPE),
    ("isoflop_akima", "2: minimum per budget, interpolated", MINIMA),
    ("isoflop_parabola", "2: minimum per budget, parabolas", MINIMA),
)


def _isoflop_caption(study: Study) -> str:
    groups = study.points.groupby("budget")
    known, crowded = groups["fitted"].any(), groups["n"].nunique() >= plot_data.FEWEST_SIZES
    if not crowded.any():
        return "Every dot is a run, darker for less compute; too few share a budget for curves of equal compute."
    text = f"Every dot is a run; each colour is one of {crowded.sum()} budgets of equal compute."
    if study.fit is None:
        return text
    text += " Curves are the fitted law along each budget"
    text += (
        "; ticks with whiskers are the minima of the runs themselves."
        if len(plot_data.budget_minima(study.fit))
        else "."
    )
    held = int((crowded & ~known).sum())
    which = "the budget" if held == 1 else f"{held} budgets"
    return text + (f" Open dots and dashes: {which} that the fit never saw." if held else "")


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
        "rejected": report.approaches.get("isoflop_akima", ApproachReport()).rejected,
    }


SMOOTHED = "smoothed, and shifted to end at the evaluated loss of its run"
CAPTIONS = {
    "exponents": "One exponent, found in three ways from the same runs. Dashed: 0.5, where model and data grow alike. "
    "Approach 2 is biased by the width and the centring of each budget's sizes even without noise: where the three "
    "agree, that counts for more than any one of them.",
    "compute": "The blue frontier is what the law predicts for the best use of each compute. Open dots: runs that the "
    f"fit never saw. A learning curve is a training loss, {SMOOTHED}.",
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
    Section("compute", "Loss against compute", _figure("compute", figures.compute)),
    Section("allocation", "Best use of compute", _figure("allocation", figures.allocation)),
    Section("surface", "The surface", _figure("surface", figures.surface)),
    Section("residuals", "Residuals", _figure("residuals", figures.residuals, _residual_caption)),
    Section("curves", "Learning curves", _figure("curves", figures.curves)),
    Section("approaches", "Three approaches", approaches, "approaches.html"),
    Section("law", "The law", law.law, "law.html"),
    Section("runs", "Runs", runs, "runs.html"),
    Section("provenance", "Provenance", provenance.provenance, "provenance.html"),
)
