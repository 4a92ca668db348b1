"""Figures of the runs of a fit: along their budgets, their residuals, their learning curves, and a law of one variable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.data.curves import Curves
from laws.model.law import LOSS
from laws.plotting import plot_data
from laws.plotting.missing import MissingFigureData, require_optimum
from laws.plotting.panels import Panels
from laws.plotting.style import (
    INK,
    LAW,
    NOTE,
    SECOND,
    axis_label,
    colours,
    legend,
    log_ticks,
    log_x,
    mark_extrapolation,
    power,
)
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable


def isoflop_curves(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss against size at every budget, with the law's curve, the measured minimum and the law's optimum.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the law has no compute optimum, or the runs lie on no budgets.
    """
    require_optimum(fitted)
    runs = plot_data.fitted_runs(fitted)
    curves = plot_data.drawn_budgets(plot_data.budget_curves(runs, fitted), runs)
    if len(curves) < 2:
        raise MissingFigureData(
            "most runs do not lie on budgets of equal compute, at least two of them, with "
            f"{plot_data.FEWEST_SIZES} sizes each"
        )
    minima = plot_data.budget_minima(fitted)
    best = plot_data.optimum(fitted, plot_data.compute_grid(runs, None, above=1.0))
    (axes,) = panels(1, 3.7, 6.0)
    dot = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 3}
    for curve, colour in zip(curves, colours(len(curves)), strict=True):
        axes.plot(curve.runs["n"], curve.runs["loss"], "o", color=colour, **dot)
        axes.plot(curve.n, curve.loss, color=colour, label=power(curve.compute))
    axes.plot(best["n"], best["loss"], "--", color=SECOND, linewidth=1.3, label="forecast optimum", zorder=4)
    if len(minima):
        ends = np.maximum([minima["n"] - minima["n_low"], minima["n_high"] - minima["n"]], 0)
        diamond = {"fmt": "D", "color": INK, "markersize": 4.5, "markerfacecolor": "white"}
        axes.errorbar(minima["n"], minima["loss"], xerr=ends, capsize=2.5, elinewidth=1, zorder=5, **diamond)
        interval = f", {fitted.report.intervals.level:.0%} interval" if minima["n_low"].notna().any() else ""
        axes.plot([], [], "D", color=INK, markerfacecolor="white", markersize=4.5, label=f"measured minimum{interval}")
    n, loss = (np.concatenate([curve.runs[name] for curve in curves]) for name in ("n", "loss"))
    top = min(axes.get_ylim()[1], np.quantile(loss, 0.97) * 1.04)
    axes.set_ylim(min([loss.min(), *minima["loss"]]) * 0.98, top)
    log_x(axes, n)
    axes.set(xlabel=axis_label("n", fitted.report.columns), ylabel=fitted.observable)
    axes.legend(title="$C$ (FLOPs)", title_fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), alignment="left")
    return [axes]


def residuals(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Residuals in percent against each variable, with the band that one run's noise spans.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        a panel a variable.
    """
    runs = plot_data.fitted_runs(fitted)
    data = plot_data.residuals(runs, fitted)
    row = panels(len(data.variables), 2.7, 3.2)
    for axes, variable in zip(row, data.variables, strict=True):
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.axhspan(-data.residual_sd, data.residual_sd, color=LAW, alpha=0.12, linewidth=0, label="residual s.d.")
        for side, label in ((-1, None), (1, "s.d. between seeds")) if data.seed_sd else ():
            axes.axhline(side * (data.seed_sd or 0), color=SECOND, linestyle="--", linewidth=0.9, label=label)
        axes.plot(runs[variable], data.percent, "o", color=LAW, markersize=3.4, alpha=0.75, markeredgewidth=0)
        log_x(axes, runs[variable].to_numpy(), narrow=True)
        axes.set_ylim(-data.limit, data.limit)
        axes.set(xlabel=axis_label(variable, fitted.report.columns))
        if axes is not row[0]:
            axes.tick_params(labelleft=False)
    row[0].set_ylabel("measured over predicted (%)")
    legend(row[0])
    if data.n_outside:
        row[-1].set_title(f"{data.n_outside} runs lie outside the frame", fontsize=8, loc="right", color=NOTE)
    return row


def _size_colours(low: float, high: float) -> ScalarMappable:
    """A logarithmic scale of colours between two sizes."""
    from matplotlib import cm
    from matplotlib.colors import ListedColormap, LogNorm

    return cm.ScalarMappable(LogNorm(low, high if high > low else low * 1.01), ListedColormap(colours(128)))


def learning_curves(fitted: FitResult, panels: Panels, curves: Curves | None = None) -> list[Axes]:
    """Loss against tokens, coloured by size, with the finished loss of each run.

    Args:
        fitted: the fit.
        panels: where to draw.
        curves: learning curves from ``laws.load_curves``.

    Returns:
        one panel.

    Raises:
        MissingFigureData: no curve is of a fitted run, or the runs have no sizes.
    """
    runs = plot_data.fitted_runs(fitted)
    if not curves:
        raise MissingFigureData("no learning curves are given: laws.load_curves reads them")
    if not {"n", "d"} <= set(runs):
        raise MissingFigureData("the fitted table has no sizes or no tokens, which learning curves are drawn by")
    logged = plot_data.learning_curves(runs, curves)
    if not logged:
        raise MissingFigureData("no learning curve is of a fitted run: their names differ")
    (axes,) = panels(1, 3.4, 5.2)
    low, high = runs["n"].min(), runs["n"].max()
    scale = _size_colours(low, high)
    for curve in logged:
        colour = scale.to_rgba(curve.run["n"])
        axes.plot(curve.tokens, curve.loss, color=colour, linewidth=0.9, alpha=0.85)
        axes.plot(curve.run["d"], curve.run["loss"], "o", color=colour, markersize=4, mec="white", mew=0.5, zorder=3)
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.02, aspect=28)
    bar.set_label(axis_label("n", fitted.report.columns))
    bar.outline.set_visible(False)
    log_ticks(bar.ax.yaxis, low, high)
    log_x(axes, np.concatenate([[*curve.tokens, curve.run["d"]] for curve in logged]))
    axes.set_ylim(runs["loss"].min() * 0.96, min(axes.get_ylim()[1], runs["loss"].max() * 1.6))
    axes.plot([], [], "o", color=INK, markersize=4, label="evaluation loss at the end")
    axes.plot([], [], color=INK, linewidth=0.9, label="training loss, smoothed and levelled")
    legend(axes, 1)
    axes.set(xlabel=axis_label("d", fitted.report.columns), ylabel=LOSS)
    return [axes]


def one_column(fitted: FitResult, panels: Panels) -> list[Axes]:
    """A law of a single variable: the runs, the law and its band.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the law reads several variables.
    """
    line, runs = plot_data.variable_band(fitted), fitted.data
    (axes,) = panels(1)
    axes.plot(runs[line.variable], runs["loss"], "o", color=INK, markersize=3.4, alpha=0.75, label="runs")
    axes.plot(line.values, line.loss, color=LAW, label=fitted.law.formula)
    if np.isfinite(line.low).any():
        label = f"{fitted.report.intervals.level:.0%} interval"
        axes.fill_between(line.values, line.low, line.high, color=LAW, alpha=0.22, linewidth=0, label=label)
    log_x(axes, line.values)
    mark_extrapolation(axes, line.largest, 0.95)
    axes.set(xlabel=axis_label(line.variable, fitted.report.columns), ylabel=fitted.observable)
    legend(axes, 1)
    return [axes]
