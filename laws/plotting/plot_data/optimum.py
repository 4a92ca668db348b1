"""The compute optimum of the figures: by the law with its interval, by approaches 1 and 2, and where it extrapolates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.inference.noise import interval
from laws.plotting.missing import require_optimum
from laws.plotting.plot_data.runs import Frame, tokens_bought
from laws.results.report_parts import ApproachReport
from laws.results.results import FitResult

EXTRAPOLATED = 1.2  # factor beyond the largest fitted compute from which a figure marks extrapolation


def budget_minima(fitted: FitResult | None) -> Frame:
    """Minima of approach 2: ``c``, ``loss``, and ``n`` and ``d``, each with ``_low`` and ``_high``; a row a budget."""
    minima = fitted.report.approaches.get("isoflop_cubic", ApproachReport()).minima if fitted else ()
    columns = ("c", "n", "d", "loss", "low", "high")
    frame = pd.DataFrame([[getattr(m, name) for name in columns] for m in minima], columns=list(columns), dtype=float)
    frame = frame.rename(columns={"low": "n_low", "high": "n_high"}).assign(d_low=np.nan, d_high=np.nan)
    if fitted is not None and len(frame):  # at given compute a smaller model sees more tokens
        frame["d_low"] = tokens_bought(fitted, frame["c"].to_numpy(), frame["n_high"].to_numpy())
        frame["d_high"] = tokens_bought(fitted, frame["c"].to_numpy(), frame["n_low"].to_numpy())
    return frame


def envelope(fitted: FitResult | None) -> Frame:
    """Points of approach 1: ``c``, ``n``, ``d`` and ``loss`` along the envelope of the learning curves."""
    points = fitted.report.approaches.get("envelope", ApproachReport()).points if fitted else None
    return pd.DataFrame({name: (points or {}).get(name, ()) for name in ("c", "n", "d", "loss")}, dtype=float)


def compute_grid(
    runs: Frame, fitted: FitResult | None, below: float = 1.0, above: float = 1.1, points: int = 60
) -> Float[np.ndarray, " points"]:
    """Training FLOPs to draw over: those of the runs, and on to the target of the fit.

    Args:
        runs: with ``c``.
        fitted: the fit.
        below, above: factors by which the ends are moved outwards.
        points: of the grid.

    Returns:
        training FLOPs, evenly spaced in their logarithm.
    """
    target = (fitted.report.target_flops if fitted else None) or 0.0
    return np.geomspace(runs["c"].min() / below, max(runs["c"].max(), target) * above, points)


def extrapolation_start(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> float | None:
    """Largest training FLOPs of the fitted runs, where a grid goes on well beyond them; None where it does not.

    Args:
        fitted: the fit.
        compute: training FLOPs that are drawn, rising.
    """
    end = fitted.report.ranges["c"][1]
    return end if compute[-1] > EXTRAPOLATED * end else None


def optimum(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> Frame:
    """The compute-optimal ``n``, ``d`` and ``loss``, each with ``_low`` and ``_high``, and ``c``: a row a compute.

    Without resamples, the ends of the intervals are the values.

    Args:
        fitted: the fit.
        compute: training FLOPs.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    predictor = fitted.predictor
    best, draws = predictor.forecast_allocation(compute)
    frame = pd.DataFrame({"c": compute})
    for name in ("n", "d", "loss"):
        frame[name] = getattr(best, name)[0]
        frame[f"{name}_low"], frame[f"{name}_high"] = interval(getattr(draws, name), predictor.level)
    return frame


def target_optimum(fitted: FitResult, points: int = 30) -> Frame:
    """The interval of the compute optimum at the target: ``n`` and ``d`` along the line of equal compute.

    Args:
        fitted: the fit.
        points: along the line.

    Returns:
        the optimum itself in the first row, then the line from end to end; empty without an optimum at the target, and
        one row without resamples.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    target = fitted.report.target_flops
    best = optimum(fitted, np.array([target], float)).iloc[0]
    if target is None or not np.isfinite(best["n"]):
        return pd.DataFrame({"n": [], "d": []}, dtype=float)
    n = np.array([best["n"]])
    if np.isfinite([best["n_low"], best["n_high"]]).all() and best["n_low"] < best["n_high"]:
        n = np.r_[n, np.geomspace(best["n_low"], best["n_high"], points)]
    return pd.DataFrame({"n": n, "d": tokens_bought(fitted, target, n)})


@dataclass(frozen=True)
class LossBand:
    """Loss along compute with its interval.

    Args:
        c, loss, low, high: a value a point.
        of_one_run: whether the interval is that of one run, rather than of the law.
    """

    c: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    of_one_run: bool


def loss_band(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> LossBand | None:
    """Loss of the best use of each compute, or of a law of compute alone; None where the law knows neither.

    Args:
        fitted: the fit.
        compute: training FLOPs.
    """
    if fitted.law.has_compute_optimum:
        best = optimum(fitted, compute)
        loss, low, high = (best[name].to_numpy() for name in ("loss", "loss_low", "loss_high"))
        return LossBand(compute, loss, low, high, of_one_run=False)
    if fitted.law.columns == ("c",):
        return LossBand(compute, *fitted.predictor.losses({"c": compute}), of_one_run=True)
    return None


def naive_power_law(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"] | None:
    """Loss by a power law without offset through the best runs; None where they give none.

    Args:
        fitted: the fit.
        compute: training FLOPs.
    """
    power_law = fitted.report.baselines.power_law
    return None if power_law is None else power_law.k * compute**-power_law.p
