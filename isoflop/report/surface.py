"""The fitted surface, to be explored: the law over sizes and data, the runs, and the best split of every compute."""

import plotly.graph_objects as go

from isoflop.report.marks import axis, colour_of, line, marks
from isoflop.report.markup import count, number, power_of_ten
from isoflop.report.study import Study
from laws.plotting.style import LAW, NAIVE
from laws.plotting.surface import surface_of

EVERY = 3  # of the surface's grid, so that the page stays light
CONTOURS = 14  # lines of equal loss, about


def surface(study: Study) -> go.Figure | None:
    """Lines of equal loss over sizes and data, the runs, and the efficient frontier."""
    points, fit = study.points, study.fit
    if fit is None or "budget" not in points or not fit.law.has_compute_optimum:
        return None
    found = surface_of(fit)
    shown, colours = go.Figure(), colour_of(points)
    n, d, best = found.n[::EVERY], found.d[::EVERY], found.frontier
    shown.update_layout(height=540, xaxis=axis("n", n), yaxis=axis("d", d))
    shown.add_trace(
        go.Contour(
            x=n, y=d, z=found.loss[::EVERY, ::EVERY].round(4), ncontours=CONTOURS, showscale=False, name="equal loss",
            colorscale=[[0, NAIVE], [1, NAIVE]], line={"width": 1}, hoverinfo="skip", showlegend=True,
            contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 11, "color": NAIVE}},
        )
    )  # fmt: skip
    for budget, rows in points.groupby("budget"):
        shown.add_trace(marks(rows, "n", "d", colours[budget], showlegend=False))
    told = [
        f"C = {power_of_ten(c)}<br>N* = {count(n)}, D* = {count(d)}<br>loss {number(loss, 4)}"
        for c, n, d, loss in zip(*(best[name] for name in ("c", "n", "d", "loss")), strict=True)
    ]
    frontier = {"name": "efficient frontier", "colour": LAW, "width": 2.4, "hoverinfo": "text", "hovertext": told}
    shown.add_trace(line(best["n"], best["d"], **frontier))
    return shown
