"""The roll-out: the largest budget forecast from each smaller one, beside what was measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laws.model.variables import VARIABLES
from laws.plotting.style import LAW, SECOND, SYMBOLS, legend, log_x, panels, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMED = 0.75  # share of the intervals, the narrowest, that the frame holds
NEAR = 1.0  # and forecasts within so many times its height of its middle


def _frame(kept: dict[str, Any]) -> tuple[float, float]:
    """Ends of the loss axis: around what was measured and most of the intervals, but not the widest."""
    ends = np.array([cut["interval"] for cut in kept["cuts"]])
    narrow = np.argsort(np.ptp(ends, axis=1))[: max(2, int(FRAMED * len(ends)))]
    shown = np.r_[ends[narrow].ravel(), kept["measured"]]
    off = np.array([cut["loss"] for cut in kept["cuts"]])
    shown = np.r_[shown, off[np.abs(off - np.median(shown)) < NEAR * np.ptp(shown)]]
    return float(shown.min() - 0.08 * np.ptp(shown)), float(shown.max() + 0.08 * np.ptp(shown))


def backtest(fitted: FitResult) -> Figure | None:
    """Forecasts with intervals against the largest compute that was fitted; the last may have seen its target."""
    kept = fitted.report.get("rollout")
    if not kept:
        return None
    cuts, measured = kept["cuts"], kept["measured"]
    figure, (axes,) = panels(1)
    for seen, face, said in ((False, LAW, "forecast"), (True, "white", "fitted with it")):
        shown = [cut for cut in cuts if cut["seen"] == seen]
        if not shown:
            continue
        loss, ends = np.array([cut["loss"] for cut in shown]), np.array([cut["interval"] for cut in shown])
        axes.errorbar(
            [cut["at"] for cut in shown], loss, yerr=np.abs(ends.T - loss), fmt="o", color=LAW, markersize=5,
            markerfacecolor=face, capsize=3, elinewidth=1.2, zorder=3, label=f"{said}, {kept['level']:.0%} interval",
        )  # fmt: skip
    axes.plot([cut["at"] for cut in cuts], [cut["loss"] for cut in cuts], color=LAW, linewidth=0.9, zorder=2)
    axes.axhline(measured, color=SECOND, linestyle="--", linewidth=1.2, label="measured", zorder=1)
    low, high = _frame(kept)
    axes.set_ylim(low, high)
    for cut in cuts:  # a forecast outside the frame: which way, and where
        if not low <= cut["loss"] <= high:
            above = cut["loss"] > high
            axes.annotate(
                f"{cut['loss']:.3g}", (cut["at"], high if above else low), (5, -3 if above else 3), fontsize=7.5,
                textcoords="offset points", va="top" if above else "bottom",
            )  # fmt: skip
            axes.plot(cut["at"], high if above else low, "^" if above else "v", color=LAW, markersize=6, clip_on=False)
    log_x(axes, np.array([cut["at"] for cut in cuts]), 1.3)
    at = f"${VARIABLES[kept['variable']].symbol}$ = {power(kept['target'][kept['variable']])}"
    observable = fitted.observable.partition(" (")[0]
    axes.set(xlabel=f"largest {SYMBOLS[kept['variable']]} of the fitted runs", ylabel=f"{observable} at {at}")
    legend(axes)
    return figure
