"""Rolling-origin scores: a form fitted below each of several computes, and the log density it gave the runs above."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammaln

from laws.base.x64 import float64
from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.estimation.refit import RefitResult, restriction
from laws.inference.noise import NORMAL, m_estimator_moments, residual_scale
from laws.inference.resampling import DesignFits
from laws.model.coordinates import Coordinates
from laws.model.law import Law

ORIGINS = 6  # forecast origins, at most
SPARE = 2  # runs that a cut has beyond the constants of the largest form, at least
INFLATIONS = np.r_[0.0, np.geomspace(1e-4, 1.0, 33)]  # relative error per e-fold of distance
EVIDENCE = 1.0  # gain in score that growth must bring for its one constant (Akaike)
PRIOR_SCALE = 1.0  # standard deviation of the optimiser's coordinates before any run was seen, relative to their size


@dataclass(frozen=True)
class Form:
    """A law, or a law with a restriction.

    Args:
        label: for people and ``fit.json``.
        law: a name of ``laws.model.forms.LAWS``.
        zero: constants held at zero.
        tie: constants held equal.
    """

    label: str
    law: str
    zero: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()

    def restricted(self, law: Law, params: Float[np.ndarray, "*batch params"]) -> Float[np.ndarray, "*batch params"]:
        """Constants brought to the restriction."""
        params = np.array(params, np.float64)
        index = [law.names.index(name) for name in self.tie]
        if index:
            params[..., index] = params[..., index].mean(axis=-1, keepdims=True)
        params[..., [law.names.index(name) for name in self.zero]] = 0.0
        return params


def distance_variable(law: Law, columns: dict[str, np.ndarray]) -> str:
    """The quantity along which a roll-out goes: compute, or what the law reads first."""
    return "c" if "c" in columns else law.columns[0]


def forecast_origins(
    along: Float[np.ndarray, " rows"], run: np.ndarray, least: int, most: int = ORIGINS
) -> list[Bool[np.ndarray, " rows"]]:
    """The rows up to each cut, smallest first: those that leave enough runs below and some above, at most ``most``."""
    group = budget_groups(along)
    kept = [group <= last for last in range(group.max())]
    kept = [rows for rows in kept if len(np.unique(run[rows])) >= least]
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
    return [kept[i] for i in chosen]


def forecast_errors(
    seen: Float[np.ndarray, "tables rows params"],
    new: Float[np.ndarray, "tables more params"],
    deviation: Float[np.ndarray, " tables"],
    objective: str,
    delta: float,
    prior: Float[np.ndarray, "tables params params"],
) -> Float[np.ndarray, "tables more params"]:
    """What forecasts of log losses miss by because the constants are uncertain: W, whose W W^T is the covariance.

    The noise of the new runs, independent, comes on top.

    Args:
        seen, new: derivatives of the fitted and of the forecast log losses, in the optimiser's coordinates.
        deviation: standard deviation of a run's log loss.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold.
        prior: precision of the coordinates before any run was seen.
    """
    square, curve = m_estimator_moments(NORMAL, deviation, objective, delta)
    precision = (curve**2 / square)[:, None, None] * np.swapaxes(seen, 1, 2) @ seen
    root = np.linalg.cholesky(precision + prior)
    return np.swapaxes(np.linalg.solve(root, np.swapaxes(new, 1, 2)), 1, 2)


def _scores(inside, log_loss, predicted, slopes, distance, weight, objective, delta, prior):
    """Log densities of the runs beyond one cut, (tables, growths): multivariate t around the forecast."""
    dof = max(int(inside.sum()) - slopes.shape[2], 1)
    error = (log_loss - predicted) * np.sqrt(weight)
    deviation = residual_scale(error[:, inside], slopes.shape[2], objective, delta) + 1e-12
    slopes = slopes * np.sqrt(weight)[:, None]
    unsure = forecast_errors(slopes[:, inside], slopes[:, ~inside], deviation, objective, delta, prior)
    missed, far = error[:, ~inside], np.broadcast_to(distance[~inside], error[:, ~inside].shape)
    # The covariance W W^T + noise^2 in the directions of W, few however many the runs, and beside them.
    directions, sizes, _ = np.linalg.svd(unsure, full_matrices=False)
    noise = (deviation**2)[:, None]
    pair = np.stack([missed, far], axis=2)
    along = np.swapaxes(directions, 1, 2) @ pair
    beside = pair - directions @ along
    inverse = np.swapaxes(along, 1, 2) @ (along / (noise + sizes**2)[..., None])
    inverse = inverse + np.swapaxes(beside, 1, 2) @ beside / noise[..., None]
    own, cross, reach = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    size = missed.shape[1]
    volume = np.sum(np.log1p(sizes**2 / noise), axis=1) + size * np.log(noise[:, 0])
    added = INFLATIONS[None] ** 2
    quadratic = own[:, None] - added * cross[:, None] ** 2 / (1 + added * reach[:, None])
    volume = volume[:, None] + np.log1p(added * reach[:, None])
    constant = gammaln((dof + size) / 2) - gammaln(dof / 2) - size / 2 * np.log(dof * np.pi)
    return constant - 0.5 * volume - (dof + size) / 2 * np.log1p(quadratic / dof)


def refit_below_origins(fits: DesignFits, kept: list[Bool[np.ndarray, " rows"]], form: Form) -> RefitResult:
    """One form refitted to the rows up to each cut of each table, (tables x cuts) problems, with its slopes."""
    counts = np.tile(np.array(kept, np.float64), (len(fits.params), 1))
    repeat = lambda values: np.repeat(values, len(kept), axis=0)
    return fits.refit(repeat(fits.log_loss), counts, repeat(fits.params), hold=form.zero, tie=form.tie, slopes=True)


def weak_prior_precision(fits: DesignFits) -> Float[np.ndarray, "tables params params"]:
    """Precision of the optimiser's coordinates before any run was seen: none is far beyond its size."""
    with float64():
        unconstrained = np.asarray(Coordinates.of(fits.law, fits.columns).to_unconstrained(fits.params))
    return np.eye(unconstrained.shape[1]) / (PRIOR_SCALE * np.maximum(np.abs(unconstrained), 1.0))[:, None] ** 2


def rolling_origin_score(
    fits: DesignFits, kept: list[Bool[np.ndarray, " rows"]], form: Form
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Score and growth of one form (see ``Member``).

    Args:
        fits: the form fitted to all the rows, from where the fits below each cut start.
        kept: the rows up to each cut.
        form: its restriction.
    """
    tables, rows = fits.log_loss.shape
    if not kept:
        return np.full(tables, np.nan), np.zeros(tables)
    found = refit_below_origins(fits, kept, form)
    assert found.slopes is not None
    free_mask, directions = restriction(fits.law, form.zero, form.tie)
    slopes = (found.slopes @ directions[:, free_mask]).reshape(tables, len(kept), rows, -1)
    predicted = log_predictions(fits.law, found.params, fits.columns).reshape(tables, len(kept), rows)
    prior = weak_prior_precision(fits)[:, free_mask][:, :, free_mask]
    along = fits.columns[distance_variable(fits.law, fits.columns)]
    scores = np.mean(
        [
            _scores(
                rows_in, fits.log_loss, predicted[:, k], slopes[:, k], np.log(along / along[rows_in].max()),
                fits.weight, fits.objective, fits.delta, prior,
            )
            for k, rows_in in enumerate(kept)
        ],
        axis=0,
    )  # fmt: skip
    scores = np.where(np.isfinite(scores), scores, -1e300)
    best = scores.argmax(axis=1)
    inflates = scores.max(axis=1) - EVIDENCE > scores[:, 0]
    return scores[:, 0], np.where(inflates, INFLATIONS[best], 0.0)
