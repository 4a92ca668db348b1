"""The look of every figure: one style, safe for colour-blind readers, readable on paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laws.model.variables import VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by readers with any common colour blindness.
LAW = "#0072B2"  # the fitted law
SECOND = "#D55E00"  # what it is compared with
THIRD = "#009E73"  # and a third
NAIVE = "#8C8C8C"  # baselines and guides
INK = "#222222"  # what was measured
FAINT = "#C4C4C4"  # what lies behind
NOTE = "#666666"  # remarks
STYLE = Path(__file__).with_name("isoflop.mplstyle")  # a matplotlib style sheet
SYMBOLS = {variable: f"{known.meaning} ${known.symbol}$" for variable, known in VARIABLES.items()} | {
    "c": "training compute $C$ (FLOPs)",
}
UNITS_OF_DATA = {"token": "tokens", "example": "examples", "image": "images", "sample": "samples"}
# What is derived at the target, as mathematics.
DERIVED = {"a": "a", "b": "b", "n_opt": "N^*", "d_opt": "D^*", "loss_opt": "L^*", "tokens_per_param": "D^*/N^*"}
GREEK = ("alpha", "beta", "gamma", "delta", "eta", "lambda", "kappa", "mu", "sigma", "tau")


def data_unit(columns: Mapping[str, str]) -> str:
    """The unit of the training data, told by the name of its column: ``tokens``, ``examples``; empty where it tells none.

    Args:
        columns: variable -> column of the fitted table.
    """
    column = columns.get("d", "").lower()
    return next((unit for word, unit in UNITS_OF_DATA.items() if word in column), "")


def axis_label(variable: str, columns: Mapping[str, str]) -> str:
    """A variable and its unit, as the label of an axis.

    Args:
        variable: its name.
        columns: variable -> column of the fitted table.
    """
    unit = data_unit(columns) if variable == "d" else ""
    return SYMBOLS[variable] + (f" ({unit})" if unit else "")


def symbol(name: str) -> str:
    """A constant, or what is derived, as mathematics: ``alpha_N`` with its subscript."""
    stem, _, index = DERIVED.get(name, name).partition("_")
    stem = rf"\{stem}" if stem in GREEK else stem if len(stem) < 3 or "^" in stem else rf"\mathrm{{{stem}}}"
    return f"${stem}_{{{index}}}$" if index else f"${stem}$"


def colours(count: int) -> list[Any]:
    """An ordered scale whose lightness rises evenly, its palest end left out so that it shows on white."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.86, max(count, 1))]


def power(value: float) -> str:
    """A number as mathematics: 5.8 x 10^11."""
    mantissa, exponent = f"{value:.1e}".split("e")
    factor = "" if mantissa == "1.0" else rf"{mantissa.removesuffix('.0')}\times"
    return f"${factor}10^{{{int(exponent)}}}$"


def short(value: float) -> str:
    """A number as short as can be: 0.05, 20, 5.8 x 10^11."""
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else power(value)


def log_ticks(axis: Any, low: float, high: float, narrow: bool = False) -> None:
    """Readable labels where less than two decades are shown, powers of ten where more are.

    Args:
        axis: a matplotlib axis.
        low, high: its ends.
        narrow: whether the panel holds few labels only.
    """
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

    decades = np.log10(high / low)
    few, near = decades < 2, decades < (1.0 if narrow else 0.7)
    close, apart = ((1.0, 2.0, 5.0), (1.0, 3.0)) if narrow else ((1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), (1.0, 2.0, 5.0))
    subs = close if near else apart if few else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=5 if narrow and not few else None))
    axis.set_major_formatter(FuncFormatter(lambda x, _: short(x)) if few else LogFormatterSciNotation())
    axis.set_minor_formatter(NullFormatter())


def few_ticks(axis: Any) -> None:
    """Three or four short labels on a linear axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))


def _log_axis(axes: Axes, along: str, values: np.ndarray, margin: float, narrow: bool = False) -> None:
    low, high = float(np.min(values)), float(np.max(values))
    if low <= 0:
        return
    getattr(axes, f"set_{along}scale")("log")
    getattr(axes, f"set_{along}lim")(low / margin, high * margin)
    log_ticks(getattr(axes, f"{along}axis"), low, high, narrow)


def log_x(axes: Axes, values: np.ndarray, margin: float = 1.15, narrow: bool = False) -> None:
    """A logarithmic x axis, where all values are positive.

    Args:
        axes: the panel.
        values: to be shown, in the unit of the axis.
        margin: factor by which the axis goes on beyond them.
        narrow: whether the panel holds few labels only.
    """
    _log_axis(axes, "x", values, margin, narrow)


def log_y(axes: Axes, values: np.ndarray, margin: float = 1.15) -> None:
    """A logarithmic y axis, where all values are positive.

    Args:
        axes: the panel.
        values: to be shown, in the unit of the axis.
        margin: factor by which the axis goes on beyond them.
    """
    _log_axis(axes, "y", values, margin)


def legend(axes: Axes, columns: int = 2) -> None:
    """A legend above the panel, where it covers nothing.

    Args:
        axes: the panel.
        columns: of the legend.
    """
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, columnspacing=1.2, handlelength=1.6)


def mark_extrapolation(axes: Axes, start: float | None, height: float) -> None:
    """The extrapolated region of a panel: a line where the fitted runs end, and all beyond it shaded.

    Args:
        axes: the panel, its x axis set.
        start: largest value that was fitted, in the unit of the x axis; None for no such region.
        height: of the label, as a fraction of the panel: where it is empty.
    """
    if start is None:
        return
    end = axes.get_xlim()[1]
    axes.axvline(start, color=NAIVE, linewidth=0.9, linestyle=":")
    axes.axvspan(start, end, color=NAIVE, alpha=0.08, linewidth=0, zorder=0)
    axes.set_xlim(right=end)
    axes.annotate(
        "extrapolation \u2192", (start, height), xycoords=("data", "axes fraction"), va="center", fontsize=7.5,
        color=NOTE, xytext=(3, 0), textcoords="offset points",
    )  # fmt: skip


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure; the same figure gives the same bytes.

    Args:
        figure: the figure.
        path: of the file; its folder is made if it is not there.

    Returns:
        the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
