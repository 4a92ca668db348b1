"""Expected error of a prediction after further runs: the criterion by which ``laws.uses.propose`` chooses runs.

A run adds the Fisher information J J^T / sigma^2, J being the gradient of its log loss in the law's constants and sigma
the noise of one run. The information gives the covariance of the constants and, by the delta method, the variance of the
prediction. Both depend on constants that are not known, so the criterion is the mean log squared error over draws of the
constants of all forms that the fit's forecasts mix, the coupled surface among them (Chaloner and Verdinelli 1995,
Statistical Science 10, a review).

A design that trusts the form of the law goes to the corners, where a slightly wrong form misleads most. Half of the draws
therefore add to the squared error the squared bias from smooth departures from the law, a Gaussian process over log N
and log D (beside the variance error, the bias error of Box and Draper 1959).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import FitFailed
from laws.base.uncertainty_config import UncertaintyConfig
from laws.base.x64 import float64
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.estimation.refit import slopes_at
from laws.forecasting.mixture import Predictor
from laws.inference.allocation import allocate
from laws.inference.noise import NORMAL, m_estimator_moments
from laws.model.coordinates import Coordinates
from laws.model.law import Law

# Numerical; what shapes designs stands in UncertaintyConfig.
DIFFERENCE = 1e-4  # step of central differences, over the size of a coordinate
LANDMARKS = 1024  # rows whose kernel matrix is decomposed at most: its cost is cubic
SPLIT_STEP = 0.2  # step in log N of central differences along the split of a budget


@dataclass(frozen=True)
class CandidateRuns:
    """Runs that could be trained.

    Args:
        n: parameters.
        d: training tokens.
        c: training FLOPs.
    """

    n: Float[np.ndarray, " points"]
    d: Float[np.ndarray, " points"]
    c: Float[np.ndarray, " points"]

    def __getitem__(self, index: Any) -> CandidateRuns:
        return CandidateRuns(self.n[index], self.d[index], self.c[index])

    @classmethod
    def at_ratio(
        cls, cost: TokenCost, compute: Float[np.ndarray, " points"], ratio: Float[np.ndarray, " points"]
    ) -> CandidateRuns:
        """Runs of given training FLOPs and tokens a parameter.

        Args:
            cost: training FLOPs a token, by size.
            compute: training FLOPs of each run.
            ratio: tokens a parameter of each run.
        """
        log_n = np.linspace(-20.0, 80.0, 20001)
        log_compute_over_ratio = log_n + np.asarray(cost.log_flops_per_token(log_n))
        n = np.exp(np.interp(np.log(compute / ratio), log_compute_over_ratio, log_n))
        return cls(n, n * ratio, np.asarray(compute, np.float64))

    @classmethod
    def joined(cls, parts: list[CandidateRuns]) -> CandidateRuns:
        """The runs of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("n", "d", "c")))


@dataclass(frozen=True)
class FittedRuns:
    """The runs of a fit, as the criterion needs them.

    Args:
        columns: variable -> value of each row; ``n``, ``d`` and ``c`` at least.
        row_weight: one over the number of rows of the row's run.
        noise_sd: effective standard deviation of one run's log loss under the fit's objective: for all but least squares
            a run has less information than its scatter implies (``laws.inference.noise.m_estimator_moments``).
    """

    columns: dict[str, Float[np.ndarray, " rows"]]
    row_weight: Float[np.ndarray, " rows"]
    noise_sd: float

    @classmethod
    def of(
        cls, columns: dict[str, Float[np.ndarray, " rows"]], run: Any, deviation: float, objective: str, delta: float
    ) -> FittedRuns:
        """The runs of a table that was fitted with an objective.

        Args:
            columns: variable -> value of each row.
            run: name of the run of each row.
            deviation: standard deviation of one run's log loss.
            objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
            delta: Huber's threshold, in log loss.
        """
        _, run_of_row, rows_of_run = np.unique(run, return_inverse=True, return_counts=True)
        mean_psi_squared, mean_psi_prime = m_estimator_moments(NORMAL, np.array([deviation]), objective, delta)
        noise_sd = float(np.sqrt(mean_psi_squared[0]) / mean_psi_prime[0])
        return cls(columns, 1 / rows_of_run[run_of_row.ravel()], noise_sd)

    @property
    def points(self) -> CandidateRuns:
        """Parameters, tokens and FLOPs of the rows."""
        return CandidateRuns(*(self.columns[variable] for variable in ("n", "d", "c")))


@dataclass(frozen=True)
class InformationState:
    """Fisher information of the fitted runs and of candidates, under every draw of the constants.

    Args:
        information: of the runs and the prior, in unconstrained coordinates of the constants.
        slopes: gradients of the candidates' log losses, over the noise of one run.
        gradient: of the log prediction.
        departure_score: products of departures at the runs with the runs' slopes: the score that departures add.
        departures: of the candidates' log losses, in independent directions of unit variance.
        target_departures: the same of the log prediction.
        departure_scale: standard deviations of the departures under each draw.
        noise_sd: effective standard deviation of one run's log loss.
    """

    information: Float[np.ndarray, "draws params params"]
    slopes: Float[np.ndarray, "draws points params"]
    gradient: Float[np.ndarray, "draws params"]
    departure_score: Float[np.ndarray, "draws directions params"]
    departures: Float[np.ndarray, "points directions"]
    target_departures: Float[np.ndarray, " directions"]
    departure_scale: Float[np.ndarray, " draws"]
    noise_sd: float

    def subset(self, candidates: slice) -> InformationState:
        """The same for some of the candidates."""
        return replace(self, slopes=self.slopes[:, candidates], departures=self.departures[candidates])

    def with_measured(self, chosen: Int[np.ndarray, " chosen"]) -> InformationState:
        """The same once some of the candidates are among the runs."""
        new_slopes = self.slopes[:, chosen]
        return replace(
            self,
            information=self.information + np.swapaxes(new_slopes, 1, 2) @ new_slopes,
            departure_score=self.departure_score + self.departures[chosen].T @ new_slopes,
        )

    def _moments(self, chosen: Int[np.ndarray, " chosen"]) -> tuple[np.ndarray, ...]:
        """Moments of the constants once some candidates are measured.

        Returns:
            covariance of the constants (draws, params, params); the departure score (draws, directions, params);
            covariance of the constants with the log prediction (draws, params); bias of the log prediction from each
            direction of departures (draws, directions).
        """
        state = self.with_measured(chosen)
        covariance = np.linalg.inv(state.information)
        with_prediction = (covariance @ self.gradient[:, :, None])[:, :, 0]
        fitted_departures = (state.departure_score @ with_prediction[:, :, None])[:, :, 0] / self.noise_sd
        return covariance, state.departure_score, with_prediction, fitted_departures - self.target_departures

    def expected_error(self, chosen: Int[np.ndarray, " chosen"]) -> float:
        """Expected error of the log prediction once these candidates are measured.

        Returns:
            the geometric mean over the draws of the root mean squared error.
        """
        _, _, with_prediction, bias = self._moments(chosen)
        squared = np.sum(self.gradient * with_prediction, axis=1) + self.departure_scale**2 * np.sum(bias**2, axis=1)
        return float(np.exp(np.log(squared).mean() / 2))

    def expected_error_with_one_more(self, chosen: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, " points"]:
        """Expected error once these candidates and each of all candidates in turn are measured, by rank-one updates."""
        covariance, departure_score, with_prediction, bias = self._moments(chosen)
        slope_covariance = self.slopes @ covariance
        prediction_covariance = (self.slopes @ with_prediction[:, :, None])[:, :, 0]
        measurement_variance = 1 + np.sum(slope_covariance * self.slopes, axis=2)
        unexplained = self.departures - slope_covariance @ np.swapaxes(departure_score, 1, 2)
        gain = prediction_covariance / measurement_variance / self.noise_sd
        squared_bias = np.sum(bias**2, axis=1)[:, None] + gain**2 * np.sum(unexplained**2, axis=2)
        squared_bias += 2 * gain * (unexplained @ bias[:, :, None])[:, :, 0]
        variance = np.sum(self.gradient * with_prediction, axis=1)[:, None]
        variance = variance - prediction_covariance**2 / measurement_variance
        return np.exp(np.log(variance + self.departure_scale[:, None] ** 2 * squared_bias).mean(axis=0) / 2)


def _departures(
    n: Float[np.ndarray, " rows"], d: Float[np.ndarray, " rows"], deviation: float, config: UncertaintyConfig
) -> Float[np.ndarray, "rows directions"]:
    """Gaussian-process departures from the law over log N and log D, as independent directions of unit variance.

    Of many rows some are decomposed, and the others follow (Williams and Seeger 2001, the Nystrom method).

    Args:
        n: parameters.
        d: tokens.
        deviation: standard deviation of a departure, in log loss.
        config: its ``departure_length`` and ``departure_directions``.
    """
    position = np.stack([np.log(n), np.log(d)], axis=1) / config.departure_length
    landmarks = position[:: -(-len(position) // LANDMARKS)]
    kernel = lambda rows: np.exp(-0.5 * np.sum((rows[:, None] - landmarks[None]) ** 2, axis=2))
    values, vectors = np.linalg.eigh(kernel(landmarks))
    largest = slice(-config.departure_directions, None)
    return deviation * kernel(position) @ vectors[:, largest] / np.sqrt(values[largest])


def _gradient(
    law: Law,
    columns: dict[str, Float[np.ndarray, " rows"]],
    params: Float[np.ndarray, "draws params"],
    predictor: Predictor,
    target: float,
    quantity: str,
) -> tuple[Float[np.ndarray, "draws params"], Float[np.ndarray, "draws params"]]:
    """Gradient of the log prediction in unconstrained coordinates, by central differences.

    Args:
        law: of the draws.
        columns: variable -> values of the runs, which scale the coordinates.
        params: draws of its constants.
        predictor: of the fit.
        target: training FLOPs of the prediction.
        quantity: what is predicted at the best split, ``loss`` or ``n``.

    Returns:
        the gradient, not finite for a draw without a best split; and the sizes of the coordinates.
    """
    count = params.shape[1]
    coordinates = Coordinates.of(law, columns)
    with float64():
        unconstrained = np.asarray(coordinates.to_unconstrained(params))
        scales = np.maximum(np.abs(unconstrained), 1.0)
        steps = DIFFERENCE * scales[:, None] * np.eye(count)
        shifted = (unconstrained[:, None, None] + np.stack([steps, -steps], 1)).reshape(-1, count)
        shifted_params = np.asarray(coordinates.to_params(shifted))
    optima = allocate(law, shifted_params, np.array([target]), predictor.cost, predictor.ranges["n"])
    with np.errstate(invalid="ignore"):  # draws without a split, or with a loss below zero there, are left out
        log_prediction = np.log(getattr(optima, quantity)).reshape(len(unconstrained), 2, count)
    return (log_prediction[:, 0] - log_prediction[:, 1]) / (2 * DIFFERENCE * scales), scales


def _split(predictor: Predictor, target: float) -> tuple[CandidateRuns, float]:
    """Three runs of the target's FLOPs, below, at and above the best size, and the law's curvature along them.

    Returns:
        the runs, ``SPLIT_STEP`` apart in log N; and the second derivative of the log loss by log N.
    """
    n = predictor.allocation(target).n[0] * np.exp(SPLIT_STEP * np.arange(-1, 2))
    d = target / np.exp(predictor.cost.log_flops_per_token(np.log(n)))
    split_runs = CandidateRuns(n, d, np.full(3, target))
    columns = {"n": split_runs.n, "d": split_runs.d, "c": split_runs.c}
    below, best, above = log_predictions(predictor.law, predictor.constants[None], columns)[0]
    return split_runs, float(below - 2 * best + above) / SPLIT_STEP**2


def information_state(
    predictor: Predictor, fitted_runs: FittedRuns, candidates: CandidateRuns, target: float, quantity: str
) -> InformationState:
    """Fisher information of the runs of a fit and of candidates about a prediction at a best split.

    Args:
        predictor: of the fit.
        fitted_runs: its runs.
        candidates: runs that could be trained.
        target: training FLOPs of the prediction.
        quantity: what is predicted there, ``loss`` or ``n``.

    Raises:
        FitFailed: most draws have no best split of the target.
    """
    inputs = {
        variable: np.r_[fitted_runs.columns[variable], getattr(candidates, variable)] for variable in ("n", "d", "c")
    }
    rows, width = len(fitted_runs.row_weight), max(len(form.law.params) for form in predictor.forms)
    split_runs, curvature = _split(predictor, target)
    all_runs = CandidateRuns.joined([fitted_runs.points, candidates, split_runs])
    surface = _departures(all_runs.n, all_runs.d, predictor.noise.deviation, predictor.config)
    parts = []
    for form in predictor.forms:
        count = min(round(form.weight * predictor.config.design_draws), len(form.draws))
        if not count:
            continue
        params = form.draws[np.linspace(0, len(form.draws) - 1, count).astype(int)]
        columns = {variable: inputs[variable] for variable in form.law.columns}
        slopes = slopes_at(form.law, columns, params) / fitted_runs.noise_sd
        gradient, scales = _gradient(form.law, columns, params, predictor, target, quantity)
        weighted = slopes[:, :rows] * fitted_runs.row_weight[:, None]
        information = np.swapaxes(weighted, 1, 2) @ slopes[:, :rows]
        unused = width - slopes.shape[2]  # a law with fewer constants is padded with some that nothing depends on
        pad = lambda array, unused=unused: np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, unused)])
        prior = np.pad((predictor.config.prior_scale * scales) ** -2.0, ((0, 0), (0, unused)), constant_values=1.0)
        information = np.pad(information, ((0, 0), (0, unused), (0, unused))) + prior[:, :, None] * np.eye(width)
        parts.append((information, pad(slopes[:, rows:]), pad(gradient), pad(surface[:rows].T @ weighted)))
    information, slopes, gradient, departure_score = (np.concatenate(part) for part in zip(*parts, strict=True))
    usable = np.asarray(np.isfinite(gradient).all(axis=1) & gradient.any(axis=1) & np.isfinite(slopes).all(axis=(1, 2)))
    if usable.sum() < len(usable) / 2:
        raise FitFailed(f"hardly a resample of the fit has a compute-optimal size at {target:.4g} FLOPs")
    below, best, above = surface[-3:]
    # By the implicit function theorem log N* moves by the slope of the departure along the split over the curvature.
    target_departures = best if quantity == "loss" else -(above - below) / (2 * SPLIT_STEP) / curvature
    return InformationState(
        information=information[usable],
        slopes=slopes[usable],
        gradient=gradient[usable],
        departure_score=departure_score[usable],
        departures=surface[rows:-3],
        target_departures=target_departures,
        departure_scale=np.resize(predictor.config.departures, usable.sum()),
        noise_sd=fitted_runs.noise_sd,
    )
