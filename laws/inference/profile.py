"""Profile likelihood: how far a constant, or what follows from the constants, can move before the runs object.

All other constants are fitted anew at every step of the way. What the objective gains is measured in units of its own
noise, so that for least squares and a law that is linear in its constants the ends are those of the t interval.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from laws.base.x64 import float64
from laws.estimation.newton import minimise
from laws.estimation.objectives import OBJECTIVES
from laws.inference.clusters import design_effect, effective_runs
from laws.inference.noise import dof_correction, m_estimator_moments
from laws.inference.resampling import DesignFits
from laws.model.coordinates import Coordinates
from laws.model.law import Law

ROUNDS = 10  # of the search for an end
STEP = 1e-5  # of the derivatives of a quantity, in the optimiser's coordinates
STIFF = 30.0  # of the pull towards a value, relative to the curvature that the runs should give
REACH = 2.5  # factor by which a step of the search may go beyond the last point
STEEP = 3.0  # a point so many times beyond the end tells nothing of where it is: halfway is tried next
CLOSE = 0.02  # relative distance from an end at which it is found
STUCK = 1e-3  # relative movement below which a quantity has come to the end of its range
STEPS = 100  # of the optimiser in a round
BETWEEN = (0.25, 0.5, 0.75)  # of the way to each end: further points, to draw the curve
DRAWN = 15  # points of a curve, at most

# Natural constants of many sets -> one number each.
Quantity = Callable[[Float[np.ndarray, "sets params"]], Float[np.ndarray, " sets"]]


@dataclass(frozen=True)
class Profile:
    """The profile of one quantity.

    Args:
        values: where it was brought to, the optimum first.
        roots: square roots of the deviance there, signed: standard deviations of a t distribution.
        dof: degrees of freedom of that.
        logs: whether the roots are nearly linear in the logs of the values.
        between: values and roots on the way to the ends, which are for drawing and have no part in intervals.
    """

    values: Float[np.ndarray, " points"]
    roots: Float[np.ndarray, " points"]
    dof: float
    logs: bool = False
    between: Float[np.ndarray, "2 more"] = field(default_factory=lambda: np.empty((2, 0)))

    def curve(self) -> tuple[Float[np.ndarray, " drawn"], Float[np.ndarray, " drawn"]]:
        """Values and signed roots in order of the values, both rising: of all points at most ``DRAWN``, ends included."""
        values, roots = np.concatenate([[self.values, self.roots], self.between], axis=1)
        order = np.argsort(values, kind="stable")
        values, roots = values[order], roots[order]
        least = 1e-9 * np.ptp(values)
        kept = (np.diff(values, prepend=-np.inf) > least) & (roots >= np.maximum.accumulate(roots))
        values, roots = values[kept], roots[kept]
        chosen = np.unique(np.linspace(0, len(values) - 1, min(DRAWN, len(values))).round().astype(int))
        return values[chosen], roots[chosen]

    def interval(self, level: float) -> tuple[float, float]:
        """Where the deviance crosses the level's; infinite, or zero for a log's lower end, where it was not seen to."""
        cut, ends = float(stdtrit(self.dof, (1 + level) / 2)), []
        for side in (-1, 1):
            order = np.argsort(side * self.roots, kind="stable")
            roots, values = side * self.roots[order], self.values[order]
            end = np.interp(cut, roots, np.log(values) if self.logs else values)
            seen = roots[-1] >= cut * (1 - CLOSE)
            nowhere = 0.0 if self.logs and side < 0 else side * np.inf
            ends.append(float(np.exp(end) if self.logs else end) if seen else nowhere)
        return ends[0], ends[1]


def collinear(law: Law, params: Float[np.ndarray, " params"], centre: Mapping[str, float]) -> tuple[str, ...]:
    """Linear constants whose unit depends on the other constants, as A of A / N^alpha.

    Args:
        law: the law.
        params: its constants, natural units, in order.
        centre: variable -> value at which the units are compared.
    """
    own = {name: value for name, value in zip(law.names, params, strict=True) if name not in law.linear}
    moved = {name: 1.01 * value for name, value in own.items()}
    with float64():  # a law may be written with jax.numpy
        (_, here), (_, there) = law.terms(own, centre), law.terms(moved, centre)
        return tuple(name for name in law.linear if not np.isclose(float(here[name]), float(there[name]), rtol=1e-9))


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


class _Search:
    """The state of the search: what is pulled where, and how strongly."""

    def __init__(self, fits: DesignFits, quantities: Mapping[str, Quantity], logs: frozenset[str]):
        self.coordinates, self.quantities, self.logs = Coordinates.of(fits.law, fits.columns), quantities, logs
        self.names = [name for name in quantities for _ in range(2)]
        self.target, self.stiffness = np.zeros(len(self.names)), np.zeros(len(self.names))

    def value(self, name: str, unconstrained: Float[np.ndarray, "sets params"]) -> Float[np.ndarray, " sets"]:
        """A quantity, on the scale on which it is profiled."""
        with float64(), np.errstate(all="ignore"):
            values = np.asarray(
                self.quantities[name](np.asarray(self.coordinates.to_params(unconstrained))), np.float64
            )
            return np.log(values) if name in self.logs else values

    def slope(self, name: str, unconstrained: Float[np.ndarray, "sets params"]):
        """A quantity and its derivatives, by central differences."""
        size = unconstrained.shape[1]
        step = STEP * np.maximum(np.abs(unconstrained), 1e-2)[:, None, :] * np.eye(size)
        moved = np.concatenate(
            [unconstrained[:, None], unconstrained[:, None] + step, unconstrained[:, None] - step], axis=1
        )
        found = self.value(name, moved.reshape(-1, size)).reshape(len(unconstrained), -1)
        with np.errstate(invalid="ignore"):
            return found[:, 0], (found[:, 1 : 1 + size] - found[:, 1 + size :]) / (2 * np.einsum("bii->bi", step))

    def penalty(self, unconstrained: np.ndarray, index: np.ndarray):
        """A parabola around the target of each problem, for ``laws.estimation.newton.minimise``."""
        at, slope = np.zeros(len(unconstrained)), np.zeros(unconstrained.shape)
        for name in {self.names[k] for k in index}:
            rows = np.array([self.names[k] == name for k in index])
            at[rows], slope[rows] = self.slope(name, unconstrained[rows])
        off, stiffness = at - self.target[index], self.stiffness[index]
        slope = np.where(np.isfinite(slope), slope, 0.0)
        bowl = stiffness[:, None, None] * slope[:, :, None] * slope[:, None, :]
        value = np.where(np.isfinite(off), 0.5 * stiffness * off**2, np.inf)
        return value, (stiffness * np.where(np.isfinite(off), off, 0.0))[:, None] * slope, bowl


def profiles(
    fits: DesignFits,
    residual: Float[np.ndarray, " rows"],
    deviation: float,
    dof: float,
    quantities: Mapping[str, Quantity],
    logs: frozenset[str] = frozenset(),
    level: float = 0.95,
) -> dict[str, Profile]:
    """Profiles of some quantities, out to the ends of their intervals.

    Args:
        fits: the fit of one table.
        residual: leave-one-out residuals, from which the objective's own noise is known.
        deviation: standard deviation of a run's log loss.
        dof: degrees of freedom of that figure.
        quantities: name -> function of the constants.
        logs: names of those that are positive and vary by factors.
        level: as far as which the ends are looked for.

    Source: Venzon and Moolgavkar 1988, Applied Statistics 37 (the profile); Rousseeuw and Ronchetti 1981, and Huber
    1981, section 7.6 (the scale of the deviance of an estimator that is not maximum likelihood); Chandler and Bate 2007,
    Biometrika 94 (the same for clusters).
    """
    search = _Search(fits, quantities, logs)
    law, log_loss, weight = fits.law, fits.log_loss, fits.weight[None]
    options = (fits.objective, fits.delta)
    found = fits.refit(log_loss, np.ones((1, len(fits.run))), fits.params, slopes=True)
    best = minimise(law, fits.columns, log_loss, weight, fits.params, *options)
    with float64():
        optimum = np.asarray(search.coordinates.to_unconstrained(best.params))
    square, curve = _score_moments(fits, residual, deviation)
    unit = max(square / curve, 1e-300)  # of the deviance: twice the gain of the objective per squared deviation
    assert found.slopes is not None
    slopes = found.slopes[0] * np.sqrt(OBJECTIVES[fits.objective].weights(weight[0], log_loss[0]))[:, None]
    weak_prior_precision = np.diag(
        1 / np.maximum(np.abs(optimum[0]), 1.0) ** 2
    )  # what the runs do not see is first tried at its size
    covariance = np.linalg.inv(slopes.T @ slopes * curve**2 / square + weak_prior_precision)
    cut = float(stdtrit(dof, (1 + level) / 2))
    side, count = np.tile([-1.0, 1.0], len(quantities)), 2 * len(quantities)
    at, gradient = zip(*(search.slope(name, optimum) for name in quantities), strict=True)
    at, gradient = np.repeat(np.concatenate(at), 2), np.repeat(np.concatenate(gradient), 2, axis=0)
    expected = np.sqrt(np.einsum("qi,ij,qj->q", gradient, covariance, gradient))
    expected = np.where(expected > 0, expected, 1e-12)
    search.stiffness = STIFF * unit / expected**2
    search.target = at + side * cut * expected * (1 + 1 / STIFF)
    points: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    start, active = np.tile(best.params, (count, 1)), np.isfinite(at)

    def reached(rows: np.ndarray, start: np.ndarray):
        """Constants of some problems under their pull, what became of their quantities, and the roots there."""
        penalty = lambda unconstrained, index: search.penalty(unconstrained, rows[index])
        solved = minimise(law, fits.columns, log_loss, weight, start, *options, STEPS, penalty)
        with float64():
            unconstrained = np.asarray(search.coordinates.to_unconstrained(solved.params))
        gain = solved.value - search.penalty(unconstrained, rows)[0] - best.value[0]
        values = np.array(
            [search.value(search.names[k], one[None])[0] for k, one in zip(rows, unconstrained, strict=True)]
        )
        return solved.params, values, np.sqrt(np.maximum(2 * gain / unit, 0.0))

    for _ in range(ROUNDS):
        rows = np.flatnonzero(active)
        if not len(rows):
            break
        for k, params, value, root in zip(rows, *reached(rows, start[rows]), strict=True):
            if not np.isfinite(value) or not np.isfinite(root):
                active[k] = False
                continue
            before, seen = points[k][-1] if points[k] else (at[k], 0.0)
            still = abs(value - before) <= STUCK * abs(value - at[k]) and abs(root - abs(seen)) <= STUCK * cut
            stuck = still and root < cut
            if abs(value - at[k]) < 0.5 * abs(search.target[k] - at[k]):  # the runs pull harder than was expected
                search.stiffness[k] *= STIFF
                stuck = False
            points[k].append((float(value), float(side[k] * root)))
            if abs(root - cut) <= CLOSE * cut or stuck:
                active[k] = False
                continue
            start[k] = params
            search.target[k] = at[k] + (_next(points[k], at[k], cut) - at[k]) * (1 + 1 / STIFF)
    between: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    rows = np.flatnonzero([len(seen) > 0 for seen in points])
    ends = np.array([_end(points[k], at[k], cut) for k in rows])
    params = np.tile(best.params, (len(rows), 1))
    for share in BETWEEN if len(rows) else ():
        search.target[rows] = at[rows] + share * (ends - at[rows])
        params, values, roots = reached(rows, params)
        for k, value, root in zip(rows, values, roots, strict=True):
            between[k].append((float(value), float(side[k] * root)))
    return {
        name: _profile(at[2 * q], points[2 * q : 2 * q + 2], between[2 * q : 2 * q + 2], dof, name in logs)
        for q, name in enumerate(quantities)
    }


def _outwards(points: list[tuple[float, float]], at: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and sizes of the roots on one side, from the optimum on."""
    value, root = (np.array(column) for column in zip((at, 0.0), *points, strict=True))
    root, order = np.abs(root), np.argsort(np.abs(root), kind="stable")
    return value[order], root[order]


def _end(points: list[tuple[float, float]], at: float, cut: float) -> float:
    """Where the deviance crosses the level's, or the furthest that was seen."""
    value, root = _outwards(points, at)
    return float(np.interp(cut, root, value))


def _next(points: list[tuple[float, float]], at: float, cut: float) -> float:
    """Where to look for the end: between the points on its two sides, or further out."""
    value, root = _outwards(points, at)
    if root[-1] > cut:
        far = int(np.searchsorted(root, cut))
        if root[far] > STEEP * cut:
            return float((value[far - 1] + value[far]) / 2)
        return float(np.interp(cut, root, value))
    return at + (value[-1] - at) * min(1.02 * cut / max(root[-1], 1e-12), REACH)


def _profile(at: float, points: list[list], between: list[list], dof: float, logs: bool) -> Profile:
    back = np.exp if logs else np.asarray
    values, roots = (np.array(column) for column in zip((at, 0.0), *points[0], *points[1], strict=True))
    more = np.array([*between[0], *between[1]], np.float64).reshape(-1, 2).T
    more = more[:, np.isfinite(more).all(axis=0)]
    return Profile(back(values), roots, dof, logs, np.stack([back(more[0]), more[1]]))
