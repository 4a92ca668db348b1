"""Figures that a paper could print: one style, safe for colour-blind readers, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laws.plotting.backtest import backtest
from laws.plotting.calibration import calibration
from laws.plotting.compute import loss_against_compute, optimum_against_compute
from laws.plotting.multiplier import multiplier
from laws.plotting.runs import isoflop_curves, learning_curves, one_column, residuals
from laws.plotting.style import STYLE, save
from laws.plotting.surface import surface
from laws.plotting.transfer import transfer
from laws.plotting.uncertainty import clouds, profiles
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each draws from a fit, and from learning curves where there are any; None where the fit does not hold what it shows.
FIGURES: dict[str, Callable[[FitResult, dict | None], Figure | None]] = {
    "isoflop": lambda fitted, curves: isoflop_curves(fitted),
    "loss_vs_compute": loss_against_compute,
    "optimum_vs_compute": lambda fitted, curves: optimum_against_compute(fitted),
    "surface": lambda fitted, curves: surface(fitted),
    "transfer": lambda fitted, curves: transfer(fitted),
    "residuals": lambda fitted, curves: residuals(fitted),
    "learning_curves": learning_curves,
    "law": lambda fitted, curves: one_column(fitted),
    "profiles": lambda fitted, curves: profiles(fitted),
    "clouds": lambda fitted, curves: clouds(fitted),
    "backtest": lambda fitted, curves: backtest(fitted),
}


def plot_all(fitted: FitResult, directory: str | Path, curves: dict | None = None) -> list[Path]:
    """Every figure that the fit has data for, as PNG and SVG.

    Args:
        fitted: the fit.
        directory: made if it is not there.
        curves: learning curves from ``laws.data.curves.load_curves``.

    Returns:
        the files, in the order of ``FIGURES``.
    """
    import matplotlib as mpl

    files = []
    with mpl.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw(fitted, curves)
            if figure is None:
                continue
            for suffix in ("png", "svg"):
                files.append(save(figure, Path(directory) / f"{name}.{suffix}"))
    return files


# Figures of results that do not come from one fit: of ``compare`` and of ``calibration``.
RESULTS: dict[str, Callable[[dict[str, Any]], Figure]] = {"multiplier": multiplier, "calibration": calibration}


def plot_result(name: str, found: dict[str, Any], path: str | Path) -> Path:
    """The figure of a result, a key of ``RESULTS``; returns the file."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return save(RESULTS[name](found), path)
