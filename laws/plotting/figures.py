"""Figures that a paper could print, as PNG and SVG: of a fit, of a comparison, of scored forecasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laws.data.curves import Curves
from laws.plotting.backtest import backtest
from laws.plotting.calibration import calibration
from laws.plotting.compute import loss_against_compute, optimum_against_compute
from laws.plotting.floor import floor
from laws.plotting.missing import MissingFigureData, require_matplotlib
from laws.plotting.multiplier import multiplier
from laws.plotting.panels import Panels, figure_of, file_panels
from laws.plotting.runs import isoflop_curves, learning_curves, one_column, residuals
from laws.plotting.style import STYLE, save
from laws.plotting.surface import surface
from laws.plotting.transfer import transfer
from laws.plotting.uncertainty import clouds, profiles
from laws.results.results import FitResult
from laws.uses.calibration import Calibration
from laws.uses.compute_multiplier import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# File name -> what draws a fit, and learning curves where there are any, into panels.
FIGURES: dict[str, Callable[[FitResult, Panels, Curves | None], list[Axes]]] = {
    "isoflop": lambda fitted, panels, curves: isoflop_curves(fitted, panels),
    "loss_vs_compute": loss_against_compute,
    "optimum_vs_compute": lambda fitted, panels, curves: optimum_against_compute(fitted, panels),
    "surface": lambda fitted, panels, curves: surface(fitted, panels),
    "transfer": lambda fitted, panels, curves: transfer(fitted, panels),
    "residuals": lambda fitted, panels, curves: residuals(fitted, panels),
    "learning_curves": learning_curves,
    "law": lambda fitted, panels, curves: one_column(fitted, panels),
    "profiles": lambda fitted, panels, curves: profiles(fitted, panels),
    "clouds": lambda fitted, panels, curves: clouds(fitted, panels),
    "backtest": lambda fitted, panels, curves: backtest(fitted, panels),
    "floor": lambda fitted, panels, curves: floor(fitted, panels),
}

# Figures of results that do not come from one fit: of ``compare`` and of ``calibration``.
RESULTS: dict[type, Callable[[Any, Panels], list[Axes]]] = {
    Comparison: multiplier,
    Calibration: calibration,
}


def plot_all(fitted: FitResult, directory: str | Path, curves: Curves | None = None) -> list[Path]:
    """Every figure that the fit has data for, as PNG and SVG.

    Args:
        fitted: the fit.
        directory: made if it is not there.
        curves: learning curves from ``laws.load_curves``.

    Returns:
        the files, in the order of ``FIGURES``.
    """
    require_matplotlib()
    from matplotlib import style

    files = []
    with style.context(STYLE):
        for name, draw in FIGURES.items():
            try:
                axes = draw(fitted, file_panels, curves)
            except MissingFigureData:
                continue
            for suffix in ("png", "svg"):
                files.append(save(figure_of(axes), Path(directory) / f"{name}.{suffix}"))
    return files


def plot_result(result: Comparison | Calibration, path: str | Path) -> Path:
    """The figure of a result that does not come from one fit.

    Args:
        result: what ``laws.compare`` or ``laws.calibration`` returned.
        path: of the file, PNG, SVG or PDF.

    Returns:
        the path.

    Example:
        >>> import pathlib, tempfile, laws
        >>> from laws.uses.compute_multiplier import MultiplierPoint
        >>> point = MultiplierPoint(c=1e20, loss=2.5, multiplier=1.2, interval=(1.1, 1.3), share_above_one=1.0)
        >>> comparison = laws.Comparison("chinchilla", "kaplan", "flops", 0.95, (point,), None, ())
        >>> laws.plot_result(comparison, pathlib.Path(tempfile.mkdtemp()) / "multiplier.svg").name
        'multiplier.svg'
    """
    require_matplotlib()
    from matplotlib import style

    with style.context(STYLE):
        return save(figure_of(RESULTS[type(result)](result, file_panels)), path)
