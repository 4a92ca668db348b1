"""Compute-optimal sizes and losses of many budgets as a table, the law of the frontier beside the surfaces."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.forecasting.mixture import Predictor
from laws.forecasting.prediction import disagree
from laws.inference.noise import interval


def budget_frame(predictor: Predictor, compute: Float[np.ndarray, " budgets"]) -> pd.DataFrame:
    """A row a budget: see ``FitResult.optimal``.

    Args:
        predictor: of the fit.
        compute: training FLOPs.
    """
    point, draws = predictor.forecast_allocation(compute)
    frame = pd.DataFrame(index=pd.Index(compute, name="compute"))
    for name in ("n", "d", "loss", "a", "b"):
        frame[name] = getattr(point, name)[0]
        if len(predictor.draws):
            low, high = interval(getattr(draws, name), predictor.level)
            frame[f"{name}_ci_lower"], frame[f"{name}_ci_upper"] = low, high
    low, high = interval(predictor.scattered(np.log(draws.loss), {"c": compute}), predictor.level)
    frame["loss_run_ci_lower"], frame["loss_run_ci_upper"] = low, high
    if predictor.frontier is not None and len(predictor.draws):
        _add_frontier(frame, predictor.frontier, compute)
    frame["n_without_optimum"] = np.sum(~np.isfinite(draws.n), axis=0) if len(predictor.draws) else 0
    return frame


def _add_frontier(frame: pd.DataFrame, frontier: Predictor, compute: Float[np.ndarray, " budgets"]) -> None:
    """Adds what the frontier forecasts; intervals of the loss widen to hold both where the two are apart.

    Args:
        frame: of the budgets, changed here.
        frontier: its predictor.
        compute: training FLOPs.
    """
    columns = {"c": compute}
    log_loss = frontier.log_losses(columns)
    low, high = interval(np.exp(log_loss), frontier.level)
    run_low, run_high = interval(frontier.scattered(log_loss, columns), frontier.level)
    apart = disagree((frame["loss_ci_lower"].to_numpy(), frame["loss_ci_upper"].to_numpy()), (low, high))
    for name, ends in (("loss_ci", (low, high)), ("loss_run_ci", (run_low, run_high))):
        lower, upper = f"{name}_lower", f"{name}_upper"
        frame[lower] = np.where(apart, np.fmin(frame[lower], ends[0]), frame[lower])
        frame[upper] = np.where(apart, np.fmax(frame[upper], ends[1]), frame[upper])
    frame["frontier_loss"] = frontier.central_losses(columns, log_loss)
    frame["frontier_loss_ci_lower"], frame["frontier_loss_ci_upper"] = low, high
