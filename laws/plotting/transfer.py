"""What pre-training is worth: losses from scratch and from a parent, and the data transferred that lies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.inference.noise import interval
from laws.model.forms.transfer import TRANSFER, TRANSFER_JOINT
from laws.plotting import plot_data
from laws.plotting.panels import MissingFigureData, Panels, legend_above
from laws.plotting.style import INK, NOTE, SYMBOLS, colours, log_x, log_y, short
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REACH = 1.2  # factor by which curves go on beyond the runs


def transferred(rows: dict[str, Float[np.ndarray, " rows"]]) -> Float[np.ndarray, " rows"]:
    """The data that pre-training was worth to each run, by no law: what a run from scratch needs for its loss, less its own.

    Between the runs from scratch of the same size, the logarithm of the loss is taken as straight in that of the data.

    Args:
        rows: ``n``, ``d``, ``p`` and ``loss``.

    Returns:
        D_T; not a number for runs from scratch, and where none of the size from scratch is as good, or as bad.
    """
    transferred_tokens = np.full(len(rows["n"]), np.nan)
    for n in np.unique(rows["n"]):
        scratch, tuned = ((rows["n"] == n) & (rows["pretrained"] == p) for p in (0, 1))
        if scratch.sum() > 1:
            order = np.argsort(-rows["loss"][scratch])
            losses, data = (np.log(rows[key][scratch][order]) for key in ("loss", "d"))
            needed = np.interp(-np.log(rows["loss"][tuned]), -losses, data, left=np.nan, right=np.nan)
            transferred_tokens[tuned] = np.exp(needed) - rows["d"][tuned]
    return transferred_tokens


def transfer(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss against data from scratch and from a parent, and the data transferred, with the law's curves."""
    if fitted.report.law != TRANSFER_JOINT.name or fitted.law.fixed:
        raise MissingFigureData(f"data transferred is a result of law '{TRANSFER_JOINT.name}' with no constant held")
    from matplotlib.lines import Line2D

    rows = {str(name): column.to_numpy() for name, column in fitted.data.items()}
    losses, worth = panels(2)
    sizes = np.unique(rows["n"])
    grid = np.geomspace(rows["d"].min() / REACH, rows["d"].max() * REACH, 60)
    handles = []
    for n, colour in zip(sizes, colours(len(sizes)), strict=True):
        for p, line, face in ((0, "--", "white"), (1, "-", colour)):
            of_size = (rows["n"] == n) & (rows["pretrained"] == p)
            marker = {"markersize": 4.2, "markeredgecolor": colour, "markerfacecolor": face, "zorder": 3}
            losses.plot(rows["d"][of_size], rows["loss"][of_size], "o", **marker)
            columns = {"n": n + 0 * grid, "d": grid, "pretrained": p + 0 * grid}
            losses.plot(grid, plot_data.predicted(fitted, columns), line, color=colour, linewidth=1.2)
        handles.append(Line2D([], [], color=colour, label=f"$N$ = {short(n)}"))
        _worth(worth, fitted, n, grid, colour)
    measured = transferred(rows)
    shown = measured > 0
    for n, colour in zip(sizes, colours(len(sizes)), strict=True):
        of_size = shown & (rows["n"] == n)
        worth.plot(rows["d"][of_size], measured[of_size], "o", color=colour, markersize=4.2, zorder=3)
    hidden = int(np.sum((rows["pretrained"] == 1) & ~shown))
    if hidden:
        worth.set_title(f"{hidden} runs beyond those from scratch", fontsize=8, loc="right", color=NOTE)
    handles += [
        Line2D([], [], color=INK, marker="o", markersize=4.2, label="pre-trained"),
        Line2D([], [], color=INK, marker="o", markersize=4.2, markerfacecolor="white", ls="--", label="from scratch"),
    ]
    log_x(losses, grid, 1.0)
    log_y(losses, rows["loss"], 1.05)
    log_x(worth, grid, 1.0)
    worth.set_yscale("log")
    losses.set(xlabel=SYMBOLS["d"], ylabel=fitted.observable)
    worth.set(xlabel=SYMBOLS["finetune_tokens"], ylabel="data transferred $D_T$")
    legend_above([losses, worth], handles)
    return [losses, worth]


def _worth(axes: Axes, fitted: FitResult, n: float, grid: Float[np.ndarray, " points"], colour: Any) -> None:
    """The law's data transferred to one size, with its band."""
    columns = {"n": n, "finetune_tokens": grid}
    value = lambda constants: TRANSFER.value(fitted.law.constants(constants), columns)
    axes.plot(grid, value(fitted.predictor.constants), color=colour, linewidth=1.2)
    if len(fitted.predictor.draws):
        spread = np.stack([value(draw) for draw in fitted.predictor.draws])
        low, high = interval(spread, fitted.predictor.level)
        axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
