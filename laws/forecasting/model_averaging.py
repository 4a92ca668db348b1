"""Uncertainty of the form: the law beside nested and rival ones, weighed by how each would have forecast its own runs.

For every compute below which enough runs lie, each form is fitted to the runs up to there and forecasts the others:
its score is the log density it gave them. A form whose errors in this backtest grow with distance by more than its
constants and the runs' noise explain is widened by as much beyond the data.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from laws.estimation.estimate import log_predictions, starting_points
from laws.estimation.refit import refit, restriction
from laws.forecasting.member import Member
from laws.forecasting.rolling_origin import Form, distance_variable, forecast_origins, rolling_origin_score
from laws.inference.resampling import DesignFits
from laws.model.forms import LAWS
from laws.model.law import Law

PROMISING = 8  # starts of a rival that are followed
WIDE = 0.1  # Huber's threshold, in log loss, from which they are


CHINCHILLA = Form("chinchilla", "chinchilla")
TIED = Form("chinchilla, alpha = beta", "chinchilla", tie=("alpha", "beta"))
FLOORLESS = Form("chinchilla, E = 0", "chinchilla", zero=("E",))
KAPLAN = Form("kaplan", "kaplan")
RIVALS: dict[str, tuple[Form, ...]] = {
    "chinchilla": (TIED, FLOORLESS, KAPLAN),
    "chinchilla_tied": (CHINCHILLA, FLOORLESS, KAPLAN),
    "kaplan": (CHINCHILLA, TIED, FLOORLESS),
    **{f"power_{r}": (Form(f"power_offset_{r}", f"power_offset_{r}"),) for r in "ndc"},
    **{f"power_offset_{r}": (Form(f"power_offset_{r}, E = 0", f"power_offset_{r}", zero=("E",)),) for r in "ndc"},
}


def _start(form: Form, law: Law, fits: DesignFits) -> Float[np.ndarray, " params"]:
    """Constants near the best of a rival on the tables' mean: the most promising of its grid, followed."""
    log_loss = fits.log_loss.mean(axis=0)
    if law is fits.law:
        grid = form.restricted(law, fits.params[:1])
    else:
        grid = form.restricted(law, starting_points(law, fits.columns, np.exp(log_loss), fits.weight))
    off = np.abs(log_predictions(law, grid, fits.columns) - log_loss).sum(axis=1)
    grid = grid[np.argsort(np.where(np.isfinite(off), off, np.inf))[:PROMISING]]
    for delta in (WIDE, fits.delta):
        fitted = refit(
            law, fits.columns, log_loss[None], fits.weight[None], grid, fits.objective, delta,
            hold=form.zero, tie=form.tie,
        )  # fmt: skip
        grid = fitted.params
    return grid[np.argmin(np.where(np.isfinite(fitted.value), fitted.value, np.inf))]


def _fitted(form: Form, fits: DesignFits) -> DesignFits | None:
    """A rival fitted to the same tables; None if it reads a column that they have not."""
    law = fits.law if form.law == fits.law.name else LAWS[form.law]
    if not set(law.columns) <= set(fits.columns):
        return None
    start = np.tile(_start(form, law, fits), (len(fits.params), 1))
    of_form = replace(fits, law=law, params=start)
    fitted = of_form.refit(fits.log_loss, np.ones((1, len(fits.run))), start, hold=form.zero, tie=form.tie)
    return replace(of_form, params=fitted.params)


def _resampled(
    form: Form, fits: DesignFits, drawn: Float[np.ndarray, "tables draws rows"], weight: Float[np.ndarray, " tables"]
) -> Float[np.ndarray, "tables draws params"]:
    """Constants of a rival, refitted to its own predictions with drawn errors: as many as its weight asks for, repeated."""
    count = drawn.shape[1]
    config = fits.config
    needed = np.clip(np.ceil(weight * count / config.full_draws_weight), config.least_member_draws, count).astype(int)
    table, draw = np.nonzero(np.arange(count) < needed[:, None])
    start = fits.params[table]
    refitted = fits.refit(
        fits.predicted[table] + drawn[table, draw], np.ones((1, drawn.shape[2])), start, hold=form.zero, tie=form.tie
    )
    first = np.r_[0, np.cumsum(needed)[:-1]]
    params = np.where(np.isfinite(refitted.params), refitted.params, start)
    return params[first[:, None] + np.arange(count) % needed[:, None]]


def model_average(
    fits: DesignFits,
    draws: Float[np.ndarray, "tables draws params"],
    drawn: Float[np.ndarray, "tables draws rows"],
) -> list[Member]:
    """The law and its rivals, weighed; the law comes first.

    Args:
        fits: the law's fits.
        draws: its resampled constants.
        drawn: errors as repetitions of the runs might have had them, with which the rivals are resampled.
    """
    config = fits.config
    known = () if fits.law.fixed or fits.law.origin else RIVALS.get(fits.law.name, ())
    rivals = [(form, form_fits) for form in known if (form_fits := _fitted(form, fits)) is not None]
    fitted = [(Form(fits.law.name, fits.law.name), fits), *rivals]
    least = (
        max(int(restriction(form_fits.law, form.zero, form.tie)[0].sum()) for form, form_fits in fitted)
        + config.spare_runs
    )
    origins = forecast_origins(fits.columns[distance_variable(fits.law, fits.columns)], fits.run, least)
    rolled = [rolling_origin_score(form_fits, origins, form) for form, form_fits in fitted]
    scores = np.stack([score for score, _ in rolled], axis=1)
    before = np.r_[config.law_weight, np.full(len(rivals), (1 - config.law_weight) / max(len(rivals), 1))]
    share = softmax(np.log(before) + np.where(np.isfinite(scores), scores, 0.0), axis=1)
    weights = (1 - config.equal_weight) * share + config.equal_weight / len(fitted)
    size = [np.sqrt(np.mean((form_fits.log_loss - form_fits.predicted) ** 2, axis=1)) for _, form_fits in fitted]
    worse = [error / np.maximum(size[0], 1e-300) for error in size]
    few = drawn[:, : config.member_draws]
    return [
        Member(
            label=form.label,
            law=form_fits.law,
            params=form_fits.params,
            draws=draws if k == 0 else _resampled(form, form_fits, few * worse[k][:, None, None], weights[:, k]),
            score=scores[:, k],
            extrapolation_inflation=rolled[k][1],
            weight=weights[:, k],
        )
        for k, (form, form_fits) in enumerate(fitted)
    ]
