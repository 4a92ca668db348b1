"""The coupled surface's prior beside what the runs say: where the prior decides, and where the two contradict each other.

All rows count alike here. Beside the posterior stand its floors below each forecast origin, against what was reached above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, stdtrit

from laws.data.ladder import ratio_deviation
from laws.forecasting.design_rows import Rows, budgets_of, origins_of
from laws.forecasting.family import Frame
from laws.forecasting.posterior import PRIOR_NU, Mode, Prior, Problems, sample
from laws.forecasting.priors import LEARNED, prior_of
from laws.forecasting.surface import ALPHA, BETA, COORDINATES, DATA, FLOOR, KAPPA, SCALE, SIZE, SURFACE
from laws.forecasting.surface_modes import START_SCALE, best_modes, moved, shared_start
from laws.inference.noise import interval
from laws.inference.resampling import DesignFits

PRIOR_DECIDES = 0.8  # spread of the posterior over that of the prior from which the runs are said to say little
UNTOLD = 0.5  # the same of log(alpha / beta) from which they are said not to tell alpha from beta
# Distance between the runs and the public prior, in standard deviations, from which they contradict each other. Of tables
# drawn from the prior 1 to 5% exceed it in one of the four learned coordinates (tests/laws/test_surface_check.py).
CONTRADICTION = 3.0
NAMES = {ALPHA: "alpha", BETA: "beta", FLOOR: "E", SIZE: "size term", DATA: "data term", KAPPA: "kappa", SCALE: "noise"}


@dataclass(frozen=True)
class CoordinateSummary:
    """Prior and posterior of one coordinate, in natural units: medians and intervals.

    Args:
        name: ``alpha`` and ``beta``, of the loss along each axis alone; ``E``; ``size term`` and ``data term``, what each
            alone adds to the loss at the centre of the runs; ``kappa``, 1 for the separable law; ``noise``, scale of a
            run's log loss.
        prior, prior_low, prior_high: of the prior.
        value, low, high: of the posterior.
        spread: standard deviation of the posterior over that of the prior, in the coordinate; that of the draws, or by the
            curvature at the mode where this is larger, since draws may miss a long flat direction.
        contradiction: distance of the mode under the weak prior from the mean of the public one, in standard deviations of
            both; None of another prior, and of coordinates that the public prior leaves weak.
    """

    name: str
    prior: float
    prior_low: float
    prior_high: float
    value: float
    low: float
    high: float
    spread: float
    contradiction: float | None = None

    @property
    def prior_decides(self) -> bool:
        """Whether the runs say little of it."""
        return self.spread > PRIOR_DECIDES


@dataclass(frozen=True)
class OriginFloor:
    """The floor of the surface fitted below a forecast origin, and what runs beyond it reached.

    Args:
        c: largest FLOPs below the origin.
        floor: E at the mode.
        reached: least loss beyond.
    """

    c: float
    floor: float
    reached: float


@dataclass(frozen=True)
class SurfaceCheck:
    """What prior and runs say of the coupled surface.

    Args:
        level: of the intervals.
        coordinates: one summary each.
        exponents_spread: standard deviation of log(alpha / beta), which splits compute between N and D, over that of the
            prior; the larger one likewise.
        ratio_spread: factor of one standard deviation by which D / N varies at equal compute.
        floors: of each forecast origin.
    """

    level: float
    coordinates: tuple[CoordinateSummary, ...]
    exponents_spread: float
    ratio_spread: float
    floors: tuple[OriginFloor, ...]

    def coordinate(self, name: str) -> CoordinateSummary:
        """The summary of one coordinate, by name."""
        return next(summary for summary in self.coordinates if summary.name == name)


def natural(frame: Frame, coordinate: int) -> Callable[[np.ndarray], np.ndarray]:
    """The rising function from a coordinate of the first problem to natural units.

    Args:
        frame: of the problems.
        coordinate: which.
    """
    least = float(np.exp(frame.log_loss[0]))
    if coordinate == FLOOR:
        return lambda values: least * expit(values)
    if coordinate in (SIZE, DATA):
        return lambda values: least * np.exp(values)
    return np.exp


def surface_check(fits: DesignFits, prior: Prior, is_public: bool, level: float, seed: int) -> SurfaceCheck:
    """Prior and posterior of the coupled surface fitted to one table, and the alarms that rest on them.

    Args:
        fits: of a law of n and d, of one table.
        prior: of the surface.
        is_public: whether it is the public one, which runs may contradict.
        level: of the intervals.
        seed: of the draws.

    Source:
        Marshall and Spiegelhalter 2007, Bayesian Analysis 2 (conflict between prior and likelihood).
    """
    rows = Rows.of(fits)
    origins = origins_of(budgets_of(rows.log_c), fits.config.surface_origins)
    masks = np.array([np.ones(len(rows.log_n), bool), np.ones(len(rows.log_n), bool), *origins])
    priors = [prior, prior_of("weak"), *[prior] * len(origins)]
    count = len(masks)
    problems = Problems.of(
        SURFACE, rows.inputs, np.repeat(rows.log_loss[:1], count, axis=0), masks * rows.weight, priors
    )
    own = problems.mean.copy()
    own[:, SCALE] = np.log(START_SCALE)
    frame, point = shared_start(rows, prior)
    mode = best_modes(problems, [moved(point, frame, problems.frame), own])
    first = np.array([0])
    draws = sample(problems.take(first), Mode(*(part[first] for part in mode)), fits.config.surface_draws, seed)[0]
    weak = np.sqrt(np.diag(np.linalg.inv(mode.curvature[1])))
    distance = np.abs(mode.point[1] - prior.mean) / np.hypot(prior.deviation, weak)
    floors = np.exp(problems.frame.log_loss) * expit(mode.point[:, FLOOR])
    prior_deviation = np.sqrt(PRIOR_NU / (PRIOR_NU - 2)) * prior.deviation
    covariance = np.linalg.inv(mode.curvature[0])
    deviation = np.maximum(draws.std(axis=0), np.sqrt(np.diag(covariance)))
    contrast = np.zeros(len(COORDINATES))
    contrast[[ALPHA, BETA]] = 1.0, -1.0
    split = max(np.std(draws @ contrast), np.sqrt(contrast @ covariance @ contrast))
    return SurfaceCheck(
        level=level,
        coordinates=tuple(
            _summary(
                i,
                draws[:, i],
                prior,
                problems.frame,
                level,
                float(deviation[i] / prior_deviation[i]),
                float(distance[i]) if is_public and i in LEARNED else None,
            )
            for i in range(len(COORDINATES))
        ),
        exponents_spread=float(split / np.hypot(*prior_deviation[[ALPHA, BETA]])),
        ratio_spread=float(np.exp(ratio_deviation(rows.log_n, rows.log_d, rows.log_c))),
        floors=tuple(
            OriginFloor(
                c=float(np.exp(rows.log_c[below].max())),
                floor=float(floors[2 + k]),
                reached=float(np.exp(rows.log_loss[0, ~below].min())),
            )
            for k, below in enumerate(origins)
        ),
    )


def _summary(
    coordinate: int,
    draws: Float[np.ndarray, " draws"],
    prior: Prior,
    frame: Frame,
    level: float,
    spread: float,
    contradiction: float | None,
) -> CoordinateSummary:
    """Prior and posterior of one coordinate.

    Args:
        coordinate: which.
        draws: of the posterior.
        prior: of all coordinates.
        frame: of the problems.
        level: of the intervals.
        spread: of the posterior over that of the prior.
        contradiction: distance of the runs from the prior, where that is public and learned.
    """
    scale = natural(frame, coordinate)
    centre, deviation = prior.mean[coordinate], prior.deviation[coordinate]
    reach = stdtrit(PRIOR_NU, (1 + level) / 2) * deviation
    low, high = interval(scale(draws), level)
    return CoordinateSummary(
        name=NAMES[coordinate],
        prior=float(scale(centre)),
        prior_low=float(scale(centre - reach)),
        prior_high=float(scale(centre + reach)),
        value=float(scale(np.median(draws))),
        low=float(low),
        high=float(high),
        spread=spread,
        contradiction=contradiction,
    )
