"""Where a figure is drawn: axes that a caller gives, a new pyplot figure, or a figure for a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from laws.base.errors import InputError
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.4, 3.2  # inches of one panel
ACROSS = 4  # most panels of a row
LEGEND_COLUMN = 1.6  # inches of a column of a legend above all panels


class MissingFigureData(InputError):
    """A fit does not hold what a figure shows."""


class Panels(Protocol):
    """Gives a figure's axes, row by row."""

    def __call__(self, count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
        """As many axes as a figure has panels.

        Args:
            count: number of panels.
            height, width: of a panel, in inches.
        """
        ...


def _grid(new_figure: Callable[..., Figure], count: int, height: float, width: float) -> list[Axes]:
    """Axes of a new figure, at most ``ACROSS`` in a row."""
    columns = min(count, ACROSS)
    rows = -(-count // columns)
    figure = new_figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns)))
    for empty in axes[count:]:
        empty.remove()
    return axes[:count]


def _in_style(axes: list[Axes]) -> list[Axes]:
    """Axes with the frame, grid and letters of the style that is on: their ticks are made after it has ended."""
    from matplotlib import rcParams

    for one in axes:
        one.spines["top"].set_visible(rcParams["axes.spines.top"])
        one.spines["right"].set_visible(rcParams["axes.spines.right"])
        for spine in one.spines.values():
            spine.set(edgecolor=rcParams["axes.edgecolor"], linewidth=rcParams["axes.linewidth"])
        one.set_axisbelow(rcParams["axes.axisbelow"])
        one.grid(rcParams["axes.grid"], color=rcParams["grid.color"], linewidth=rcParams["grid.linewidth"])
        one.tick_params(axis="x", which="both", labelsize=rcParams["xtick.labelsize"])
        one.tick_params(axis="y", which="both", labelsize=rcParams["ytick.labelsize"])
        for axis in (one.xaxis, one.yaxis):
            axis.label.set_fontsize(rcParams["axes.labelsize"])
    return axes


def pyplot_panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
    """Axes of a new pyplot figure, which a notebook shows."""
    from matplotlib import pyplot

    return _in_style(_grid(pyplot.figure, count, height, width))


def file_panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
    """Axes of a new figure that pyplot does not know: it is written to a file and forgotten."""
    from matplotlib.figure import Figure

    return _grid(Figure, count, height, width)


def given_panels(axes: Axes | Sequence[Axes] | np.ndarray) -> Panels:
    """A caller's own axes.

    Raises:
        InputError: when a figure asks for them, another number than it has panels.
    """
    given: list[Any] = list(np.ravel(np.asarray(axes, dtype=object)))

    def panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
        if len(given) != count:
            raise InputError(f"the figure has {count} panels, and {len(given)} axes are given")
        return _in_style(given)

    return panels


def require_optimum(fitted: FitResult) -> None:
    """Refuses a fit of a law without a best split of compute.

    Raises:
        MissingFigureData: the law does not trade parameters against data.
    """
    if not fitted.law.has_compute_optimum:
        raise MissingFigureData(f"law '{fitted.law.name}' has no compute-optimal split of parameters and data")


def figure_of(axes: list[Axes]) -> Figure:
    """The figure that holds some axes."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None  # axes are never taken out of their figure
    return figure


def legend_above(axes: list[Axes], handles: list[Any]) -> None:
    """One legend for all panels: above the figure, or above its first panel where the figure holds others too."""
    figure = figure_of(axes)
    labels = [str(handle.get_label()) for handle in handles]
    if set(figure.axes) == set(axes) and figure.get_layout_engine() is not None:
        columns = min(max(2, int(figure.get_figwidth() / LEGEND_COLUMN)), len(handles))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8)
    else:
        axes[0].legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.8)
