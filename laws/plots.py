"""Figures that a paper could print: one style, safe for colour-blind readers, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laws.figures.frontier import loss_against_compute, optimum_against_compute
from laws.figures.multiplier import multiplier
from laws.figures.runs import isoflop_curves, learning_curves, one_column, residuals
from laws.fitted import Fitted
from laws.style import STYLE, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each draws from a fit, and from learning curves where there are any; None where the fit does not hold what it shows.
FIGURES: dict[str, Callable[[Fitted, dict | None], Figure | None]] = {
    "isoflop": lambda fitted, curves: isoflop_curves(fitted),
    "loss_vs_compute": loss_against_compute,
    "optimum_vs_compute": lambda fitted, curves: optimum_against_compute(fitted),
    "residuals": lambda fitted, curves: residuals(fitted),
    "learning_curves": learning_curves,
    "law": lambda fitted, curves: one_column(fitted),
}


def plot_all(fitted: Fitted, directory: str | Path, curves: dict | None = None) -> list[Path]:
    """Every figure that the fit has data for, as PNG and SVG.

    Args:
        fitted: the fit.
        directory: made if it is not there.
        curves: learning curves from ``laws.envelope.load_curves``.

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


def plot_multiplier(found: dict[str, Any], path: str | Path) -> Path:
    """The compute multiplier against compute, from ``laws.compare.compare``; returns the file."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return save(multiplier(found), path)
