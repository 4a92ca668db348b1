"""The sections of the report in reading order; one without anything to say returns None."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from isoflop.report import figures, forecast, law, provenance
from isoflop.report.markup import (
    Html,
    exponent,
    join,
    missing,
    percent,
    power_of_ten,
    span,
    table,
    tag,
)
from isoflop.report.runs import runs
from isoflop.report.study import Place, Study
from isoflop.report.surface import surface

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
    ("prediction", "Blind prediction", forecast.prediction),
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
