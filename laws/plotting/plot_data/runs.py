"""Runs of the figures: with residuals, along budgets of equal compute, along training.

A frame of runs has a row a run: ``run``, ``n`` (parameters), ``d`` (tokens), ``c`` (training FLOPs) and ``loss`` where they
are known, what else the law reads, ``fitted`` (whether the fit saw it), ``residual`` and ``budget``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from laws.base.x64 import float64
from laws.data.curves import Curves, levelled, smoothed
from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.model.variables import CORE, VARIABLES
from laws.results.results import FitResult

Frame: TypeAlias = Any  # a pandas frame: type hints of its columns would say less than they cost
FEWEST_SIZES = 3  # sizes of a budget that make a curve
CURVE_POINTS = 100  # of a drawn curve
CURVE_MARGIN = 1.2  # factor by which a curve goes on beyond the sizes of its budget
SHOWN_SHARE = 0.98  # share of the residuals that the frame holds
SHOWN_MARGIN = 1.35  # factor by which the axis exceeds that share
SHOWN_DEVIATIONS = 2.5  # the frame holds at least so many standard deviations of a run
MOST_BUDGETS = 8  # budgets that are told apart by colour
ON_BUDGETS = 0.5  # share of the runs on budgets with enough sizes, from which a table counts as iso-FLOP


def with_residuals_and_budgets(runs: Frame, fitted: FitResult | None) -> Frame:
    """Log residuals (log of the loss over the law, NaN without one) and budgets, numbered by compute, of runs.

    Args:
        runs: a row a run; without ``c`` there are no budgets.
        fitted: the fit.

    Returns:
        the runs with columns ``residual`` and ``budget``.
    """
    runs = runs.assign(residual=np.nan)
    if fitted is not None and len(runs) and set(fitted.law.columns) <= set(runs):
        columns = {variable: runs[variable].to_numpy(float) for variable in fitted.law.columns}
        runs["residual"] = np.log(runs["loss"]) - np.log(predicted(fitted, columns))
    if "c" in runs and len(runs):
        runs["budget"] = budget_groups(runs["c"].to_numpy(float))
    return runs


def fitted_runs(fitted: FitResult) -> Frame:
    """The rows that a fit saw, with ``residual`` and ``budget``."""
    return with_residuals_and_budgets(fitted.data.reset_index().assign(fitted=True), fitted)


def predicted(fitted: FitResult, columns: Mapping[str, Any]) -> Float[np.ndarray, " runs"]:
    """Predicted losses, in the unit of the fit's observable.

    Args:
        fitted: the fit.
        columns: arrays of the law's variables.
    """
    return np.exp(log_predictions(fitted.law, fitted.predictor.constants[None], dict(columns))[0])


def tokens_bought(fitted: FitResult, compute: Any, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
    """Tokens that a compute buys at each size, as the fit counts FLOPs.

    Args:
        fitted: the fit.
        compute: training FLOPs, one or an array of the shape of ``n``.
        n: parameters.

    Returns:
        D in tokens.
    """
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


def budget_compute(runs: Frame) -> dict[int, float]:
    """Median training FLOPs of each budget, by its number.

    Args:
        runs: with ``budget`` and ``c``.
    """
    return {int(str(budget)): float(median) for budget, median in runs.groupby("budget")["c"].median().items()}


def budget_curves(runs: Frame, fitted: FitResult | None) -> list[BudgetCurve]:
    """Iso-FLOP curves of every budget of at least ``FEWEST_SIZES`` sizes, from the smallest.

    Args:
        runs: with ``budget``.
        fitted: the fit; without one the curves are empty.
    """
    curves, computes = [], budget_compute(runs)
    for number, members in runs.groupby("budget"):
        if members["n"].nunique() < FEWEST_SIZES:
            continue
        budget, n, loss = int(str(number)), np.empty(0), np.empty(0)
        compute = computes[budget]
        if fitted is not None and fitted.law.has_compute_optimum:
            n = np.geomspace(members["n"].min() / CURVE_MARGIN, members["n"].max() * CURVE_MARGIN, CURVE_POINTS)
            loss = predicted(fitted, {"n": n, "d": tokens_bought(fitted, compute, n), "c": np.full(len(n), compute)})
        curves.append(BudgetCurve(budget, compute, bool(members["fitted"].any()), members, n, loss))
    return curves


def drawn_budgets(curves: list[BudgetCurve], runs: Frame) -> list[BudgetCurve]:
    """At most ``MOST_BUDGETS`` of a table's budgets, evenly spread; none where most runs lie on no budget.

    Args:
        curves: of all budgets.
        runs: of the table.
    """
    if sum(len(curve.runs) for curve in curves) < ON_BUDGETS * len(runs):
        return []
    chosen = np.linspace(0, len(curves) - 1, min(len(curves), MOST_BUDGETS)).round().astype(int)
    return [curves[i] for i in chosen]


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
    """Learning curves of the runs that have one, noise of single batches smoothed.

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
    """Residuals in percent against n, d, c and what else the law reads.

    Args:
        runs: with ``residual``.
        fitted: the fit.
    """
    read = {*CORE, *fitted.law.columns}
    percent = 100 * np.expm1(runs["residual"].to_numpy(float))
    noise = fitted.report.noise
    limit = max(np.nanquantile(np.abs(percent), SHOWN_SHARE) * SHOWN_MARGIN, 100 * SHOWN_DEVIATIONS * noise.deviation)
    return Residuals(
        variables=tuple(variable for variable in VARIABLES if variable in runs and variable in read),
        percent=percent,
        residual_sd=100 * noise.residual,
        seed_sd=100 * noise.seeds if noise.seeds else None,
        limit=float(limit),
    )
