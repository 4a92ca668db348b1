"""The fitted surface: what the law predicts for every size and data, and where on it the runs and the best splits lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.inference.noise import interval
from laws.plotting import plot_data
from laws.plotting.panels import Panels
from laws.plotting.style import INK, LAW, NAIVE, SECOND, SYMBOLS, THIRD, legend, log_x, log_y, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTOUR = "#7A7A7A"
SMALL, LARGE = 9.0, 46.0  # areas of a run on the law, and of one two standard deviations off it


def surface(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Lines of equal loss and of equal compute over sizes and data, the runs, and the best split of every compute.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    from matplotlib.patheffects import withStroke

    plane = plot_data.surface(fitted)
    (axes,) = panels(1, 4.1)
    axes.grid(False)
    contours = axes.contour(plane.n, plane.d, plane.loss, plane.levels, colors=CONTOUR, linewidths=0.8, zorder=1)
    axes.plot([], [], color=CONTOUR, linewidth=0.8, label="equal loss")
    for number, compute in enumerate(plane.budgets):
        axes.plot(
            plane.n, plot_data.tokens_bought(fitted, compute, plane.n), color=NAIVE, linewidth=0.8, zorder=1,
            linestyle=(0, (1, 2)), label=None if number else "equal compute",
        )  # fmt: skip
    _draw_runs(axes, fitted)
    best, end = plane.best, fitted.report.ranges["c"][1] * 1.001
    for part, line, label in ((best["c"] <= end, "-", "best split"), (best["c"] >= end / 1.2, "--", None)):
        axes.plot(best["n"][part], best["d"][part], line, color=LAW, linewidth=2.0, label=label, zorder=4)
    _draw_target(axes, fitted)
    log_x(axes, plane.n, 1.0)
    log_y(axes, plane.d, 1.0)
    for text in axes.clabel(contours, fmt=lambda level: f"{level:g}", fontsize=7.5, inline_spacing=2):
        text.set(path_effects=[withStroke(linewidth=2, foreground="white")], color=INK, zorder=7)
    axes.set(xlabel=SYMBOLS["n"], ylabel=SYMBOLS["d"])
    legend(axes, 3)
    return [axes]


def _draw_runs(axes: Axes, fitted: FitResult) -> None:
    """The runs: the side of the law on which each lies by shape and colour, how far by size."""
    runs = plot_data.fitted_runs(fitted)
    n, d, residual = (runs[name].to_numpy() for name in ("n", "d", "residual"))
    area = SMALL + (LARGE - SMALL) * np.minimum(np.abs(residual) / (2 * fitted.report.noise.deviation), 1.0)
    for sign, marker, colour, side in ((1, "^", SECOND, "above"), (-1, "v", THIRD, "below")):
        there = sign * residual > 0
        axes.scatter(
            n[there], d[there], area[there], color=colour, marker=marker, alpha=0.9, zorder=3,
            edgecolor="white", linewidth=0.4, label=f"run {side} law",
        )  # fmt: skip


def _draw_target(axes: Axes, fitted: FitResult) -> None:
    """The best split of the target, and its interval along the line of equal compute."""
    compute, predictor = fitted.report.target_flops, fitted.predictor
    assert compute is not None  # the law has an optimum
    n = predictor.allocation(compute).n[0]
    if not np.isfinite(n).all():
        return
    if len(predictor.draws):
        low, high = interval(predictor.allocation(compute, draws=True).n[:, 0], predictor.level)
        along = np.geomspace(low, high, 30)
        axes.plot(along, plot_data.tokens_bought(fitted, compute, along), color=INK, linewidth=1.6, zorder=5)
    axes.plot(
        n, plot_data.tokens_bought(fitted, compute, n), "*", color="white", markersize=12, markeredgecolor=INK,
        zorder=6, label=f"at {power(compute)} FLOPs", markeredgewidth=1.0,
    )  # fmt: skip
