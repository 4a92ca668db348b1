"""A roll-out: what the law would have forecast of the largest budget had the runs ended at a smaller one."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.forecasting.rolling_origin import (
    SPARE,
    Form,
    distance_variable,
    forecast_errors,
    forecast_origins,
    refit_below_origins,
    weak_prior_precision,
)
from laws.inference.noise import residual_scale
from laws.inference.resampling import DesignFits

ORIGINS = 12  # drawn, at most


def best_at_the_top(along: Float[np.ndarray, " rows"], fits: DesignFits) -> Bool[np.ndarray, " rows"]:
    """The rows of the best size at the largest budget: of one run, or of its repeats with other seeds."""
    group = budget_groups(along)
    top = np.flatnonzero(group == group.max())
    keys = np.stack([fits.columns[variable][top] for variable in sorted(fits.columns)], axis=1)
    _, size = np.unique(keys, axis=0, return_inverse=True)
    size = size.ravel()
    mean = np.bincount(size, np.exp(fits.log_loss[0, top])) / np.bincount(size)
    found = np.zeros(len(along), bool)
    found[top[size == mean.argmin()]] = True
    return found


def backtest(fits: DesignFits, seen: Bool[np.ndarray, " rows"], level: float) -> dict[str, Any] | None:
    """Forecasts of the best run at the largest budget, at its own size and data, from the runs up to each smaller one.

    Their intervals are of one run and under the law alone: a t distribution around the linearised law, its scatter
    known from the runs up to the cut.

    Args:
        fits: the law fitted to the rows with weight.
        seen: those rows; the others are held out, and may hold the largest budget.
        level: of the intervals.

    Returns:
        ``variable`` along which runs are cut off, ``target`` (its value and the law's columns at the largest budget),
        ``measured``, the mean loss there, and ``cuts``: ``at`` (the largest value that was fitted), ``runs``, ``loss``,
        ``interval``, and ``seen``, whether the target was among the fitted runs. None if too few runs lie below.
    """
    law = fits.law
    variable = distance_variable(law, fits.columns)
    along, parts = fits.columns[variable], len(law.names)
    kept = []
    for inside in forecast_origins(along[seen], fits.run[seen], parts + SPARE, ORIGINS):
        kept.append(np.zeros(len(along), bool))
        kept[-1][np.flatnonzero(seen)[inside]] = True
    if not kept:
        return None
    kept.append(seen)
    at = best_at_the_top(along, fits)
    found = refit_below_origins(fits, kept, Form(law.name, law.name))
    assert found.slopes is not None
    predicted, prior = log_predictions(law, found.params, fits.columns), weak_prior_precision(fits)
    first, said = int(np.flatnonzero(at)[0]), []
    for inside, natural_says, slopes in zip(kept, predicted, found.slopes, strict=True):
        root = np.sqrt(fits.weight[inside])
        error = ((fits.log_loss[0] - natural_says)[inside] * root)[None]
        deviation = residual_scale(error, parts, fits.objective, fits.delta) + 1e-12
        new = slopes[None, first : first + 1]
        known = (slopes[inside] * root[:, None])[None]
        unsure = forecast_errors(known, new, deviation, fits.objective, fits.delta, prior)
        dof = max(int(inside.sum()) - parts, 1)
        reach = float(stdtrit(dof, (1 + level) / 2) * np.sqrt(np.sum(unsure**2) + deviation[0] ** 2))
        log_loss = float(natural_says[first])
        said.append(
            {
                "at": float(along[inside].max()),
                "runs": len(np.unique(fits.run[inside])),
                "loss": float(np.exp(log_loss)),
                "interval": [float(np.exp(log_loss - reach)), float(np.exp(log_loss + reach))],
                "seen": bool(np.all(inside[at])),
            }
        )
    target = {name: float(fits.columns[name][first]) for name in dict.fromkeys((variable, *law.columns))}
    measured = float(np.exp(fits.log_loss[0, at]).mean())
    return {"variable": variable, "target": target, "measured": measured, "level": level, "cuts": said}
