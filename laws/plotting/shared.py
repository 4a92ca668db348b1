"""What figures of a fit share: its runs, its curves and bands along compute, where its runs end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from laws.approaches.isoflop_profiles import ON_BUDGETS
from laws.data.curves import levelled, smoothed
from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.inference.noise import interval
from laws.plotting.style import NAIVE
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_DRAWN, MOST_DRAWN = 3, 8  # sizes of a budget whose curve is drawn, and such budgets


def rows_of(fitted: FitResult) -> dict[str, Any]:
    """The fitted rows: role -> values, ``loss``, and ``run``, their identities."""
    data = fitted.report.data
    values = {variable: np.array(column) for variable, column in data.values.items()}
    return values | {"loss": np.array(data.loss), "run": list(data.run)}


def residual_of(fitted: FitResult) -> Float[np.ndarray, " rows"]:
    """Log of every fitted loss over what the law says of it."""
    rows = rows_of(fitted)
    columns = {variable: rows[variable] for variable in fitted.law.columns}
    return np.log(rows["loss"]) - log_predictions(fitted.law, fitted.predictor.constants[None], columns)[0]


def drawn_budgets(rows: dict[str, Any]) -> tuple[Int[np.ndarray, " rows"], list[int]]:
    """Budget of each row, and the budgets that hold enough sizes to be a curve, at most eight spread over all."""
    group = budget_groups(rows["c"])
    sizes = {int(g): len(np.unique(rows["n"][group == g])) for g in np.unique(group)}
    full = [g for g, count in sizes.items() if count >= FEWEST_DRAWN]
    if np.isin(group, full).mean() < ON_BUDGETS:
        return group, []
    if len(full) > MOST_DRAWN:
        full = [full[i] for i in np.unique(np.linspace(0, len(full) - 1, MOST_DRAWN).round().astype(int))]
    return group, full


def bands(fitted: FitResult, compute: Float[np.ndarray, " points"]) -> dict[str, tuple[np.ndarray, ...]]:
    """n, d and loss of the law's optimum along compute: value, lower and upper end."""
    predictor = fitted.predictor
    point = predictor.allocation(compute)
    out = {name: (getattr(point, name)[0],) * 3 for name in ("n", "d", "loss")}
    if len(predictor.draws):
        spread = predictor.allocation(compute, draws=True)
        for name in out:
            low, high = interval(getattr(spread, name), predictor.level)
            out[name] = (out[name][0], low, high)
    return out


def reach(fitted: FitResult) -> Float[np.ndarray, " points"]:
    """Computes to draw: the fitted range, and on to the target."""
    low, high = fitted.report.ranges["c"]
    return np.geomspace(low, max(high, fitted.report.target_flops or high) * 1.1, 60)


def mark_end(axes: Axes, fitted: FitResult, compute: Float[np.ndarray, " points"], height: float) -> None:
    """A line where the fitted runs end, if more is drawn; its label stands at a height where the panel is empty."""
    end = fitted.report.ranges["c"][1]
    if compute[-1] > 1.2 * end:
        axes.axvline(end, color=NAIVE, linewidth=0.9, linestyle=":")
        axes.annotate(
            "extrapolation \u2192", (end, height), xycoords=("data", "axes fraction"), va="center", fontsize=7.5,
            color="#666666", xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip


def smooth_curve(
    tokens: np.ndarray, loss: np.ndarray, final: float, points: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy curve as a smooth one that ends at the run's measured loss."""
    log_tokens, log_loss = levelled(tokens, loss, final)
    at = np.linspace(log_tokens[0], log_tokens[-1], points)
    found = smoothed(log_tokens, log_loss, at)
    known = np.isfinite(found)
    return np.exp(at[known]), np.exp(found[known])
