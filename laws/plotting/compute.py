"""Figures of the best use of compute: the loss that the law predicts, and the size and data that reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.data.curves import Curves
from laws.plotting import plot_data
from laws.plotting.missing import require_optimum
from laws.plotting.panels import Panels
from laws.plotting.style import (
    FAINT,
    INK,
    LAW,
    SECOND,
    THIRD,
    axis_label,
    data_unit,
    legend,
    log_ticks,
    log_x,
    mark_extrapolation,
)
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP = 0.98  # share of the losses below the top of the frame


def loss_against_compute(fitted: FitResult, panels: Panels, curves: Curves | None = None) -> list[Axes]:
    """Every run, the learning curves behind it, the law at its optimum, and the naive power law.

    Args:
        fitted: the fit.
        panels: where to draw.
        curves: learning curves from ``laws.load_curves``.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    runs = plot_data.fitted_runs(fitted)
    compute, logged = plot_data.compute_grid(runs, fitted), plot_data.learning_curves(runs, curves)
    best, naive = plot_data.optimum(fitted, compute), plot_data.naive_power_law(fitted, compute)
    (axes,) = panels(1, 3.4)
    for curve in logged:
        axes.plot(curve.compute, curve.loss, color=FAINT, linewidth=0.8, zorder=1)
    axes.fill_between(compute, best["loss_low"], best["loss_high"], color=LAW, alpha=0.22, linewidth=0, zorder=2)
    label = f"law at its optimum, {fitted.report.intervals.level:.0%} interval"
    axes.plot(compute, best["loss"], color=LAW, label=label, zorder=4)
    if naive is not None:
        axes.plot(compute, naive, "--", color=SECOND, linewidth=1.2, label="power law without offset", zorder=3)
    axes.plot(runs["c"], runs["loss"], "o", color=INK, markersize=3, alpha=0.75, label="finished runs", zorder=3)
    if logged:
        points = plot_data.envelope(fitted)
        if len(points):
            axes.plot(
                points["c"], points["loss"], ".", color=THIRD, markersize=4, label="envelope of the curves", zorder=3
            )
        axes.plot([], [], color=FAINT, linewidth=1, label="learning curves")
    log_x(axes, np.r_[runs["c"], compute])
    axes.set_ylim(min(best["loss_low"].min(), runs["loss"].min()) * 0.985, runs["loss"].quantile(TOP) * 1.08)
    axes.set(xlabel=axis_label("c", fitted.report.columns), ylabel=fitted.observable)
    mark_extrapolation(axes, plot_data.extrapolation_start(fitted, compute), 0.95)
    legend(axes)
    return [axes]


def optimum_against_compute(fitted: FitResult, panels: Panels) -> list[Axes]:
    """N* and D* against compute with bands, beside the minima of approach 2 and the points of approach 1.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        two panels: parameters and tokens.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    compute = plot_data.compute_grid(plot_data.fitted_runs(fitted), fitted)
    best, minima = plot_data.optimum(fitted, compute), plot_data.budget_minima(fitted)
    points = plot_data.envelope(fitted)
    both = panels(2, 3.6)
    for axes, name, exponent in zip(both, ("n", "d"), ("a", "b"), strict=True):
        low, value, high = (best[f"{name}{end}"] for end in ("_low", "", "_high"))
        label = f"{fitted.report.intervals.level:.0%} interval"
        axes.fill_between(compute, low, high, color=LAW, alpha=0.22, linewidth=0, label=label)
        axes.plot(compute, value, color=LAW, label=f"{fitted.law.name}: {_exponent(fitted, exponent)}", zorder=3)
        if len(points):
            axes.plot(points["c"], points[name], ".", color=THIRD, markersize=4, label="approach 1: envelope")
        if len(minima):
            ends = np.stack([minima[name] - minima[f"{name}_low"], minima[f"{name}_high"] - minima[name]])
            axes.errorbar(
                minima["c"], minima[name], yerr=np.maximum(ends, 0), fmt="D", color=SECOND, markersize=4,
                capsize=2.5, elinewidth=1, label="approach 2: minima of the budgets", zorder=4,
            )  # fmt: skip
        _log_y(axes, np.concatenate([low, high, minima[name], value]))
        log_x(axes, compute)
        axes.set(xlabel=axis_label("c", fitted.report.columns), ylabel=f"compute-optimal {_starred(fitted, name)}")
        mark_extrapolation(axes, plot_data.extrapolation_start(fitted, compute), 0.05)
        legend(axes, 1)
    return both


def _starred(fitted: FitResult, name: str) -> str:
    """The symbol of an optimum with its unit, short enough for the side of a panel."""
    unit = "parameters" if name == "n" else data_unit(fitted.report.columns)
    return f"${name.upper()}^*$" + (f" ({unit})" if unit else "")


def _exponent(fitted: FitResult, name: str) -> str:
    """An exponent at the target with its interval, for a legend."""
    value, low, high = fitted.derived.loc[name, ["value", "low", "high"]]
    return f"${name}={value:.3f}$" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else "")


def _log_y(axes: Axes, values: Float[np.ndarray, " values"]) -> None:
    """A logarithmic axis around the finite ones of some values."""
    values = values[np.isfinite(values)]
    axes.set_yscale("log")
    axes.set_ylim(values.min() / 1.6, values.max() * 1.6)
    log_ticks(axes.yaxis, float(values.min()), float(values.max()))
