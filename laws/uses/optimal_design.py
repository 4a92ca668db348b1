"""What a run would tell: how much it would lower the expected error of a prediction.

What a run tells is its slopes: the derivatives of its log loss by the law's constants, over a run's noise. Those of all
runs give the covariance of the constants, and through the derivatives of the prediction its variance. They depend on
constants that are not known, so the error is taken under many draws of them, of the law and of its rivals, and the mean
of its logarithm counts (Chaloner and Verdinelli 1995, Statistical Science 10, section 4).

A design that trusts the form goes to the corners, where a form that is a little wrong misleads most. So the error holds
the bias too (Box and Draper 1959, JASA 54): that of smooth departures from the law, under half of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import FitFailed
from laws.base.x64 import float64
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.estimation.refit import slopes_at
from laws.forecasting.prediction import Predictor
from laws.inference.allocation import allocate
from laws.inference.noise import NORMAL, m_estimator_moments
from laws.model.coordinates import Coordinates
from laws.model.law import Law

DRAWS = 24  # of the constants, over all forms
DIFFERENCE = 1e-4  # step of the prediction's derivatives, relative to the coordinates
FEATURES = 8  # directions of departures that are kept
LANDMARKS = 1024  # rows from which these directions are found, at most
ASIDE = 0.2  # in log N, over which the bend of the law and of its departures at the best split is taken


@dataclass(frozen=True)
class CandidateRuns:
    """Runs that might be made: parameters, tokens and FLOPs."""

    n: Float[np.ndarray, " points"]
    d: Float[np.ndarray, " points"]
    c: Float[np.ndarray, " points"]

    def __getitem__(self, rows: Any) -> CandidateRuns:
        return CandidateRuns(self.n[rows], self.d[rows], self.c[rows])

    @classmethod
    def at(
        cls, cost: TokenCost, compute: Float[np.ndarray, " points"], ratio: Float[np.ndarray, " points"]
    ) -> CandidateRuns:
        """The runs of given FLOPs and tokens a parameter."""
        log_n = np.linspace(-20.0, 80.0, 20001)
        squared = log_n + np.asarray(cost.log_flops_per_token(log_n))  # log C / r
        n = np.exp(np.interp(np.log(compute / ratio), squared, log_n))
        return cls(n, n * ratio, np.asarray(compute, np.float64))

    @classmethod
    def joined(cls, parts: list[CandidateRuns]) -> CandidateRuns:
        """The points of one part after those of another."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("n", "d", "c")))


@dataclass(frozen=True)
class FittedRuns:
    """The runs of a fit: variable -> values, what each row counts (a run's rows share one), and the noise of one run.

    Args:
        error: standard deviation of one run's log loss as the fit's objective uses it: for all but least squares a
            run tells less than its scatter says (``laws.inference.noise.m_estimator_moments``).
    """

    columns: dict[str, Float[np.ndarray, " rows"]]
    share: Float[np.ndarray, " rows"]
    error: float

    @classmethod
    def of(cls, columns, run, deviation: float, objective: str, delta: float) -> FittedRuns:
        """The runs of a table, fitted with an objective."""
        _, member, rows = np.unique(run, return_inverse=True, return_counts=True)
        square, curve = m_estimator_moments(NORMAL, np.array([deviation]), objective, delta)
        return cls(columns, 1 / rows[member.ravel()], float(np.sqrt(square[0]) / curve[0]))

    @property
    def points(self) -> CandidateRuns:
        """Where they are."""
        return CandidateRuns(*(self.columns[variable] for variable in ("n", "d", "c")))


@dataclass(frozen=True)
class InformationState:
    """What the runs have told, and what each point would add, under every draw of the constants.

    Args:
        information: of the runs, in the optimiser's coordinates.
        slopes: of the points, over the noise.
        gradient: of the prediction.
        departure_score: by how much departures at the runs pull at the constants.
        departures: of the points' log losses, in independent directions.
        missed: the same of the prediction itself.
        doubt: size of the departures, in their own standard deviations.
        error: of one run.
    """

    information: Float[np.ndarray, "draws params params"]
    slopes: Float[np.ndarray, "draws points params"]
    gradient: Float[np.ndarray, "draws params"]
    departure_score: Float[np.ndarray, "draws directions params"]
    departures: Float[np.ndarray, "points directions"]
    missed: Float[np.ndarray, " directions"]
    doubt: Float[np.ndarray, " draws"]
    error: float

    def among(self, rows: slice) -> InformationState:
        """The same for some of the points."""
        return replace(self, slopes=self.slopes[:, rows], departures=self.departures[rows])

    def measured(self, chosen: Int[np.ndarray, " chosen"]) -> InformationState:
        """The same once some of the points are among the runs."""
        new = self.slopes[:, chosen]
        information, departure_score = (
            self.information + np.swapaxes(new, 1, 2) @ new,
            self.departure_score + self.departures[chosen].T @ new,
        )
        return replace(self, information=information, departure_score=departure_score)

    def _once(self, chosen: Int[np.ndarray, " chosen"]):
        """Covariance, pull, the constants' move towards the prediction, and its bias, once some points are measured."""
        known = self.measured(chosen)
        covariance = np.linalg.inv(known.information)
        towards = (covariance @ self.gradient[:, :, None])[:, :, 0]
        return (
            covariance,
            known.departure_score,
            towards,
            (known.departure_score @ towards[:, :, None])[:, :, 0] / self.error - self.missed,
        )

    def deviation(self, chosen: Int[np.ndarray, " chosen"]) -> float:
        """Expected error of the log of the prediction once these points are measured."""
        _, _, towards, bias = self._once(chosen)
        squared = np.sum(self.gradient * towards, axis=1) + self.doubt**2 * np.sum(bias**2, axis=1)
        return float(np.exp(np.log(squared).mean() / 2))

    def with_one_more(self, chosen: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, " points"]:
        """The same with each of the points added to them, by rank-one updates."""
        covariance, departure_score, towards, bias = self._once(chosen)
        moved = self.slopes @ covariance
        along = (self.slopes @ towards[:, :, None])[:, :, 0]
        size = 1 + np.sum(moved * self.slopes, axis=2)
        new = self.departures - moved @ np.swapaxes(departure_score, 1, 2)
        share = along / size / self.error
        biased = np.sum(bias**2, axis=1)[:, None] + share**2 * np.sum(new**2, axis=2)
        biased += 2 * share * (new @ bias[:, :, None])[:, :, 0]
        squared = np.sum(self.gradient * towards, axis=1)[:, None] - along**2 / size + self.doubt[:, None] ** 2 * biased
        return np.exp(np.log(squared).mean(axis=0) / 2)


def _departures(n, d, deviation: float, length: float) -> Float[np.ndarray, "rows directions"]:
    """Smooth random surfaces over log N and log D (a Gaussian process), as independent directions.

    Of many rows a part is decomposed, and the others follow from it (Williams and Seeger 2001, the Nystrom method).
    """
    at = np.stack([np.log(n), np.log(d)], axis=1) / length
    some = at[:: -(-len(at) // LANDMARKS)]
    near = np.exp(-0.5 * np.sum((at[:, None] - some[None]) ** 2, axis=2))
    values, vectors = np.linalg.eigh(np.exp(-0.5 * np.sum((some[:, None] - some[None]) ** 2, axis=2)))
    return deviation * near @ vectors[:, -FEATURES:] / np.sqrt(values[-FEATURES:])


def _gradient(law: Law, columns, params, predictor: Predictor, target: float, quantity: str) -> tuple[np.ndarray, ...]:
    """Derivatives of the log prediction in the optimiser's coordinates, by central differences; sizes of these."""
    count = params.shape[1]
    coordinates = Coordinates.of(law, columns)
    with float64():
        unconstrained = np.asarray(coordinates.to_unconstrained(params))
        size = np.maximum(np.abs(unconstrained), 1.0)
        steps = DIFFERENCE * size[:, None] * np.eye(count)
        around = np.asarray(
            coordinates.to_params((unconstrained[:, None, None] + np.stack([steps, -steps], 1)).reshape(-1, count))
        )
    found = allocate(law, around, np.array([target]), predictor.cost, predictor.ranges["n"])
    with np.errstate(invalid="ignore"):  # draws without a split, or with a loss below zero there, are left out
        at = np.log(getattr(found, quantity)).reshape(len(unconstrained), 2, count)
    return (at[:, 0] - at[:, 1]) / (2 * DIFFERENCE * size), size


def _split(predictor: Predictor, target: float) -> tuple[CandidateRuns, float]:
    """Runs of the target's FLOPs beside and at the best split, and how the log loss bends along them."""
    n = predictor.allocation(target).n[0] * np.exp(ASIDE * np.arange(-1, 2))
    d = target / np.exp(predictor.cost.log_flops_per_token(np.log(n)))
    points = CandidateRuns(n, d, np.full(3, target))
    columns = {"n": points.n, "d": points.d, "c": points.c}
    below, at, above = log_predictions(predictor.law, predictor.constants[None], columns)[0]
    return points, float(below - 2 * at + above) / ASIDE**2


def information_state(
    predictor: Predictor, seen: FittedRuns, points: CandidateRuns, target: float, quantity: str
) -> InformationState:
    """What the runs of a fit say of a prediction, and what each point would add.

    Raises:
        FitFailed: hardly a draw has a best split of the target.
    """
    rows = {variable: np.r_[seen.columns[variable], getattr(points, variable)] for variable in ("n", "d", "c")}
    runs, width = len(seen.share), max(len(form.law.params) for form in predictor.forms)
    beside, bend = _split(predictor, target)
    every = CandidateRuns.joined([seen.points, points, beside])
    surface = _departures(every.n, every.d, predictor.noise.deviation, predictor.config.departure_length)
    parts = []
    for form in predictor.forms:
        count = min(round(form.weight * DRAWS), len(form.draws))
        if not count:
            continue
        params = form.draws[np.linspace(0, len(form.draws) - 1, count).astype(int)]
        columns = {variable: rows[variable] for variable in form.law.columns}
        slopes = slopes_at(form.law, columns, params) / seen.error
        gradient, size = _gradient(form.law, columns, params, predictor, target, quantity)
        counted = slopes[:, :runs] * seen.share[:, None]
        information = np.swapaxes(counted, 1, 2) @ slopes[:, :runs]
        spare = width - slopes.shape[2]  # a law with fewer constants has some that nothing depends on
        pad = lambda array, spare=spare: np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, spare)])
        prior = np.pad((predictor.config.prior_scale * size) ** -2.0, ((0, 0), (0, spare)), constant_values=1.0)
        information = np.pad(information, ((0, 0), (0, spare), (0, spare))) + prior[:, :, None] * np.eye(width)
        parts.append((information, pad(slopes[:, runs:]), pad(gradient), pad(surface[:runs].T @ counted)))
    information, slopes, gradient, departure_score = (np.concatenate(part) for part in zip(*parts, strict=True))
    good = np.asarray(np.isfinite(gradient).all(axis=1) & gradient.any(axis=1) & np.isfinite(slopes).all(axis=(1, 2)))
    if good.sum() < len(good) / 2:
        raise FitFailed(f"hardly a resample of the fit has a compute-optimal size at {target:.4g} FLOPs")
    below, at, above = surface[-3:]
    missed = at if quantity == "loss" else -(above - below) / (2 * ASIDE) / bend
    doubt = np.resize(predictor.config.departures, good.sum())
    return InformationState(
        information[good],
        slopes[good],
        gradient[good],
        departure_score[good],
        surface[runs:-3],
        missed,
        doubt,
        seen.error,
    )
