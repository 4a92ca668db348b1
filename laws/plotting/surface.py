"""The fitted surface: what the law says of every size and data, and where on it the runs and the best splits lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.plotting.panels import Panels, require_optimum
from laws.plotting.shared import drawn_budgets, reach, residual_of, rows_of
from laws.plotting.style import INK, LAW, NAIVE, SECOND, SYMBOLS, THIRD, legend, log_x, log_y, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 96  # points of the surface in each direction
SHARES = np.linspace(0.03, 0.97, 10)  # of the plane that lies below each contour
LINES = 5  # of equal compute, where the runs lie on no budgets
AROUND = 1.5  # factor by which the surface reaches beyond the runs and the frontier
CONTOUR = "#7A7A7A"
SMALL, LARGE = 9.0, 46.0  # areas of a run on the law, and of one two standard deviations off it


@dataclass(frozen=True)
class Surface:
    """A law over the plane of sizes and data.

    Args:
        n, d: parameters and tokens.
        loss: predicted there, data down and sizes across.
        levels: losses whose contours divide the plane evenly, with no more digits than their labels show.
        frontier: ``c``, and the best ``n``, ``d`` and ``loss`` there, from the smallest compute to the target.
        budgets: computes of the runs, or spread over theirs.
    """

    n: Float[np.ndarray, " sizes"]
    d: Float[np.ndarray, " data"]
    loss: Float[np.ndarray, "data sizes"]
    levels: Float[np.ndarray, " levels"]
    frontier: dict[str, Float[np.ndarray, " points"]]
    budgets: Float[np.ndarray, " lines"]


def tokens_for(fitted: FitResult, compute, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
    """What data some compute buys at each size."""
    return compute / np.exp(fitted.predictor.cost.log_flops_per_token(np.log(n)))


def surface_of(fitted: FitResult) -> Surface:
    """The surface around the runs and the frontier.

    Raises:
        MissingFigureData: the law does not trade n against d.
    """
    require_optimum(fitted)
    rows, compute = rows_of(fitted), reach(fitted)
    best = fitted.predictor.allocation(compute)
    known = np.isfinite(best.n[0])
    frontier = {"c": compute[known]} | {name: getattr(best, name)[0, known] for name in ("n", "d", "loss")}
    ends = {variable: np.r_[rows[variable], frontier[variable]] for variable in ("n", "d")}
    n, d = (np.geomspace(ends[variable].min() / AROUND, ends[variable].max() * AROUND, GRID) for variable in ("n", "d"))
    size, data = (grid.ravel() for grid in np.meshgrid(n, d))
    columns = {"n": size, "d": data, "c": data / tokens_for(fitted, 1.0, size)}
    loss = np.exp(log_predictions(fitted.law, fitted.predictor.constants[None], columns)[0]).reshape(GRID, GRID)
    levels = np.unique([float(f"{level:.3g}") for level in np.quantile(loss, SHARES)])
    group, full = drawn_budgets(rows)
    low, high = fitted.report.ranges["c"]
    lines = [np.median(rows["c"][group == g]) for g in full] or np.geomspace(low, high, LINES)
    return Surface(n, d, loss, levels, frontier, np.array(lines))


def _runs(axes: Axes, fitted: FitResult) -> None:
    """The runs: the side of the law on which each lies by shape and colour, how far by size."""
    rows, off = rows_of(fitted), residual_of(fitted)
    area = SMALL + (LARGE - SMALL) * np.minimum(np.abs(off) / (2 * fitted.predictor.noise.deviation), 1.0)
    for side, marker, colour, said in ((1, "^", SECOND, "above"), (-1, "v", THIRD, "below")):
        here = side * off > 0
        axes.scatter(
            rows["n"][here], rows["d"][here], area[here], color=colour, marker=marker, alpha=0.9, zorder=3,
            edgecolor="white", linewidth=0.4, label=f"run {said} law",
        )  # fmt: skip


def _target(axes: Axes, fitted: FitResult) -> None:
    """The best split of the target, and its interval along the line of equal compute."""
    compute, predictor = fitted.report.target_flops, fitted.predictor
    assert compute is not None  # the law has an optimum
    n = predictor.allocation(compute).n[0]
    if not np.isfinite(n).all():
        return
    if len(predictor.draws):
        low, high = interval(predictor.allocation(compute, draws=True).n[:, 0], predictor.level)
        along = np.geomspace(low, high, 30)
        axes.plot(along, tokens_for(fitted, compute, along), color=INK, linewidth=1.6, zorder=5)
    axes.plot(
        n, tokens_for(fitted, compute, n), "*", color="white", markersize=12, markeredgecolor=INK, zorder=6,
        label=f"at {power(compute)} FLOPs", markeredgewidth=1.0,
    )  # fmt: skip


def _frontier(axes: Axes, fitted: FitResult, found: Surface) -> None:
    """The best splits, dashed where there is more compute than any fitted run had."""
    line, end = found.frontier, fitted.report.ranges["c"][1] * 1.001
    for part, style, said in ((line["c"] <= end, "-", "best split"), (line["c"] >= end / 1.2, "--", None)):
        axes.plot(line["n"][part], line["d"][part], style, color=LAW, linewidth=2.0, label=said, zorder=4)


def surface(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Lines of equal loss and of equal compute over sizes and data, the runs, and the efficient frontier."""
    from matplotlib.patheffects import withStroke

    found = surface_of(fitted)
    (axes,) = panels(1, 4.1)
    axes.grid(False)
    contours = axes.contour(found.n, found.d, found.loss, found.levels, colors=CONTOUR, linewidths=0.8, zorder=1)
    axes.plot([], [], color=CONTOUR, linewidth=0.8, label="equal loss")
    for k, compute in enumerate(found.budgets):
        axes.plot(
            found.n, tokens_for(fitted, compute, found.n), color=NAIVE, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1,
            label=None if k else "equal compute",
        )  # fmt: skip
    _runs(axes, fitted)
    _frontier(axes, fitted, found)
    _target(axes, fitted)
    log_x(axes, found.n, 1.0)
    log_y(axes, found.d, 1.0)
    for text in axes.clabel(contours, fmt=lambda level: f"{level:g}", fontsize=7.5, inline_spacing=2):
        text.set(path_effects=[withStroke(linewidth=2, foreground="white")], color=INK, zorder=7)
    axes.set(xlabel=SYMBOLS["n"], ylabel=SYMBOLS["d"])
    legend(axes, 3)
    return [axes]
