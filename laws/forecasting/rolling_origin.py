"""Rolling-origin scores: a form fitted below each of several computes, and the log density it gave the runs above."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from laws.base.x64 import float64
from laws.data.grouping import budget_groups
from laws.estimation.estimate import log_predictions
from laws.estimation.objectives import OBJECTIVES
from laws.estimation.refit import RefitResult, restriction
from laws.inference.clusters import design_effect, effective_runs, run_sums
from laws.inference.noise import NORMAL, dof_correction, m_estimator_moments, residual_dof, residual_scale
from laws.inference.resampling import DesignFits
from laws.model.coordinates import Coordinates
from laws.model.law import Law

ORIGINS = 6  # forecast origins, at most
INFLATIONS = np.r_[0.0, np.geomspace(1e-4, 1.0, 33)]  # relative error per e-fold of distance


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
    """The quantity along which a backtest goes: compute, or what the law reads first."""
    return "c" if "c" in columns else law.columns[0]


def forecast_origins(
    along: Float[np.ndarray, " rows"], run: np.ndarray, least: int, most: int = ORIGINS
) -> list[Bool[np.ndarray, " rows"]]:
    """The rows below each forecast origin, smallest first.

    Args:
        along: the quantity along which is forecast, as the FLOPs of each row.
        run: the run of each row.
        least: fewest runs below an origin; at least one budget is left above it.
        most: most origins, spread evenly.

    Returns:
        a mask of the rows for each origin.
    """
    group = budget_groups(along)
    origins = [group <= last for last in range(group.max())]
    origins = [rows for rows in origins if len(np.unique(run[rows])) >= least]
    chosen = np.unique(np.linspace(0, len(origins) - 1, min(most, len(origins))).round().astype(int))
    return [origins[i] for i in chosen]


def forecast_errors(
    fitted: Float[np.ndarray, "tables rows params"],
    new: Float[np.ndarray, "tables more params"],
    variance: Float[np.ndarray, " tables"],
    prior: Float[np.ndarray, "tables params params"],
) -> Float[np.ndarray, "tables more params"]:
    """What forecasts of log losses miss by because the constants are uncertain: W, whose W W^T is the covariance.

    The noise of the new runs, independent, comes on top.

    Args:
        fitted, new: derivatives of the fitted and of the forecast log losses, in the optimiser's coordinates.
        variance: of the constants per inverse product of the slopes (``constants_variance``).
        prior: precision of the coordinates before any run was seen.
    """
    precision = np.swapaxes(fitted, 1, 2) @ fitted / variance[:, None, None]
    root = np.linalg.cholesky(precision + prior)
    return np.swapaxes(np.linalg.solve(root, np.swapaxes(new, 1, 2)), 1, 2)


def fitted_noise(
    fits: DesignFits, error: Float[np.ndarray, "tables rows"], run: Int[np.ndarray, " rows"], constants: int
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"], float]:
    """Noise of one row among fitted rows, the variance it gives the constants, and its degrees of freedom.

    Args:
        fits: whose objective and settings they are.
        error: residuals of the rows that were fitted, times the square root of their weights.
        run: number of the run of each of these rows.
        constants: fitted.

    Returns:
        standard deviation; variance of the constants per inverse product of the slopes, which is larger than the
        noise's where the objective is not least squares and where rows of one run err together; degrees of freedom.
    """
    options = (fits.objective, fits.delta)
    deviation = residual_scale(error, run, constants, *options, fits.config) + 1e-12
    square, curvature = m_estimator_moments(NORMAL, deviation, *options, fits.config)
    correction = dof_correction(constants, effective_runs(run), deviation, *options, fits.config)
    effect = design_effect(OBJECTIVES[fits.objective].psi(-error, fits.delta), run, correction)
    return deviation, effect * square / curvature**2, residual_dof(run, constants)


def _scores(
    fits: DesignFits,
    inside: Bool[np.ndarray, " rows"],
    predicted: Float[np.ndarray, "tables rows"],
    slopes: Float[np.ndarray, "tables rows params"],
    distance: Float[np.ndarray, " rows"],
    prior: Float[np.ndarray, "tables params params"],
) -> Float[np.ndarray, "tables inflations"]:
    """Log densities of the runs beyond one origin: multivariate t around the forecast, every run counted once.

    Args:
        fits: whose runs they are.
        inside: the rows that were fitted.
        predicted, slopes: of the fit to them, at all rows.
        distance: log of how far each row lies beyond the fitted ones.
        prior: precision of the coordinates before any run was seen.
    """
    error = (fits.log_loss - predicted) * np.sqrt(fits.weight)
    slopes = slopes * np.sqrt(fits.weight)[:, None]
    deviation, variance, dof = fitted_noise(fits, error[:, inside], fits.run[inside], slopes.shape[2])
    beyond = np.stack([error, np.broadcast_to(distance, error.shape), *np.moveaxis(slopes, 2, 0)])[..., ~inside]
    sums, _, rows = run_sums(beyond, fits.run[~inside])
    missed, far, *new = sums / rows  # means over the rows of each run, whose errors are nearly one
    unsure = forecast_errors(slopes[:, inside], np.stack(new, axis=2), variance, prior)
    # The covariance W W^T + noise^2 in the directions of W, few however many the runs, and beside them.
    directions, sizes, _ = np.linalg.svd(unsure, full_matrices=False)
    noise = (deviation**2)[:, None]
    pair = np.stack([missed, far], axis=2)
    along = np.swapaxes(directions, 1, 2) @ pair
    beside = pair - directions @ along
    inverse = np.swapaxes(along, 1, 2) @ (along / (noise + sizes**2)[..., None])
    inverse = inverse + np.swapaxes(beside, 1, 2) @ beside / noise[..., None]
    missed_quadratic, cross, reach = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    size = missed.shape[1]
    volume = np.sum(np.log1p(sizes**2 / noise), axis=1) + size * np.log(noise[:, 0])
    added = INFLATIONS[None] ** 2
    quadratic = missed_quadratic[:, None] - added * cross[:, None] ** 2 / (1 + added * reach[:, None])
    volume = volume[:, None] + np.log1p(added * reach[:, None])
    constant = gammaln((dof + size) / 2) - gammaln(dof / 2) - size / 2 * np.log(dof * np.pi)
    return constant - 0.5 * volume - (dof + size) / 2 * np.log1p(quadratic / dof)


def refit_below_origins(fits: DesignFits, origins: list[Bool[np.ndarray, " rows"]], form: Form) -> RefitResult:
    """One form refitted to the rows below each forecast origin of each table, with its slopes.

    Args:
        fits: the fits of the form to whole tables.
        origins: the rows below each origin.
        form: which constants are held and tied.

    Returns:
        (tables x origins) problems, those of one table together.
    """
    counts = np.tile(np.array(origins, np.float64), (len(fits.params), 1))
    repeat = lambda values: np.repeat(values, len(origins), axis=0)
    return fits.refit(repeat(fits.log_loss), counts, repeat(fits.params), hold=form.zero, tie=form.tie, slopes=True)


def weak_prior_precision(fits: DesignFits) -> Float[np.ndarray, "tables params params"]:
    """Precision of the optimiser's coordinates before any run was seen: none is far beyond its size."""
    with float64():
        unconstrained = np.asarray(Coordinates.of(fits.law, fits.columns).to_unconstrained(fits.params))
    return (
        np.eye(unconstrained.shape[1])
        / (fits.config.prior_scale * np.maximum(np.abs(unconstrained), 1.0))[:, None] ** 2
    )


def rolling_origin_score(
    fits: DesignFits, origins: list[Bool[np.ndarray, " rows"]], form: Form
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Score and growth of one form (see ``Member``).

    Args:
        fits: the form fitted to all the rows, from where the fits below each cut start.
        origins: the rows up to each cut.
        form: its restriction.
    """
    tables, rows = fits.log_loss.shape
    if not origins:
        return np.full(tables, np.nan), np.zeros(tables)
    refits = refit_below_origins(fits, origins, form)
    assert refits.slopes is not None
    free_mask, directions = restriction(fits.law, form.zero, form.tie)
    slopes = (refits.slopes @ directions[:, free_mask]).reshape(tables, len(origins), rows, -1)
    predicted = log_predictions(fits.law, refits.params, fits.columns).reshape(tables, len(origins), rows)
    prior = weak_prior_precision(fits)[:, free_mask][:, :, free_mask]
    along = fits.columns[distance_variable(fits.law, fits.columns)]
    scores = np.mean(
        [
            _scores(fits, inside, predicted[:, k], slopes[:, k], np.log(along / along[inside].max()), prior)
            for k, inside in enumerate(origins)
        ],
        axis=0,
    )
    scores = np.where(np.isfinite(scores), scores, -1e300)
    best = scores.argmax(axis=1)
    inflates = scores.max(axis=1) - fits.config.inflation_evidence > scores[:, 0]
    return scores[:, 0], np.where(inflates, INFLATIONS[best], 0.0)
