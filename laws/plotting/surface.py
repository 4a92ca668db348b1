"""The fitted surface: what the law predicts for every size and data, and where on it the runs and the best splits lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.plotting import plot_data
from laws.plotting.panels import Panels
from laws.plotting.style import INK, LAW, NAIVE, SECOND, THIRD, axis_label, legend, log_x, log_y, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTOUR = "#7A7A7A"
SMALL, LARGE = 9.0, 46.0  # areas of a run on the law, and of one two standard deviations off it


def surface(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Lines of equal loss and of equal compute over sizes and data, the runs, and the best split of every compute.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    from matplotlib.patheffects import withStroke

    plane = plot_data.surface(fitted)
    (axes,) = panels(1, 4.1)
    axes.grid(False)
    contours = axes.contour(plane.n, plane.d, plane.loss, plane.levels, colors=CONTOUR, linewidths=0.8, zorder=1)
    axes.plot([], [], color=CONTOUR, linewidth=0.8, label=f"equal {fitted.observable}")
    for number, tokens in enumerate(plane.equal_compute.values()):
        label = None if number else "equal compute"
        axes.plot(plane.n, tokens, color=NAIVE, linewidth=0.8, zorder=1, linestyle=(0, (1, 2)), label=label)
    _draw_runs(axes, fitted)
    _draw_best_splits(axes, plane.best)
    _draw_target(axes, fitted)
    log_x(axes, plane.n, 1.0)
    log_y(axes, plane.d, 1.0)
    for text in axes.clabel(contours, fmt=lambda level: f"{level:g}", fontsize=7.5, inline_spacing=2):
        text.set(path_effects=[withStroke(linewidth=2, foreground="white")], color=INK, zorder=7)
    columns = fitted.report.columns
    axes.set(xlabel=axis_label("n", columns), ylabel=axis_label("d", columns))
    legend(axes, 2)
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


def _draw_best_splits(axes: Axes, best: plot_data.Frame) -> None:
    """The best split of every compute, dashed beyond the fitted runs."""
    beyond = best["extrapolated"].to_numpy()
    axes.plot(best["n"][~beyond], best["d"][~beyond], color=LAW, linewidth=2.0, label="best split", zorder=4)
    if beyond.any():
        joined = beyond | np.r_[beyond[1:], False]  # from the last split within the runs
        label = "best split, extrapolated"
        axes.plot(best["n"][joined], best["d"][joined], "--", color=LAW, linewidth=2.0, label=label, zorder=4)


def _draw_target(axes: Axes, fitted: FitResult) -> None:
    """The best split of the target, and its interval along the line of equal compute."""
    split, target = plot_data.target_optimum(fitted), fitted.report.target_flops
    if split.empty or target is None:
        return
    if len(split) > 1:
        label = f"{fitted.report.intervals.level:.0%} interval"
        axes.plot(split["n"][1:], split["d"][1:], color=INK, linewidth=1.6, zorder=5, label=label)
    star = {"color": "white", "markersize": 12, "markeredgecolor": INK, "markeredgewidth": 1.0, "zorder": 6}
    axes.plot(split["n"][:1], split["d"][:1], "*", label=f"best split at {power(target)} FLOPs", **star)
