"""Profile likelihood of constants and of what follows from them: deviance against value, all other constants fitted anew.

What the objective loses is measured in units of its own noise, so that for least squares and a law that is linear in its
constants the ends are those of the t interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from laws.base.x64 import float64
from laws.estimation.newton import minimise
from laws.estimation.objectives import OBJECTIVES
from laws.inference.clusters import design_effect, effective_runs
from laws.inference.noise import dof_correction, m_estimator_moments
from laws.inference.profile_search import CLOSE, EndSearch, Point, Quantity
from laws.inference.resampling import DesignFits
from laws.model.coordinates import Coordinates
from laws.model.law import Law

# Numerical: neither moves an end of an interval.
DRAWN = 15  # points of a curve, at most
PERTURBATION = 1.01  # factor of the other constants under which a linear constant must keep its unit


@dataclass(frozen=True)
class Profile:
    """The profile of one quantity.

    Args:
        values: where it was brought to, the optimum first.
        roots: square roots of the deviance there, signed: standard deviations of a t distribution.
        dof: degrees of freedom of that.
        log_scaled: whether the roots are nearly linear in the logs of the values.
        between: values and roots on the way to the ends, which are for drawing and have no part in intervals.
    """

    values: Float[np.ndarray, " points"]
    roots: Float[np.ndarray, " points"]
    dof: float
    log_scaled: bool = False
    between: Float[np.ndarray, "2 more"] = field(default_factory=lambda: np.empty((2, 0)))

    def curve(self) -> tuple[Float[np.ndarray, " drawn"], Float[np.ndarray, " drawn"]]:
        """Values and signed roots in order of the values, both rising: of all points at most ``DRAWN``, ends included."""
        values, roots = np.concatenate([[self.values, self.roots], self.between], axis=1)
        order = np.argsort(values, kind="stable")
        values, roots = values[order], roots[order]
        least = 1e-9 * np.ptp(values)
        rising = (np.diff(values, prepend=-np.inf) > least) & (roots >= np.maximum.accumulate(roots))
        values, roots = values[rising], roots[rising]
        chosen = np.unique(np.linspace(0, len(values) - 1, min(DRAWN, len(values))).round().astype(int))
        return values[chosen], roots[chosen]

    def interval(self, level: float) -> tuple[float, float]:
        """Where the deviance crosses the level's; infinite, or zero for a log's lower end, where it was not seen to."""
        cut, ends = float(stdtrit(self.dof, (1 + level) / 2)), []
        for side in (-1, 1):
            order = np.argsort(side * self.roots, kind="stable")
            roots, values = side * self.roots[order], self.values[order]
            if roots[-1] < cut * (1 - CLOSE):
                ends.append(0.0 if self.log_scaled and side < 0 else side * np.inf)
                continue
            end = np.interp(cut, roots, np.log(values) if self.log_scaled else values)
            ends.append(float(np.exp(end) if self.log_scaled else end))
        return ends[0], ends[1]


def collinear(law: Law, params: Float[np.ndarray, " params"], centre: Mapping[str, float]) -> tuple[str, ...]:
    """Linear constants whose size means nothing without the other constants, as A of A / N^alpha.

    Args:
        law: the law.
        params: its constants.
        centre: variable -> geometric mean of the runs.
    """
    nonlinear = {name: value for name, value in zip(law.names, params, strict=True) if name not in law.linear}
    moved = {name: PERTURBATION * value for name, value in nonlinear.items()}
    with float64():  # a law may be written with jax.numpy
        (_, units), (_, moved_units) = law.terms(nonlinear, centre), law.terms(moved, centre)
        same = {name: np.isclose(float(units[name]), float(moved_units[name]), rtol=1e-9) for name in law.linear}
    return tuple(name for name in law.linear if not same[name])


def _score_moments(fits: DesignFits, residual: Float[np.ndarray, " rows"], deviation: float) -> tuple[float, float]:
    """Variance of the summed scores and mean curvature of the objective, both over the sum of its weights.

    The variance is that of independent rows, by their leave-one-out residuals, times the design effect of runs.

    Args:
        fits: the fit of one table.
        residual: leave-one-out residuals.
        deviation: standard deviation of the noise of one row.
    """
    options, size = (fits.objective, fits.delta), np.array([deviation])
    objective = OBJECTIVES[fits.objective]
    weights = objective.weights(fits.weight, fits.log_loss[0])
    square, curvature = m_estimator_moments(residual[None], size, *options, fits.config, fits.weight, weights)
    correction = dof_correction(len(fits.law.names), effective_runs(fits.run), size, *options, fits.config)
    scores = weights * objective.psi(fits.predicted - fits.log_loss, fits.delta)
    return float(square[0] * design_effect(scores, fits.run, correction)[0]), float(curvature[0])


def profiles(
    fits: DesignFits,
    residual: Float[np.ndarray, " rows"],
    deviation: float,
    dof: float,
    quantities: Mapping[str, Quantity],
    log_scaled: frozenset[str] = frozenset(),
    level: float = 0.95,
) -> dict[str, Profile]:
    """Profiles of some quantities, out to the ends of their intervals.

    Args:
        fits: the fit of one table.
        residual: leave-one-out residuals, from which the objective's own noise is known.
        deviation: standard deviation of the noise of one row.
        dof: degrees of freedom of that figure.
        quantities: name -> function of the constants.
        log_scaled: names of those that are positive and vary by factors.
        level: as far as which the ends are looked for.

    Source: Venzon and Moolgavkar 1988, Applied Statistics 37 (the profile); Huber 1981, Robust Statistics
    (M-estimates, whose deviance is not on the scale of a likelihood's); Chandler and Bate 2007, Biometrika 94 (its
    adjustment for clusters).
    """
    best = minimise(fits.law, fits.columns, fits.log_loss, fits.weight[None], fits.params, fits.objective, fits.delta)
    square, curvature = _score_moments(fits, residual, deviation)
    unit = max(square / curvature, 1e-300)  # of the deviance: twice the loss of the objective per squared deviation
    root = float(stdtrit(dof, (1 + level) / 2))
    covariance = _covariance(fits, best.params, square / curvature**2)
    search = EndSearch(fits, quantities, log_scaled, best, covariance, unit, root)
    search.find_ends()
    sides = zip(search.estimate, search.side, search.points, search.intermediate_points(), strict=True)
    lower_and_upper = [(estimate, _signed(points, side), _signed(more, side)) for estimate, side, points, more in sides]
    return {
        name: _profile(lower_and_upper[2 * q], lower_and_upper[2 * q + 1], dof, name in log_scaled)
        for q, name in enumerate(quantities)
    }


def _covariance(
    fits: DesignFits, params: Float[np.ndarray, "1 params"], variance: float
) -> Float[np.ndarray, "params params"]:
    """Covariance of the constants in the optimiser's coordinates; what the runs do not see has its own size.

    Args:
        fits: the fit of one table.
        params: its constants.
        variance: of the constants per inverse product of the slopes.
    """
    refitted = fits.refit(fits.log_loss, np.ones((1, len(fits.run))), fits.params, slopes=True)
    assert refitted.slopes is not None
    weights = OBJECTIVES[fits.objective].weights(fits.weight, fits.log_loss[0])
    slopes = refitted.slopes[0] * np.sqrt(weights)[:, None]
    with float64():
        optimum = np.asarray(Coordinates.of(fits.law, fits.columns).to_unconstrained(params))[0]
    weak_prior_precision = np.diag(1 / np.maximum(np.abs(optimum), 1.0) ** 2)
    return np.linalg.inv(slopes.T @ slopes / variance + weak_prior_precision)


def _signed(points: list[Point], side: float) -> list[Point]:
    return [(value, side * root) for value, root in points]


def _profile(lower: tuple, upper: tuple, dof: float, log_scaled: bool) -> Profile:
    """A profile from the points of its two sides: estimate, points of the search, points between."""
    natural = np.exp if log_scaled else np.asarray
    points = [(lower[0], 0.0), *lower[1], *upper[1]]
    values, roots = (np.array(column) for column in zip(*points, strict=True))
    between = np.array([*lower[2], *upper[2]], np.float64).reshape(-1, 2).T
    between = between[:, np.isfinite(between).all(axis=0)]
    return Profile(natural(values), roots, dof, log_scaled, np.stack([natural(between[0]), between[1]]))
