"""The loss surface over sizes and data, with the compute optimum and the lines of equal compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.plotting.missing import require_optimum
from laws.plotting.plot_data.optimum import compute_grid, extrapolation_start
from laws.plotting.plot_data.runs import Frame, budget_curves, drawn_budgets, fitted_runs, predicted, tokens_bought
from laws.results.results import FitResult

SURFACE_POINTS = 97  # of the surface in each direction; a stride of 2, 3 or 4 ends on the last
SURFACE_MARGIN = 1.5  # factor by which the surface goes on beyond the runs and the best splits
CONTOUR_SHARES = np.linspace(0.03, 0.97, 10)  # of the plane that lies below each contour
COMPUTE_LINES = 5  # lines of equal compute where the runs lie on no budgets


@dataclass(frozen=True)
class Surface:
    """A law over the plane of sizes and data.

    Args:
        n, d: parameters and tokens.
        loss: predicted there, data down and sizes across.
        levels: losses whose contours divide the plane evenly, with no more digits than their labels show.
        best: the compute-optimal ``n``, ``d`` and ``loss`` at ``c``, from the smallest compute to the target, and
            ``extrapolated``: whether that is more compute than any fitted run had, where the target is well beyond.
        equal_compute: training FLOPs of the runs' budgets, or spread over theirs -> tokens at each size.
    """

    n: Float[np.ndarray, " sizes"]
    d: Float[np.ndarray, " data"]
    loss: Float[np.ndarray, "data sizes"]
    levels: Float[np.ndarray, " levels"]
    best: Frame
    equal_compute: dict[float, Float[np.ndarray, " sizes"]]


def surface(fitted: FitResult, runs: Frame | None = None) -> Surface:
    """The loss surface around the runs and the best splits.

    Args:
        fitted: the fit.
        runs: that it has to hold; by default those of the fit.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    seen_by_fit = fitted_runs(fitted)
    compute = compute_grid(seen_by_fit, fitted)
    split, _ = fitted.predictor.forecast_allocation(compute)
    best = pd.DataFrame({"c": compute} | {name: getattr(split, name)[0] for name in ("n", "d", "loss")}).dropna()
    start = extrapolation_start(fitted, compute)
    best["extrapolated"] = best["c"] > (np.inf if start is None else start * (1 + 1e-9))  # rounding of the grid
    held = seen_by_fit if runs is None else runs
    n, d = (_around(np.r_[held[variable], best[variable]]) for variable in ("n", "d"))
    size, data = (grid.ravel() for grid in np.meshgrid(n, d))
    loss = predicted(fitted, {"n": size, "d": data, "c": data / tokens_bought(fitted, 1.0, size)})
    levels = np.unique([float(f"{level:.3g}") for level in np.quantile(loss, CONTOUR_SHARES)])
    budgets = [curve.compute for curve in drawn_budgets(budget_curves(held, None), held)]
    computes = budgets or np.geomspace(held["c"].min(), held["c"].max(), COMPUTE_LINES).tolist()
    lines = {float(c): tokens_bought(fitted, c, n) for c in computes}
    return Surface(n, d, loss.reshape(len(d), len(n)), levels, best, lines)


def _around(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " points"]:
    """A logarithmic grid around some values."""
    return np.geomspace(values.min() / SURFACE_MARGIN, values.max() * SURFACE_MARGIN, SURFACE_POINTS)
