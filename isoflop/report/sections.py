"""The sections of the report in reading order; one without anything to say returns None."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from isoflop.report import figures, forecast, law, provenance
from isoflop.report.markup import (
    Html,
    exponent,
    join,
    percent,
    power_of_ten,
    span,
    table,
    tag,
)
from isoflop.report.runs import runs
from isoflop.report.study import Place, Study
from isoflop.report.surface import surface
from laws.results.report import ApproachReport

APPROACHES = (
    ("envelope", "1: envelope of the learning curves", figures.ENVELOPE),
    ("isoflop_akima", "2: minimum per budget, interpolated", figures.MINIMA),
    ("isoflop_parabola", "2: minimum per budget, parabolas", figures.MINIMA),
)


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
    seeds = study.fit.report.noise.seeds if study.fit else None
    text += f"; runs that differ in their seed alone by {percent(seeds)}." if seeds else "."
    return text + " A trend in any panel is something that the law's form misses. Grey: one standard deviation."


def approaches(study: Study, place: Place) -> Html | None:
    """The exponent by all three approaches."""
    if study.fit is None or not study.fit.report.approaches:
        return None
    report = study.fit.report
    rows, dots = [], []
    for key, name, colour in APPROACHES:
        found = report.approaches.get(key, ApproachReport(reason="not computed"))
        if found.a is None or found.b is None:
            rows.append([name, "–", "", "–", "", found.reason or ""])
            continue
        note = f"{len(found.minima)} of {len(found.minima) + len(found.rejected)} budgets"
        if found.points:
            note = f"{len(found.points['c'])} points, {found.n_curves} curves"
        ends = [span(interval, exponent) for interval in (found.a_interval, found.b_interval)]
        rows.append([name, exponent(found.a), ends[0], exponent(found.b), ends[1], note])
        dots.append((name, found.a, found.a_interval, colour))
    derived, ends = report.derived, report.intervals.derived
    ours = "3: the law, along this sweep's FLOPs" if "a_6nd" in derived else "3: the law"
    for name, a, b in ((ours, "a", "b"), ("3: the law, were C = 6 N D", "a_6nd", "b_6nd")):
        if a in derived:
            written = [text for key in (a, b) for text in (exponent(derived[key]), span(ends.get(key), exponent))]
            rows.append([name, *written, f"{report.n_runs} runs"])
            dots.append((name, derived[a], ends.get(a), figures.LAW))
    level = f"{report.intervals.level:.0%}"
    caption = (
        "One exponent, found in three ways from the same runs. Dashed: 0.5, where model and data grow alike. "
        "Approach 2 is biased by the width and the centring of each budget's sizes even without noise: where the three "
        "agree, that counts for more than any one of them."
    )
    figure = figures.exponents(dots)
    rejected = report.approaches.get("isoflop_akima", ApproachReport()).rejected
    left = [tag("li", f"{power_of_ten(budget.c, 2)} FLOPs: {budget.flaw}") for budget in rejected]
    return join(
        place("exponents", figure, caption) if figure else None,
        table(["approach", "a", level, "b", level, "from"], rows, words=(5,)),
        join(tag("h3", "Budgets without a minimum of their own"), tag("ul", *left)) if left else None,
    )


SMOOTHED = "smoothed, and shifted to end at the evaluated loss of its run"
CAPTIONS = {
    "compute": "The blue frontier is what the law promises to the best use of each compute. Open dots: runs that the "
    f"fit never saw. A learning curve is a training loss, {SMOOTHED}.",
    "allocation": "The best number of parameters and of tokens at each compute, by all three approaches.",
    "surface": "What the law says of every size and data: lines of equal loss. Dots are runs, darker for less compute; "
    "the blue line is the best split of every compute, up to the target.",
    "curves": f"Every run that completed: its training loss, {SMOOTHED}.",
}
SECTIONS: tuple[tuple[str, str, Callable[[Study, Place], Html | None]], ...] = (
    ("prediction", "Frozen prediction", forecast.prediction),
    ("isoflop", "Loss against size", _drawn("isoflop", figures.isoflop, _isoflop_caption)),
    ("compute", "Loss against compute", _drawn("compute", figures.compute, lambda _: CAPTIONS["compute"])),
    ("allocation", "Best use of compute", _drawn("allocation", figures.allocation, lambda _: CAPTIONS["allocation"])),
    ("surface", "The surface", _drawn("surface", surface, lambda _: CAPTIONS["surface"])),
    ("residuals", "Residuals", _drawn("residuals", figures.residuals, _residual_caption)),
    ("curves", "Learning curves", _drawn("curves", figures.curves, lambda _: CAPTIONS["curves"])),
    ("approaches", "Three approaches", approaches),
    ("law", "The law", law.law),
    ("runs", "Runs", runs),
    ("provenance", "Provenance", provenance.provenance),
)
