"""Search for the ends of profiles: quantities are pulled to targets while all constants are fitted anew.

A pull is a parabola around the target, added to the objective. It is far stiffer than the runs are expected to be, so the
quantity comes to rest near its target and what the objective has lost there is the deviance.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from laws.base.x64 import float64
from laws.estimation.newton import MinimizerResult, minimise
from laws.inference.resampling import DesignFits
from laws.model.coordinates import Coordinates

# Numerical: the course of the search; its ends are those of the interval to within what is said here.
MAX_ROUNDS = 10  # of the search for an end
STEP = 1e-5  # of the derivatives of a quantity, in the optimiser's coordinates
STIFFNESS = 30.0  # of a pull, relative to the curvature that the runs should give
MAX_REACH = 2.5  # factor by which a step of the search may go beyond the last point
STEEP = 3.0  # a point with so many times the root that is sought says nothing of where it is: halfway is tried next
CLOSE = 0.02  # relative distance from an end at which it is found
STUCK = 1e-3  # relative movement below which a quantity has come to the end of its range
STEPS = 100  # of the optimiser in a round
BETWEEN = (0.25, 0.5, 0.75)  # of the way to each end: further points, to draw the curve

# Constants of many fits, natural units -> one number each.
Quantity = Callable[[Float[np.ndarray, "sets params"]], Float[np.ndarray, " sets"]]
# Value of a quantity and root of the deviance there, positive.
Point = tuple[float, float]


class EndSearch:
    """Search for both ends of the profiles of some quantities: two problems a quantity, the lower end first.

    Args:
        fits: the fit of one table.
        quantities: name -> function of the constants.
        log_scaled: names of those that are profiled on a logarithmic scale.
        best: the optimum.
        covariance: of the constants, in the optimiser's coordinates, from which the first targets are taken.
        unit: of the deviance: twice the gain of the objective per squared standard deviation.
        root: of the deviance at the ends that are sought.
    """

    def __init__(
        self,
        fits: DesignFits,
        quantities: Mapping[str, Quantity],
        log_scaled: frozenset[str],
        best: MinimizerResult,
        covariance: Float[np.ndarray, "params params"],
        unit: float,
        root: float,
    ):
        self.fits, self.quantities, self.log_scaled, self.best = fits, quantities, log_scaled, best
        self.unit, self.root = unit, root
        self.coordinates = Coordinates.of(fits.law, fits.columns)
        self.names = [name for name in quantities for _ in range(2)]
        self.side = np.tile([-1.0, 1.0], len(quantities))
        with float64():
            optimum = np.asarray(self.coordinates.to_unconstrained(best.params))
        values, gradients = zip(*(self.gradient(name, optimum) for name in quantities), strict=True)
        self.estimate, gradient = np.repeat(np.concatenate(values), 2), np.repeat(np.concatenate(gradients), 2, axis=0)
        error = np.sqrt(np.einsum("qi,ij,qj->q", gradient, covariance, gradient))
        error = np.where(error > 0, error, 1e-12)
        self.stiffness = STIFFNESS * unit / error**2
        self.target = self.estimate + self.side * root * error * (1 + 1 / STIFFNESS)
        self.points: list[list[Point]] = [[] for _ in self.names]

    def value(self, name: str, unconstrained: Float[np.ndarray, "sets params"]) -> Float[np.ndarray, " sets"]:
        """A quantity, on the scale on which it is profiled."""
        with float64(), np.errstate(all="ignore"):
            params = np.asarray(self.coordinates.to_params(unconstrained))
            values = np.asarray(self.quantities[name](params), np.float64)
            return np.log(values) if name in self.log_scaled else values

    def gradient(
        self, name: str, unconstrained: Float[np.ndarray, "sets params"]
    ) -> tuple[Float[np.ndarray, " sets"], Float[np.ndarray, "sets params"]]:
        """A quantity and its derivatives, by central differences."""
        count, size = unconstrained.shape
        step = STEP * np.maximum(np.abs(unconstrained), 1e-2)[:, None, :] * np.eye(size)
        centre = unconstrained[:, None]
        moved = np.concatenate([centre, centre + step, centre - step], axis=1)
        values = self.value(name, moved.reshape(-1, size)).reshape(count, -1)
        with np.errstate(invalid="ignore"):
            difference = values[:, 1 : 1 + size] - values[:, 1 + size :]
            return values[:, 0], difference / (2 * np.einsum("bii->bi", step))

    def penalty(self, unconstrained: Float[np.ndarray, "sets params"], problems: Int[np.ndarray, " sets"]):
        """The pull of each problem: values, gradients and Hessians, for ``laws.estimation.newton.minimise``."""
        value, gradient = np.zeros(len(unconstrained)), np.zeros(unconstrained.shape)
        for name in {self.names[k] for k in problems}:
            rows = np.array([self.names[k] == name for k in problems])
            value[rows], gradient[rows] = self.gradient(name, unconstrained[rows])
        distance, stiffness = value - self.target[problems], self.stiffness[problems]
        gradient = np.where(np.isfinite(gradient), gradient, 0.0)
        hessian = stiffness[:, None, None] * gradient[:, :, None] * gradient[:, None, :]
        energy = np.where(np.isfinite(distance), 0.5 * stiffness * distance**2, np.inf)
        return energy, (stiffness * np.where(np.isfinite(distance), distance, 0.0))[:, None] * gradient, hessian

    def pulled(
        self, problems: Int[np.ndarray, " some"], starts: Float[np.ndarray, "some params"]
    ) -> tuple[Float[np.ndarray, "some params"], Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
        """Constants of some problems under their pulls, the values of their quantities, and the roots there."""
        fits = self.fits
        solved = minimise(
            fits.law, fits.columns, fits.log_loss, fits.weight[None], starts, fits.objective, fits.delta, STEPS,
            lambda unconstrained, index: self.penalty(unconstrained, problems[index]),
        )  # fmt: skip
        with float64():
            unconstrained = np.asarray(self.coordinates.to_unconstrained(solved.params))
        gain = solved.value - self.penalty(unconstrained, problems)[0] - self.best.value[0]
        rows = zip(problems, unconstrained, strict=True)
        values = np.array([self.value(self.names[k], row[None])[0] for k, row in rows])
        return solved.params, values, np.sqrt(np.maximum(2 * gain / self.unit, 0.0))

    def find_ends(self) -> None:
        """Rounds of pulls, each towards where the root that is sought should lie, until it is met or out of reach."""
        starts, active = np.tile(self.best.params, (len(self.names), 1)), np.isfinite(self.estimate)
        for _ in range(MAX_ROUNDS):
            problems = np.flatnonzero(active)
            if not len(problems):
                return
            params, values, roots = self.pulled(problems, starts[problems])
            for k, row, value, root in zip(problems.tolist(), params, values.tolist(), roots.tolist(), strict=True):
                active[k] = bool(np.isfinite([value, root]).all()) and self._goes_on(k, value, root)
                if active[k]:
                    starts[k] = row

    def _goes_on(self, k: int, value: float, root: float) -> bool:
        """Keeps a point and sets the next target of a problem; False where its end is found or out of reach."""
        estimate = self.estimate[k]
        last_value, last_root = self.points[k][-1] if self.points[k] else (estimate, 0.0)
        stuck = (
            abs(value - last_value) <= STUCK * abs(value - estimate)
            and abs(root - last_root) <= STUCK * self.root
            and root < self.root
        )
        if abs(value - estimate) < 0.5 * abs(self.target[k] - estimate):  # the runs are stiffer than was expected
            self.stiffness[k] *= STIFFNESS
            stuck = False
        self.points[k].append((value, root))
        if abs(root - self.root) <= CLOSE * self.root or stuck:
            return False
        self.target[k] = estimate + (self._next_target(k) - estimate) * (1 + 1 / STIFFNESS)
        return True

    def intermediate_points(self) -> list[list[Point]]:
        """Further points on the way to each end."""
        between: list[list[Point]] = [[] for _ in self.names]
        problems = np.flatnonzero([len(points) > 0 for points in self.points])
        ends = np.array([self._end(k) for k in problems.tolist()])
        params = np.tile(self.best.params, (len(problems), 1))
        for share in BETWEEN if len(problems) else ():
            self.target[problems] = self.estimate[problems] + share * (ends - self.estimate[problems])
            params, values, roots = self.pulled(problems, params)
            for k, value, root in zip(problems.tolist(), values.tolist(), roots.tolist(), strict=True):
                between[k].append((value, root))
        return between

    def _outwards(self, k: int) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Values and roots of the points of a problem, from the optimum outwards."""
        values, roots = (np.array(column) for column in zip((self.estimate[k], 0.0), *self.points[k], strict=True))
        order = np.argsort(roots, kind="stable")
        return values[order], roots[order]

    def _end(self, k: int) -> float:
        """Where the root that is sought lies, or the furthest point."""
        values, roots = self._outwards(k)
        return float(np.interp(self.root, roots, values))

    def _next_target(self, k: int) -> float:
        """Where to look for the end: between the points on its two sides, or further out."""
        values, roots = self._outwards(k)
        if roots[-1] > self.root:
            beyond = int(np.searchsorted(roots, self.root))
            if roots[beyond] > STEEP * self.root:
                return float((values[beyond - 1] + values[beyond]) / 2)
            return self._end(k)
        reach = min(1.02 * self.root / max(roots[-1], 1e-12), MAX_REACH)
        return self.estimate[k] + (values[-1] - self.estimate[k]) * reach
