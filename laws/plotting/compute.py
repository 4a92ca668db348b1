"""What a fitted law says of the best use of compute: the loss it promises, and the size and data that reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from laws.data.curves import Curves
from laws.plotting.panels import Panels, require_optimum
from laws.plotting.shared import bands, mark_end, reach, rows_of, smooth_curve
from laws.plotting.style import INK, LAW, SECOND, SYMBOLS, THIRD, legend, log_ticks, log_x
from laws.results.report import ApproachReport
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_against_compute(fitted: FitResult, panels: Panels, curves: Curves | None = None) -> list[Axes]:
    """Every run, the learning curves behind it, the envelope that the law draws, and the naive power law."""
    require_optimum(fitted)
    data = rows_of(fitted)
    (axes,) = panels(1, 3.4)
    compute = reach(fitted)
    rows = {str(run): row for row, run in enumerate(data["run"])}
    drawn = [(rows[run], curve) for run, curve in (curves or {}).items() if run in rows]
    for row, (tokens, loss) in drawn:
        seen, smooth = smooth_curve(tokens, loss, data["loss"][row])
        axes.plot(data["c"][row] / data["d"][row] * seen, smooth, color="#C4C4C4", linewidth=0.8, zorder=1)
    band = bands(fitted, compute)["loss"]
    axes.fill_between(compute, band[1], band[2], color=LAW, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(
        compute, band[0], color=LAW, label=f"law at its optimum, {fitted.report.intervals.level:.0%} interval", zorder=4
    )
    naive = fitted.report.baselines.power_law
    if naive:
        line = naive.k * compute**-naive.p
        axes.plot(
            compute, line, color=SECOND, linestyle="--", linewidth=1.2, label="power law without offset", zorder=3
        )
    axes.plot(data["c"], data["loss"], "o", color=INK, markersize=3, alpha=0.75, label="finished runs", zorder=3)
    envelope = fitted.report.approaches.get("envelope", ApproachReport()).points
    if envelope and drawn:
        axes.plot(
            envelope["c"], envelope["loss"], ".", color=THIRD, markersize=4, label="envelope of the curves", zorder=3
        )
    log_x(axes, np.r_[data["c"], compute])
    top = np.quantile(data["loss"], 0.98)
    if drawn:
        axes.plot([], [], color="#C4C4C4", linewidth=1, label="learning curves")
    axes.set_ylim(min(band[1].min(), data["loss"].min()) * 0.985, top * 1.08)
    axes.set(xlabel=SYMBOLS["c"], ylabel=fitted.observable)
    mark_end(axes, fitted, compute, 0.95)
    legend(axes)
    return [axes]


def optimum_against_compute(fitted: FitResult, panels: Panels) -> list[Axes]:
    """N* and D* against compute with bands, beside the minima of approach 2 and the points of approach 1."""
    require_optimum(fitted)
    plots = panels(2, 3.6)
    compute, report = reach(fitted), fitted.report
    found, approaches = bands(fitted, compute), report.approaches
    minima = approaches.get("isoflop_akima", ApproachReport()).minima
    envelope = approaches.get("envelope", ApproachReport()).points
    for axes, name, exponent, sign in zip(plots, ("n", "d"), ("a", "b"), (1, -1), strict=True):
        value, low, high = found[name]
        axes.fill_between(compute, low, high, color=LAW, alpha=0.22, linewidth=0)
        ends = report.intervals.derived.get(exponent)
        said = f"${exponent}={report.derived[exponent]:.3f}$" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
        axes.plot(compute, value, color=LAW, label=f"{fitted.law.name}: {said}", zorder=3)
        if envelope:
            axes.plot(envelope["c"], envelope[name], ".", color=THIRD, markersize=4, label="approach 1: envelope")
        if minima:
            centre = np.array([getattr(m, name) for m in minima])
            ratios = np.array([[m.n / m.low, m.high / m.n][::sign] for m in minima]).T
            errors = np.stack([centre * (1 - 1 / ratios[0]), centre * (ratios[1] - 1)])
            axes.errorbar(
                [m.c for m in minima], centre, yerr=np.maximum(errors, 0), fmt="D", color=SECOND, markersize=4,
                capsize=2.5, elinewidth=1, label="approach 2: minima of the budgets", zorder=4,
            )  # fmt: skip
        axes.set_yscale("log")
        shown = np.concatenate([low, high, [getattr(m, name) for m in minima], value])
        shown = shown[np.isfinite(shown)]
        axes.set_ylim(shown.min() / 1.6, shown.max() * 1.6)
        log_ticks(axes.yaxis, float(shown.min()), float(shown.max()))
        log_x(axes, compute)
        axes.set(
            xlabel=SYMBOLS["c"],
            ylabel=f"compute-optimal {SYMBOLS[name].replace(f'${name.upper()}$', f'${name.upper()}^*$')}",
        )
        mark_end(axes, fitted, compute, 0.05)
        legend(axes, 1)
    return plots
