"""Uncertainty of a fit: profile deviance of its constants, and scatter of its resamples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laws.plotting import plot_data
from laws.plotting.panels import ACROSS, Panels, legend_above
from laws.plotting.plot_data.constants import ABOVE, Density, Span
from laws.plotting.style import INK, LAW, SECOND, few_ticks, log_ticks, symbol
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES: dict[float, Any] = {0.95: "solid", 0.5: "dotted"}  # of the resamples within a contour, and its line


def _scale(axes: Axes, along: str, span: Span) -> None:
    """An axis with few and short ticks.

    Args:
        axes: the panel.
        along: "x" or "y".
        span: its ends and scale.
    """
    if span.log:
        getattr(axes, f"set_{along}scale")("log")
    if span.low < span.high:
        getattr(axes, f"set_{along}lim")(span.low, span.high)
    axis = getattr(axes, f"{along}axis")
    log_ticks(axis, span.low, span.high, narrow=True) if span.log else few_ticks(axis)


def profiles(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Profile deviance of the constants and of what is derived, with the profile intervals.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        a panel a quantity.

    Raises:
        MissingFigureData: the fit has no profile.
    """
    lines = plot_data.profiles(fitted)
    plots, level = panels(len(lines), 1.9, 2.2), f"{lines[0].level:.0%}"
    for axes, line in zip(plots, lines, strict=True):
        axes.axvspan(line.low, line.high, color=LAW, alpha=0.12, linewidth=0, label=f"{level} interval")
        axes.plot(line.values, line.deviance, color=LAW, label="all other constants fitted anew")
        axes.plot(line.computed, line.computed_deviance, ".", color=LAW, markersize=4)
        axes.axhline(line.cut, color=SECOND, linestyle="--", linewidth=1.1, label=f"{level} level")
        axes.axvline(line.fit, color=INK, linewidth=0.9, label="fit")
        _scale(axes, "x", line.axis)
        axes.set(xlabel=symbol(line.name), ylim=(0, ABOVE**2 * line.cut))
    for axes in plots[::ACROSS]:
        axes.set_ylabel("deviance")
    legend_above(plots, [plots[0].lines[0], *plots[0].patches, *plots[0].lines[2:4]])
    return plots


def _contours(axes: Axes, density: Density) -> None:
    """Contours of a density, a line style a share of the resamples."""
    levels = list(density.levels.values())
    styles = [SHARES[share] for share in density.levels]
    axes.contour(density.x, density.y, density.height, levels, colors=LAW, linewidths=1.5, linestyles=styles, zorder=3)


def clouds(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Pairs of fitted quantities, a point a resample, with the contours of 50% and 95% of them and the fit itself.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        a panel a pair.

    Raises:
        MissingFigureData: the law has no two constants, or the fit too few resamples.
    """
    from matplotlib.lines import Line2D

    pairs = plot_data.clouds(fitted, tuple(SHARES))
    plots = panels(len(pairs), 2.6, 2.9)
    dot: dict[str, Any] = {"color": INK, "markersize": 3, "alpha": 0.4, "markeredgewidth": 0, "zorder": 2}
    diamond: dict[str, Any] = {"color": SECOND, "markersize": 5.5, "markeredgecolor": "white", "zorder": 4}
    for axes, pair in zip(plots, pairs, strict=True):
        _scale(axes, "x", pair.x_axis)
        _scale(axes, "y", pair.y_axis)
        axes.plot(pair.x, pair.y, ".", label="resample", **dot)
        if pair.density is not None:
            _contours(axes, pair.density)
        axes.plot(*np.atleast_2d(pair.fit).T, "D", label="fit", **diamond)
        axes.set(xlabel=symbol(pair.names[0]), ylabel=symbol(pair.names[1]))
    outer = [
        Line2D([], [], color=LAW, linestyle=style, label=f"{share:.0%} of them") for share, style in SHARES.items()
    ]
    legend_above(plots, [*plots[0].lines[:1], *outer[::-1], *plots[0].lines[1:2]])
    return plots
