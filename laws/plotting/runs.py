"""The runs of a fit: along their budgets, what the law leaves of them, and their learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.data.curves import Curves
from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.model.law import LOSS
from laws.model.variables import CORE, VARIABLES
from laws.plotting.panels import MissingFigureData, Panels, require_optimum
from laws.plotting.shared import drawn_budgets, residual_of, rows_of, smooth_curve
from laws.plotting.style import INK, LAW, SECOND, SYMBOLS, colours, legend, log_ticks, log_x, power
from laws.results.report import ApproachReport
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def isoflop_curves(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss against size at every budget, with the law's curve, the measured minimum and the law's optimum."""
    require_optimum(fitted)
    data = rows_of(fitted)
    group, full = drawn_budgets(data)
    if len(full) < 2:
        raise MissingFigureData("the runs do not lie on at least two budgets of equal compute with three sizes each")
    (axes,) = panels(1, 3.7, 6.0)
    approach = fitted.report.approaches.get("isoflop_akima", ApproachReport())
    predictor = fitted.predictor
    for g, colour in zip(full, colours(len(full)), strict=True):
        n, loss, c = data["n"][group == g], data["loss"][group == g], float(np.median(data["c"][group == g]))
        axes.plot(n, loss, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5, zorder=3)
        grid = np.geomspace(n.min() / 1.15, n.max() * 1.15, 120)
        d = c / np.exp(predictor.cost.log_flops_per_token(np.log(grid)))
        curve = np.exp(
            log_predictions(fitted.law, predictor.constants[None], {"n": grid, "d": d, "c": c + 0 * grid})[0]
        )
        axes.plot(grid, curve, color=colour, label=power(c))
        for minimum in approach.minima:
            if abs(minimum.c / c - 1) < 1e-6:
                ends = np.maximum([[minimum.n - minimum.low], [minimum.high - minimum.n]], 0)
                axes.errorbar(
                    minimum.n, minimum.loss, xerr=ends, fmt="D", color=INK, markersize=4.5,
                    capsize=2.5, elinewidth=1, markerfacecolor="white", zorder=5,
                )  # fmt: skip
    at = np.geomspace(data["c"].min(), data["c"].max(), 60)
    best = predictor.allocation(at)
    axes.plot(best.n[0], best.loss[0], "--", color=SECOND, linewidth=1.3, label="optimum of the law", zorder=4)
    measured = [minimum.loss for minimum in approach.minima]
    if measured:
        axes.plot([], [], "D", color=INK, markerfacecolor="white", markersize=4.5, label="measured minimum")
    shown = data["loss"][np.isin(group, full)]
    axes.set_ylim(min([shown.min(), *measured]) * 0.98, min(axes.get_ylim()[1], np.quantile(shown, 0.97) * 1.04))
    log_x(axes, data["n"][np.isin(group, full)])
    axes.set(xlabel=SYMBOLS["n"], ylabel=fitted.observable)
    axes.legend(title="$C$ (FLOPs)", title_fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), alignment="left")
    return [axes]


def residuals(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Residual log loss against each column, with the band that one run's noise spans."""
    data = rows_of(fitted)
    variables = [
        variable for variable in VARIABLES if variable in data and (variable in CORE or variable in fitted.law.columns)
    ]
    off = 100 * np.expm1(residual_of(fitted))
    plots = panels(len(variables), 2.7, 3.2)
    noise = fitted.predictor.noise
    limit = max(np.quantile(np.abs(off), 0.98) * 1.35, 250 * noise.deviation)
    outside = int(np.sum(np.abs(off) > limit))
    for axes, variable in zip(plots, variables, strict=True):
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.axhspan(
            -100 * noise.residual, 100 * noise.residual, color=LAW, alpha=0.12, linewidth=0, label="residual s.d."
        )
        if noise.seeds:
            for side in (-1, 1):
                axes.axhline(
                    side * 100 * noise.seeds, color=SECOND, linestyle="--", linewidth=0.9,
                    label="s.d. between seeds" if side > 0 else None,
                )  # fmt: skip
        axes.plot(data[variable], off, "o", color=LAW, markersize=3.4, alpha=0.75, markeredgewidth=0)
        log_x(axes, data[variable])
        axes.set_ylim(-limit, limit)
        axes.set(xlabel=SYMBOLS[variable])
        if axes is not plots[0]:
            axes.tick_params(labelleft=False)
    plots[0].set_ylabel("measured over predicted (%)")
    note = f"{outside} runs lie outside the frame" if outside else ""
    legend(plots[0])
    if note:
        plots[-1].set_title(note, fontsize=8, loc="right", color="#666666")
    return plots


def learning_curves(fitted: FitResult, panels: Panels, curves: Curves | None = None) -> list[Axes]:
    """Loss against tokens, coloured by size, with the finished loss of each run."""
    data = rows_of(fitted)
    rows = {str(run): row for row, run in enumerate(data["run"])}
    drawn = {run: curve for run, curve in (curves or {}).items() if run in rows}
    if not curves:
        raise MissingFigureData("no learning curves are given: laws.load_curves reads them")
    if not drawn:
        raise MissingFigureData("no learning curve is of a fitted run: their names differ")
    if "n" not in data:
        raise MissingFigureData("the fitted table has no sizes to colour the learning curves by")
    from matplotlib import cm, colormaps
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    (axes,) = panels(1, 3.4, 5.2)
    low, high = data["n"].min(), data["n"].max()
    shades = LinearSegmentedColormap.from_list("sizes", colormaps["viridis"](np.linspace(0, 0.86, 128)))
    scale = cm.ScalarMappable(LogNorm(low, high if high > low else low * 1.01), shades)
    for run, (tokens, loss) in drawn.items():
        row = rows[run]
        colour, end = scale.to_rgba(data["n"][row]), data["loss"][row]
        axes.plot(*smooth_curve(tokens, loss, end), color=colour, linewidth=0.9, alpha=0.85)
        axes.plot(data["d"][row], end, "o", color=colour, markersize=4, mec="white", mew=0.5, zorder=3)
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.02, aspect=28)
    bar.set_label(SYMBOLS["n"])
    bar.outline.set_visible(False)
    log_ticks(bar.ax.yaxis, low, high)
    log_x(axes, np.concatenate([np.asarray(line.get_xdata(), float) for line in axes.lines]))
    axes.set_ylim(data["loss"].min() * 0.96, min(axes.get_ylim()[1], data["loss"].max() * 1.6))
    axes.plot([], [], "o", color=INK, markersize=4, label="evaluation loss at the end")
    axes.plot([], [], color=INK, linewidth=0.9, label="training loss, smoothed and levelled")
    legend(axes, 1)
    axes.set(xlabel=SYMBOLS["d"], ylabel=LOSS)
    return [axes]


def one_column(fitted: FitResult, panels: Panels) -> list[Axes]:
    """A law of a single column: the runs, the law and its band."""
    if len(fitted.law.columns) != 1:
        raise MissingFigureData(
            f"law '{fitted.law.name}' reads {len(fitted.law.columns)} columns, and not a single one"
        )
    (variable,), data, predictor = fitted.law.columns, rows_of(fitted), fitted.predictor
    (axes,) = panels(1)
    grid = np.geomspace(data[variable].min(), data[variable].max() * 2, 120)
    axes.plot(data[variable], data["loss"], "o", color=INK, markersize=3.4, alpha=0.75, label="runs")
    line = np.exp(log_predictions(fitted.law, predictor.constants[None], {variable: grid})[0])
    axes.plot(grid, line, color=LAW, label=fitted.law.formula)
    if len(predictor.draws):
        low, high = interval(np.exp(log_predictions(fitted.law, predictor.draws, {variable: grid})), predictor.level)
        axes.fill_between(grid, low, high, color=LAW, alpha=0.22, linewidth=0, label=f"{predictor.level:.0%} interval")
    log_x(axes, grid)
    axes.set(xlabel=SYMBOLS[variable], ylabel=fitted.observable)
    legend(axes, 1)
    return [axes]
