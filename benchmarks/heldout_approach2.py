"""Approach 2 of Hoffmann et al. 2022 as a contender: a parabola in log N at each budget, power laws through the minima."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from benchmarks import heldout_power_sums as power_sums
from benchmarks.heldout_cases import Points, Rows, budgets
from benchmarks.heldout_forecasts import CannotForecast, RunForecasts, quantile_ends

FEWEST_SIZES = 4  # of a budget
FEWEST_MINIMA = 4  # a power law with an offset has three constants
DRAWS = 100
NOISE_DRAWS = 20
SEED = 0


def _parabolas(log_n: np.ndarray, log_loss: Float[np.ndarray, "runs draws"]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of parabolas in log N (3, draws), highest power first, and the log N of their extrema."""
    coefficients = np.polyfit(log_n, log_loss, 2)
    return coefficients, -coefficients[1] / (2 * coefficients[0])


def _minima_at(log_c: np.ndarray, minima: Float[np.ndarray, "budgets 3"], points: Points) -> Float[np.ndarray, " runs"]:
    """Log loss of points: that of the frontier at their compute, and the distance in log N from the best size.

    Args:
        log_c: of the budgets.
        minima: log N, log loss and curvature of each.
        points: runs ahead.
    """
    log_n, log_loss, curvature = minima.T
    frontier = power_sums.fit({"c": np.exp(log_c)}, np.exp(log_loss), power_sums.Objective.SQUARES)
    best_n = np.polyval(np.polyfit(log_c, log_n, 1), np.log(points.c))
    return frontier.at(frontier.params, {"c": points.c}) + np.median(curvature) * (np.log(points.n) - best_n) ** 2


def approach2(rows: Rows, points: Points) -> RunForecasts:
    """Power laws of the minima of iso-FLOP parabolas, with the median curvature; residuals are resampled for intervals."""
    number, isoflop = budgets(rows.c)
    if not isoflop:
        raise CannotForecast("not an iso-FLOP table")
    log_n, log_loss, rng = np.log(rows.n), np.log(rows.loss), np.random.default_rng(SEED)
    log_c, minima, residuals = [], [], []
    for budget in np.unique(number):
        inside = number == budget
        if len(np.unique(log_n[inside])) < FEWEST_SIZES:
            continue
        size = log_n[inside]
        (coefficients,), _ = (part.T for part in _parabolas(size, log_loss[inside][:, None]))
        fitted = np.polyval(coefficients, size)
        residual = (log_loss[inside] - fitted) * np.sqrt(len(size) / max(len(size) - 3, 1))
        drawn = fitted[:, None] + np.c_[log_loss[inside] - fitted, rng.choice(residual, (len(size), DRAWS))]
        of_draws, lowest = _parabolas(size, drawn)
        if not (of_draws[0, 0] > 0 and size.min() < lowest[0] < size.max()):
            continue
        kept = (of_draws[0] > 0) & (size.min() < lowest) & (lowest < size.max())
        found = np.stack([lowest, of_draws[2] - of_draws[1] ** 2 / (4 * of_draws[0]), of_draws[0]], axis=1)
        log_c.append(np.log(rows.c[inside]).mean())
        minima.append(np.where(kept[:, None], found, found[0]))
        residuals.append(residual)
    if len(log_c) < FEWEST_MINIMA:
        raise CannotForecast(f"{len(log_c)} budgets have a minimum inside their sizes, and {FEWEST_MINIMA} are needed")
    by_draw = np.stack(minima, axis=1)
    predicted = np.stack([_minima_at(np.array(log_c), of_draw, points) for of_draw in by_draw])
    noise = rng.choice(np.concatenate(residuals), (NOISE_DRAWS, DRAWS, len(points)))
    draws = np.exp(predicted[1:] + noise).reshape(-1, len(points))
    return RunForecasts(np.exp(predicted[0]), quantile_ends(draws))
