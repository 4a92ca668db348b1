"""Rolling-origin backtest: forecasts of the largest budget, had the runs ended at a smaller one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.forecasting.rolling_origin import (
    Form,
    distance_variable,
    fitted_noise,
    forecast_errors,
    forecast_origins,
    refit_below_origins,
    weak_prior_precision,
)
from laws.inference.resampling import DesignFits

ORIGINS = 12  # drawn, at most


@dataclass(frozen=True)
class BacktestOrigin:
    """A forecast of the largest budget from the runs up to a smaller one.

    Args:
        max_fitted: largest value of the backtest's variable among the fitted runs.
        n_runs: how many runs were fitted.
        value, interval: the forecast of one run.
        target_was_fitted: whether the target was among the fitted runs.
    """

    max_fitted: float
    n_runs: int
    value: float
    interval: tuple[float, float]
    target_was_fitted: bool


@dataclass(frozen=True)
class Backtest:
    """Rolling-origin forecasts of the best size at the largest budget, as it was run.

    Args:
        variable: along which runs were left out, as ``c``.
        target: variable -> value of that run.
        measured: its mean loss.
        level: of the intervals.
        origins: forecasts, from the fewest runs to all.
    """

    variable: str
    target: dict[str, float]
    measured: float
    level: float
    origins: tuple[BacktestOrigin, ...]


def best_at_the_top(along: Float[np.ndarray, " rows"], fits: DesignFits) -> Bool[np.ndarray, " rows"]:
    """The rows of the best size at the largest budget by the fitted law: of one run, or of its repeats.

    The size with the lowest measured loss would be the one with the luckiest noise, and its forecasts too high.
    """
    group = budget_groups(along)
    top = np.flatnonzero(group == group.max())
    keys = np.stack([fits.columns[variable][top] for variable in sorted(fits.columns)], axis=1)
    size = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    chosen = np.zeros(len(along), bool)
    chosen[top[size == size[fits.predicted[0, top].argmin()]]] = True
    return chosen


def backtest(fits: DesignFits, fitted_rows: Bool[np.ndarray, " rows"], level: float) -> Backtest | None:
    """Forecasts of the best size at the largest budget, as it was run, from the runs up to each smaller budget.

    Their intervals are of one run and under the law alone: a t distribution around the linearised law, its residual
    scale taken from the runs up to the origin.

    Args:
        fits: the law fitted to the rows with weight.
        fitted_rows: those rows; the others are held out, and may hold the largest budget.
        level: of the intervals.

    Returns:
        the forecasts; None if too few runs lie below the largest budget.
    """
    law = fits.law
    variable, n_params = distance_variable(law, fits.columns), len(law.names)
    along = fits.columns[variable]
    masks = []
    for below in forecast_origins(
        along[fitted_rows], fits.run[fitted_rows], n_params + fits.config.spare_runs, ORIGINS
    ):
        masks.append(np.zeros(len(along), bool))
        masks[-1][np.flatnonzero(fitted_rows)[below]] = True
    if not masks:
        return None
    masks.append(fitted_rows)
    target_rows = best_at_the_top(along, fits)
    first = int(np.flatnonzero(target_rows)[0])
    refits = refit_below_origins(fits, masks, Form(law.name, law.name))
    assert refits.slopes is not None
    predicted, prior = log_predictions(law, refits.params, fits.columns), weak_prior_precision(fits)
    origins = []
    for mask, log_loss, slopes in zip(masks, predicted, refits.slopes, strict=True):
        root_weight = np.sqrt(fits.weight[mask])
        residual = ((fits.log_loss[0] - log_loss)[mask] * root_weight)[None]
        deviation, variance, dof = fitted_noise(fits, residual, fits.run[mask], n_params)
        target_slopes, fitted_slopes = slopes[None, first : first + 1], (slopes[mask] * root_weight[:, None])[None]
        from_params = forecast_errors(fitted_slopes, target_slopes, variance, prior)
        standard_error = np.sqrt(np.sum(from_params**2) + deviation[0] ** 2)
        half_width = float(stdtrit(dof, (1 + level) / 2) * standard_error)
        point = float(log_loss[first])
        origins.append(
            BacktestOrigin(
                max_fitted=float(along[mask].max()),
                n_runs=len(np.unique(fits.run[mask])),
                value=float(np.exp(point)),
                interval=(float(np.exp(point - half_width)), float(np.exp(point + half_width))),
                target_was_fitted=bool(np.all(mask[target_rows])),
            )
        )
    target = {name: float(fits.columns[name][first]) for name in dict.fromkeys((variable, *law.columns))}
    return Backtest(variable, target, float(np.exp(fits.log_loss[0, target_rows]).mean()), level, tuple(origins))
