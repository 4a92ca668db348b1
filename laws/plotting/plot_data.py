"""The numbers of the figures, in one place for all renderers: matplotlib here, plotly in the report page.

A frame of runs has a row a run: ``run``, ``n`` (parameters), ``d`` (tokens), ``c`` (training FLOPs) and ``loss`` where they
are known, what else the law reads, ``fitted`` (whether the fit saw it), ``residual`` and ``budget``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.base.x64 import float64
from laws.data.curves import Curves, levelled, smoothed
from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.model.variables import CORE, VARIABLES
from laws.plotting.panels import require_optimum
from laws.results.report_parts import ApproachReport
from laws.results.results import FitResult

Frame: TypeAlias = Any  # a pandas frame: type hints of its columns would say less than they cost
FEWEST_SIZES = 3  # sizes of a budget that make a curve
CURVE_POINTS = 100  # of a drawn curve
CURVE_MARGIN = 1.2  # factor by which a curve goes on beyond the sizes of its budget
SHOWN_SHARE, SHOWN_ROOM = 0.98, 1.35  # residuals: the frame holds this share of them, times that
SHOWN_DEVIATIONS = 2.5  # and at least so many standard deviations of a run
SURFACE_POINTS = 96  # of the surface in each direction
SURFACE_MARGIN = 1.5  # factor by which the surface goes on beyond the runs and the best splits
CONTOUR_SHARES = np.linspace(0.03, 0.97, 10)  # of the plane that lies below each contour
COMPUTE_LINES = 5  # lines of equal compute where the runs lie on no budgets
MOST_BUDGETS = 8  # budgets that are told apart by colour
ON_BUDGETS = 0.5  # share of the runs on budgets with enough sizes, from which a table counts as iso-FLOP


def with_residuals_and_budgets(runs: Frame, fitted: FitResult | None) -> Frame:
    """Runs with ``residual``, log of the loss over the law (NaN without one), and ``budget``, numbered by compute.

    Args:
        runs: a row a run; without ``c`` there are no budgets.
        fitted: the fit.
    """
    runs = runs.assign(residual=np.nan)
    if fitted is not None and len(runs) and set(fitted.law.columns) <= set(runs):
        columns = {variable: runs[variable].to_numpy(float) for variable in fitted.law.columns}
        runs["residual"] = np.log(runs["loss"]) - np.log(predicted(fitted, columns))
    if "c" in runs and len(runs):
        runs["budget"] = budget_groups(runs["c"].to_numpy(float))
    return runs


def fitted_runs(fitted: FitResult) -> Frame:
    """The rows that a fit saw."""
    return with_residuals_and_budgets(fitted.data.reset_index().assign(fitted=True), fitted)


def predicted(fitted: FitResult, columns: Mapping[str, Any]) -> Float[np.ndarray, " runs"]:
    """What the law predicts, at arrays of its variables."""
    return np.exp(log_predictions(fitted.law, fitted.predictor.constants[None], dict(columns))[0])


def tokens_bought(fitted: FitResult, compute: Any, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
    """Tokens that some training FLOPs buy at each size, as the fit counts them."""
    with float64():
        return np.asarray(compute / np.exp(fitted.predictor.cost.log_flops_per_token(np.log(n))))


@dataclass(frozen=True)
class BudgetCurve:
    """Loss against size at one compute.

    Args:
        budget: its number, from the smallest.
        compute: median training FLOPs.
        fitted: whether the fit saw any run of it.
        runs: of the budget.
        n, loss: the law's curve; empty without a law that has a compute optimum.
    """

    budget: int
    compute: float
    fitted: bool
    runs: Frame
    n: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]


def budget_curves(runs: Frame, fitted: FitResult | None) -> list[BudgetCurve]:
    """Every budget of at least ``FEWEST_SIZES`` sizes, from the smallest."""
    curves = []
    for budget, members in runs.groupby("budget"):
        if members["n"].nunique() < FEWEST_SIZES:
            continue
        compute, n, loss = float(members["c"].median()), np.empty(0), np.empty(0)
        if fitted is not None and fitted.law.has_compute_optimum:
            n = np.geomspace(members["n"].min() / CURVE_MARGIN, members["n"].max() * CURVE_MARGIN, CURVE_POINTS)
            loss = predicted(fitted, {"n": n, "d": tokens_bought(fitted, compute, n), "c": np.full(len(n), compute)})
        curves.append(BudgetCurve(int(str(budget)), compute, bool(members["fitted"].any()), members, n, loss))
    return curves


def drawn_budgets(curves: list[BudgetCurve], runs: Frame) -> list[BudgetCurve]:
    """At most ``MOST_BUDGETS`` of a table's budgets, evenly spread; none where most runs lie on no budget."""
    if sum(len(curve.runs) for curve in curves) < ON_BUDGETS * len(runs):
        return []
    chosen = np.linspace(0, len(curves) - 1, min(len(curves), MOST_BUDGETS)).round().astype(int)
    return [curves[i] for i in chosen]


def budget_minima(fitted: FitResult | None) -> Frame:
    """Minima of approach 2: ``c``, ``loss``, and ``n`` and ``d``, each with ``_low`` and ``_high``; a row a budget."""
    minima = fitted.report.approaches.get("isoflop_akima", ApproachReport()).minima if fitted else ()
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
    """
    target = (fitted.report.target_flops if fitted else None) or 0.0
    return np.geomspace(runs["c"].min() / below, max(runs["c"].max(), target) * above, points)


def optimum(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> Frame:
    """The compute-optimal ``n``, ``d`` and ``loss``, each with ``_low`` and ``_high``, and ``c``: a row a compute.

    Without resamples, the ends of the intervals are the values.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    predictor = fitted.predictor
    best = predictor.allocation(compute)
    draws = predictor.allocation(compute, draws=True) if len(predictor.draws) else best
    frame = pd.DataFrame({"c": compute})
    for name in ("n", "d", "loss"):
        frame[name] = getattr(best, name)[0]
        frame[f"{name}_low"], frame[f"{name}_high"] = interval(getattr(draws, name), predictor.level)
    return frame


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
    """Loss of the best use of each compute, or of a law of compute alone; None where the law knows neither."""
    if fitted.law.has_compute_optimum:
        best = optimum(fitted, compute)
        loss, low, high = (best[name].to_numpy() for name in ("loss", "loss_low", "loss_high"))
        return LossBand(compute, loss, low, high, of_one_run=False)
    if fitted.law.columns == ("c",):
        return LossBand(compute, *fitted.predictor.losses({"c": compute}), of_one_run=True)
    return None


def naive_power_law(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"] | None:
    """Loss by a power law without offset through the best runs; None where they give none."""
    power_law = fitted.report.baselines.power_law
    return None if power_law is None else power_law.k * compute**-power_law.p


@dataclass(frozen=True)
class LearningCurve:
    """A smoothed training loss that ends at the run's own loss.

    Args:
        run: its row in the frame of runs.
        tokens, loss: along training.
    """

    run: dict[str, Any]
    tokens: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]

    @property
    def compute(self) -> Float[np.ndarray, " points"]:
        """Training FLOPs along training."""
        return self.run["c"] / self.run["d"] * self.tokens


def learning_curves(runs: Frame, curves: Curves | None) -> list[LearningCurve]:
    """The curve of every run that has one, noise of single batches smoothed.

    Args:
        runs: their ``run`` are the names of the curves.
        curves: from ``laws.load_curves``.
    """
    smooth_curves = []
    for run in runs.to_dict("records"):
        if str(run["run"]) not in (curves or {}):
            continue
        log_tokens, log_loss = levelled(*(curves or {})[str(run["run"])], run["loss"])
        grid = np.linspace(log_tokens[0], log_tokens[-1], CURVE_POINTS)
        smooth = smoothed(log_tokens, log_loss, grid)
        known = np.isfinite(smooth)
        smooth_curves.append(LearningCurve(run, np.exp(grid[known]), np.exp(smooth[known])))
    return smooth_curves


@dataclass(frozen=True)
class Residuals:
    """Residuals of runs.

    Args:
        variables: against which they are drawn.
        percent: measured over predicted loss, minus one.
        residual_sd, seed_sd: standard deviations in percent: about the law, and between seeds (None if unknown).
        limit: percent that a frame holds on both sides.
    """

    variables: tuple[str, ...]
    percent: Float[np.ndarray, " runs"]
    residual_sd: float
    seed_sd: float | None
    limit: float

    @property
    def n_outside(self) -> int:
        """Number of runs outside the frame."""
        return int(np.sum(np.abs(self.percent) > self.limit))


def residuals(runs: Frame, fitted: FitResult) -> Residuals:
    """Residuals against n, d, c and what else the law reads.

    Args:
        runs: with ``residual``.
        fitted: the fit.
    """
    read = {*CORE, *fitted.law.columns}
    percent = 100 * np.expm1(runs["residual"].to_numpy(float))
    noise = fitted.report.noise
    limit = max(np.nanquantile(np.abs(percent), SHOWN_SHARE) * SHOWN_ROOM, 100 * SHOWN_DEVIATIONS * noise.deviation)
    return Residuals(
        variables=tuple(variable for variable in VARIABLES if variable in runs and variable in read),
        percent=percent,
        residual_sd=100 * noise.residual,
        seed_sd=100 * noise.seeds if noise.seeds else None,
        limit=float(limit),
    )


@dataclass(frozen=True)
class Surface:
    """A law over the plane of sizes and data.

    Args:
        n, d: parameters and tokens.
        loss: predicted there, data down and sizes across.
        levels: losses whose contours divide the plane evenly, with no more digits than their labels show.
        best: the compute-optimal ``n``, ``d`` and ``loss`` at ``c``, from the smallest compute to the target.
        budgets: computes of the runs, or spread over theirs.
    """

    n: Float[np.ndarray, " sizes"]
    d: Float[np.ndarray, " data"]
    loss: Float[np.ndarray, "data sizes"]
    levels: Float[np.ndarray, " levels"]
    best: Frame
    budgets: Float[np.ndarray, " lines"]


def surface(fitted: FitResult) -> Surface:
    """The surface around the fitted runs and the best splits.

    Raises:
        MissingFigureData: the law has no compute optimum.
    """
    require_optimum(fitted)
    runs = fitted_runs(fitted)
    compute = compute_grid(runs, fitted)
    split = fitted.predictor.allocation(compute)
    best = pd.DataFrame({"c": compute} | {name: getattr(split, name)[0] for name in ("n", "d", "loss")}).dropna()
    n, d = (_around(np.r_[runs[variable], best[variable]]) for variable in ("n", "d"))
    size, data = (grid.ravel() for grid in np.meshgrid(n, d))
    loss = predicted(fitted, {"n": size, "d": data, "c": data / tokens_bought(fitted, 1.0, size)})
    levels = np.unique([float(f"{level:.3g}") for level in np.quantile(loss, CONTOUR_SHARES)])
    budgets = [curve.compute for curve in drawn_budgets(budget_curves(runs, None), runs)]
    lines = np.array(budgets) if budgets else np.geomspace(runs["c"].min(), runs["c"].max(), COMPUTE_LINES)
    return Surface(n, d, loss.reshape(len(d), len(n)), levels, best, lines)


def _around(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " points"]:
    """A logarithmic grid around some values."""
    return np.geomspace(values.min() / SURFACE_MARGIN, values.max() * SURFACE_MARGIN, SURFACE_POINTS)
