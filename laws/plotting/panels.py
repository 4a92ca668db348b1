"""Where a figure is drawn: axes that a caller gives, a new pyplot figure, or a figure for a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from laws.base.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.4, 3.2  # inches of one panel
ACROSS = 4  # most panels of a row
LEGEND_COLUMN = 1.6  # inches of a column of a legend above all panels


class Panels(Protocol):
    """Gives a figure's axes, row by row."""

    def __call__(self, count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
        """As many axes as a figure has panels.

        Args:
            count: number of panels.
            height, width: of a panel, in inches.

        Raises:
            InputError: a caller gave another number of axes.
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

    for panel in axes:
        panel.spines["top"].set_visible(rcParams["axes.spines.top"])
        panel.spines["right"].set_visible(rcParams["axes.spines.right"])
        for spine in panel.spines.values():
            spine.set(edgecolor=rcParams["axes.edgecolor"], linewidth=rcParams["axes.linewidth"])
        panel.set_axisbelow(rcParams["axes.axisbelow"])
        panel.grid(rcParams["axes.grid"], color=rcParams["grid.color"], linewidth=rcParams["grid.linewidth"])
        panel.tick_params(axis="x", which="both", labelsize=rcParams["xtick.labelsize"])
        panel.tick_params(axis="y", which="both", labelsize=rcParams["ytick.labelsize"])
        for axis in (panel.xaxis, panel.yaxis):
            axis.label.set_fontsize(rcParams["axes.labelsize"])
    return axes


def pyplot_panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
    """Axes of a new pyplot figure, which a notebook shows.

    Args:
        count: number of panels.
        height, width: of a panel, in inches.

    Returns:
        the axes, row by row, at most ``ACROSS`` in a row.
    """
    from matplotlib import pyplot

    return _in_style(_grid(pyplot.figure, count, height, width))


def file_panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
    """Axes of a new figure that pyplot does not know: it is written to a file and forgotten.

    Args:
        count: number of panels.
        height, width: of a panel, in inches.

    Returns:
        the axes, row by row, at most ``ACROSS`` in a row.
    """
    from matplotlib.figure import Figure

    return _grid(Figure, count, height, width)


def given_panels(axes: Axes | Sequence[Axes] | np.ndarray) -> Panels:
    """The axes that a caller gives, as panels of a figure.

    Args:
        axes: one, or as many as the figure has panels.

    Returns:
        panels that raise ``InputError`` where the figure asks for another number.
    """
    panel_list: list[Any] = list(np.ravel(np.asarray(axes, dtype=object)))

    def panels(count: int, height: float = HEIGHT, width: float = WIDTH) -> list[Axes]:
        if len(panel_list) != count:
            raise InputError(f"the figure has {count} panels, and {len(panel_list)} axes are given")
        return _in_style(panel_list)

    return panels


def figure_of(axes: list[Axes]) -> Figure:
    """The figure that holds some axes."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None  # axes are never taken out of their figure
    return figure


def legend_above(axes: list[Axes], handles: list[Any]) -> None:
    """One legend for all panels: above the figure, or above its first panel where the figure holds others too.

    Args:
        axes: the panels.
        handles: artists with labels.
    """
    figure = figure_of(axes)
    labels = [str(handle.get_label()) for handle in handles]
    if set(figure.axes) == set(axes) and figure.get_layout_engine() is not None:
        columns = min(max(2, int(figure.get_figwidth() / LEGEND_COLUMN)), len(handles))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8)
    else:
        axes[0].legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.8)
