"""Gaussian processes as contenders: around the additive law, the coupled law, and what this package forecasts.

Each is a squared-exponential process of standardised log N and log D, by scikit-learn, on the log residuals of what it
stands around.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.stats import norm

from benchmarks import heldout_power_sums as power_sums
from benchmarks.heldout_cases import Points, Rows
from benchmarks.heldout_forecasts import LEVELS, RunForecasts, student_ends
from benchmarks.heldout_isoflop import default_fit, forecasts_of

LENGTHS = (0.3, 100.0)  # range of the lengths of the process, in standard deviations of log N and log D
SMALLEST = 1e-9  # of the deviation of residuals: those of a law that meets every run are zero
COUPLINGS = (1.0, 0.4)  # kappa at the starts of the coupled law
COUPLING_RANGE = (0.03, 3.0)
EXPONENT_RANGE = (0.01, 3.0)
STEP = 1e-6  # of central differences, in the coordinates of the coupled law
SEED = 0


class Residuals(NamedTuple):
    """What a process says of the log residuals of runs ahead.

    Args:
        mean: of them.
        process, noise: standard deviations of the smooth part and of a run around it.
    """

    mean: Float[np.ndarray, " runs"]
    process: Float[np.ndarray, " runs"]
    noise: float


def residual_process(rows: Rows, residual: Float[np.ndarray, " rows"], points: Points) -> Residuals:
    """A process fitted to residuals, its lengths, variance and noise by their likelihood.

    Args:
        rows: that were fitted.
        residual: log of the measured loss less log of the fitted one.
        points: runs ahead.
    """
    gaussian = importlib.import_module("sklearn.gaussian_process")
    kernels = gaussian.kernels
    known, ahead = (np.log(np.stack([part.n, part.d], axis=1)) for part in (rows, points))
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scale = max(float(residual.std()), SMALLEST)
    kernel = kernels.ConstantKernel(1.0, (1e-3, 1e3)) * kernels.RBF([1.0, 1.0], LENGTHS)
    regression = gaussian.GaussianProcessRegressor(
        kernel + kernels.WhiteKernel(0.5, (1e-4, 1e1)), n_restarts_optimizer=2, random_state=SEED
    )
    regression.fit((known - centre) / spread, residual / scale)
    mean, deviation = regression.predict((ahead - centre) / spread, return_std=True)
    noise = float(regression.kernel_.k2.noise_level)  # of a run, which the deviation holds
    return Residuals(scale * mean, scale * np.sqrt(np.maximum(deviation**2 - noise, 0.0)), scale * np.sqrt(noise))


def around_additive(rows: Rows, points: Points) -> RunForecasts:
    """Around the additive law by variable projection, whose constants' variance is added by linearisation."""
    law = power_sums.fit(power_sums.drivers(rows), rows.loss, power_sums.Objective.SQUARES)
    found = residual_process(rows, law.residual, points)
    mean, of_constants, _ = power_sums.linearised(law, power_sums.drivers(points))
    return _student(mean, of_constants, found, len(rows) - len(law.params))


def around_coupled(rows: Rows, points: Points) -> RunForecasts:
    """Around the coupled law by least squares of log residuals, whose constants' variance is added by linearisation."""
    coupled = _fit_coupled(rows)
    found = residual_process(rows, np.log(rows.loss) - coupled.at(coupled.params, rows), points)
    return _student(
        coupled.at(coupled.params, points), coupled.deviation(rows, points), found, len(rows) - len(coupled.params)
    )


def around_isoflop(rows: Rows, points: Points) -> RunForecasts:
    """Around the medians of this package's mixture; the smooth part widens its intervals of one run, as the root of the
    sum of squares on either side."""
    fit = default_fit(rows, points.source)
    ahead = forecasts_of(fit, points)
    found = residual_process(rows, np.log(rows.loss / forecasts_of(fit, rows).median), points)
    offset = np.log(ahead.ends / ahead.median)
    process = np.array([norm.ppf((1 + level) / 2) for level in LEVELS])[:, None, None] * found.process
    centre = np.log(ahead.median) + found.mean
    return RunForecasts(np.exp(centre), np.exp(centre + np.sign(offset) * np.hypot(offset, process)))


def _student(
    mean: Float[np.ndarray, " runs"], of_constants: Float[np.ndarray, " runs"], found: Residuals, dof: int
) -> RunForecasts:
    """A law with its process: their variances add up.

    Args:
        mean: log loss by the law.
        of_constants: standard deviation of it.
        found: of the residuals.
        dof: degrees of freedom that the law leaves.
    """
    total = np.sqrt(of_constants**2 + found.process**2 + found.noise**2)
    return RunForecasts(np.exp(mean + found.mean), student_ends(mean + found.mean, total, max(dof, 1)))


class CoupledFit(NamedTuple):
    """L = E + ((a N^-alpha)^(1/kappa) + (b D^-beta)^(1/kappa))^kappa, with N and D over their geometric means.

    Args:
        params: log E, log a, log b, alpha, beta, log kappa.
        centre: mean logs of N and D.
    """

    params: Float[np.ndarray, " params"]
    centre: Float[np.ndarray, " drivers"]

    def at(self, params: Float[np.ndarray, " params"], where: Rows | Points) -> Float[np.ndarray, " rows"]:
        """Log loss under given constants."""
        floor, size, data, alpha, beta, log_kappa = params
        x, z, kappa = np.log(where.n) - self.centre[0], np.log(where.d) - self.centre[1], np.exp(log_kappa)
        return np.logaddexp(floor, kappa * np.logaddexp((size - alpha * x) / kappa, (data - beta * z) / kappa))

    def slopes(self, where: Rows | Points) -> Float[np.ndarray, "rows params"]:
        """Derivatives of the log loss by the constants, as central differences."""
        steps = STEP * np.eye(len(self.params))
        ends = [(self.at(self.params + step, where), self.at(self.params - step, where)) for step in steps]
        return np.stack([(above - below) / (2 * STEP) for above, below in ends], axis=1)

    def deviation(self, rows: Rows, points: Points) -> Float[np.ndarray, " runs"]:
        """Standard deviation of log losses ahead from the constants.

        Args:
            rows: that were fitted.
            points: runs ahead.
        """
        residual = np.log(rows.loss) - self.at(self.params, rows)
        variance = np.sum(residual**2) / max(len(rows) - len(self.params), 1)
        fitted, ahead = self.slopes(rows), self.slopes(points)
        spread = np.sum((ahead @ np.linalg.pinv(fitted.T @ fitted)) * ahead, axis=1)
        return np.sqrt(variance * np.maximum(spread, 0.0))


def _fit_coupled(rows: Rows) -> CoupledFit:
    """Least squares of log residuals, from the additive law and from it with a smaller kappa."""
    additive = power_sums.fit(power_sums.drivers(rows), rows.loss, power_sums.Objective.SQUARES)
    unfitted = CoupledFit(np.zeros(6), np.array([additive.centre["n"], additive.centre["d"]]))
    low = np.r_[np.full(3, -np.inf), [EXPONENT_RANGE[0]] * 2, np.log(COUPLING_RANGE[0])]
    high = np.r_[np.full(3, np.inf), [EXPONENT_RANGE[1]] * 2, np.log(COUPLING_RANGE[1])]
    ends = []
    for kappa in COUPLINGS:
        start = np.clip(np.r_[additive.params, np.log(kappa)], low + 1e-9, high - 1e-9)
        ends.append(
            least_squares(
                lambda point: unfitted.at(point, rows) - np.log(rows.loss), start, bounds=(low, high), x_scale="jac"
            )
        )
    return unfitted._replace(params=min(ends, key=lambda end: end.cost).x)
