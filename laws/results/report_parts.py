"""The parts of a report: what a fit states of its optimum, its uncertainty, other approaches, its rows and its faults.

Values that JSON cannot hold (not a number, infinity) are None, so that a report read back equals the report written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from laws.approaches.budget_minima import MinimumFlaw
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.surface_check import CoordinateSummary, SurfaceCheck
from laws.inference.methods import IntervalMethod

Interval = tuple[float | None, float | None]  # lower and upper end; None where it is open


def finite(value: Any) -> float | None:
    """A number as JSON can hold it: None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def interval_of(ends: Any) -> Interval:
    """A pair of ends as an interval, open where an end is not finite."""
    low, high = ends
    return finite(low), finite(high)


@dataclass(frozen=True)
class ObjectiveReport:
    """The objective at the optimum.

    Args:
        name: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        value: the sum over all rows, weights included.
    """

    name: str
    delta: float
    value: float

    @property
    def has_threshold(self) -> bool:
        """Whether the objective depends on ``delta``."""
        return OBJECTIVES[self.name].has_threshold


@dataclass(frozen=True)
class Certificate:
    """What vouches for the optimum.

    Args:
        n_starts, n_at_best: starts of the optimiser, and how many ended at the best objective.
        gradient: largest component of the gradient relative to the objective.
        decrement: expected decrease of one more Newton step relative to the objective.
        condition: condition number of the Hessian scaled to a unit diagonal.
        at_bound: constants that ended on a bound.
    """

    n_starts: int
    n_at_best: int
    gradient: float
    decrement: float
    condition: float
    at_bound: tuple[str, ...]


@dataclass(frozen=True)
class Intervals:
    """Intervals of the constants and of what is derived from them.

    Args:
        level: nominal coverage.
        method: how they were found.
        resamples: draws asked for.
        n_not_converged, n_at_bound: draws that stopped short of an optimum, and that ended on a bound.
        n_without_optimum: draws of which no compute-optimal size exists at the target; they are not in ``derived``.
        params, derived: name -> interval.
    """

    level: float
    method: IntervalMethod
    resamples: int
    n_not_converged: int
    n_at_bound: int
    n_without_optimum: int
    params: dict[str, Interval]
    derived: dict[str, Interval]


@dataclass(frozen=True)
class ProfileCurve:
    """Signed roots of the deviance of a quantity, in standard deviations of a t distribution, at rising values."""

    values: tuple[float, ...]
    roots: tuple[float, ...]


@dataclass(frozen=True)
class Profiles:
    """Profile-likelihood intervals and their curves; ``dof`` are the degrees of freedom of the t distribution."""

    level: float
    dof: float
    params: dict[str, Interval]
    derived: dict[str, Interval]
    curves: dict[str, ProfileCurve]


@dataclass(frozen=True)
class HoldoutReport:
    """Errors on runs that were held out.

    Args:
        above: FLOPs above which runs were held out.
        n: how many rows.
        mean_abs_rel_error, max_abs_rel_error: of the predicted loss.
        coverage: share of them inside their intervals.
        best_loss: the least of them.
    """

    above: float
    n: int
    mean_abs_rel_error: float
    max_abs_rel_error: float
    coverage: float
    best_loss: float


@dataclass(frozen=True)
class RivalReport:
    """A form in the model average.

    Args:
        label, law: the form for people, and the name of its law.
        weight: in the mixture.
        score: log density that it gave the runs beyond each forecast origin; None without an origin.
        params: its constants.
        samples: name -> resampled constants; empty for the fitted law, whose samples are the report's own.
        noise: scale of a run's error in each sample, in log loss; empty where the noise of the fit holds.
        locality: power p of (C / C_max) by which rows counted.
    """

    label: str
    law: str
    weight: float
    score: float | None
    params: dict[str, float]
    samples: dict[str, tuple[float, ...]]
    noise: tuple[float, ...] = ()
    locality: float = 0.0


@dataclass(frozen=True)
class ModelAverage:
    """The fitted law, first, and its rivals.

    Args:
        extrapolation_inflation: relative standard deviation added to forecasts for every factor e of extrapolation.
        forms: the mixture; where it is one of surfaces, the fitted law has a weight of zero.
        prior: name of the prior of surfaces; None without them.
        prior_without: sources that it leaves out.
        surface: prior and posterior of the coupled surface, all rows counting alike. None likewise.
    """

    extrapolation_inflation: float
    forms: tuple[RivalReport, ...]
    prior: str | None = None
    prior_without: tuple[str, ...] = ()
    surface: SurfaceCheck | None = None

    @property
    def kappa(self) -> CoordinateSummary | None:
        """The common exponent of the coupled surface: a test of separability, kappa = 1."""
        return None if self.surface is None else self.surface.coordinate("kappa")


@dataclass(frozen=True)
class PowerLaw:
    """Loss k C^-p."""

    k: float
    p: float


@dataclass(frozen=True)
class Baselines:
    """Naive forecasts: the best loss so far, and a power law without offset along the frontier of the runs."""

    best_loss: float
    power_law: PowerLaw | None


@dataclass(frozen=True)
class BudgetMinimum:
    """The best size at one budget, by approach 2.

    Args:
        c: FLOPs of the budget.
        n, d, loss: of the minimum: parameters, tokens, loss.
        low, high: interval of n.
    """

    c: float
    n: float
    d: float
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class RejectedBudget:
    """A budget whose minimum approach 2 does not use.

    Args:
        c: FLOPs of the budget.
        flaw: why.
    """

    c: float
    flaw: MinimumFlaw


@dataclass(frozen=True)
class ApproachReport:
    """Approach 1 or 2 on the same runs.

    Args:
        reason: why there are no exponents; None where there are.
        a, a_interval, b, b_interval: exponents of N*(C) and D*(C).
        log_g: log of the coefficient of N* = G C^a.
        noise, noise_source: standard deviation of the loss between runs that was assumed, and where it came from.
        minima, rejected: of approach 2: the budgets through whose minima the power law goes, and the others.
        points: of approach 1: ``c``, ``n``, ``d`` and ``loss`` along the envelope.
        n_curves: learning curves behind the envelope.
    """

    reason: str | None = None
    a: float | None = None
    a_interval: Interval | None = None
    b: float | None = None
    b_interval: Interval | None = None
    log_g: float | None = None
    noise: float | None = None
    noise_source: str | None = None
    minima: tuple[BudgetMinimum, ...] = ()
    rejected: tuple[RejectedBudget, ...] = ()
    points: dict[str, tuple[float, ...]] | None = None
    n_curves: int | None = None


@dataclass(frozen=True)
class CentroidTerms:
    """What each linear constant adds to the prediction at the centre of the runs.

    Args:
        centroid: variable -> geometric mean of the runs.
        collinear: linear constants whose size means nothing without the other constants, as A of A / N^alpha.
        params, intervals: name -> what the constant adds there.
    """

    centroid: dict[str, float]
    collinear: tuple[str, ...]
    params: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class InputFile:
    """A file behind a fit, and the hash of its bytes."""

    path: str
    sha256: str | None


@dataclass(frozen=True)
class FittedRows:
    """The rows that were fitted.

    Args:
        run: the run of each.
        values: variable -> one number a row.
        loss: what was measured.
        weight: what each counts; None where every row counts once.
        seed: of the run of each, as the table's column ``seed`` states it; None without one. It pairs runs of two fits.
    """

    run: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    loss: tuple[float, ...]
    weight: tuple[float, ...] | None = None
    seed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class GroupEfficiency:
    """How much the runs of a group are worth in those of the reference: factors of the first group are one.

    Args:
        group: its name.
        n_runs: how many runs it has.
        size, data: parameters and tokens of the reference that one of the group is worth.
        compute: their product: how many times less compute the group needs where C = 6 N D.
        size_interval, data_interval, compute_interval: at the level of the fit; None without resamples.
    """

    group: str
    n_runs: int
    size: float
    data: float
    compute: float
    size_interval: Interval | None = None
    data_interval: Interval | None = None
    compute_interval: Interval | None = None


@dataclass(frozen=True)
class Groups:
    """Groups of runs that share a law.

    Args:
        column: that names the group of each run.
        law: the law that they share.
        efficiencies: of the groups, in the order of their numbers; the first, with the most runs, is the reference.
    """

    column: str
    law: str
    efficiencies: tuple[GroupEfficiency, ...]


@dataclass(frozen=True)
class SensitivityRow:
    """What the fit says of the target under another choice; ``reason`` where that choice has no fit."""

    kind: str
    choice: str
    reason: str | None = None
    c: float | None = None
    n_runs: int | None = None
    a: float | None = None
    n: float | None = None
    d: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class LossForecast:
    """A loss with the interval of the mean over repeated runs."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FrontierReport:
    """The law of the frontier, L = E + k C^-p, fitted to the best run of each budget and to the minima of profiles.

    Args:
        forms: the fits, of equal weights.
        points: label of a form -> its points, training FLOPs and loss.
        surfaces, frontier: what the surfaces and the frontier forecast at the target compute of the fit.
        disagree: whether their intervals are apart.
    """

    forms: tuple[RivalReport, ...]
    points: dict[str, tuple[tuple[float, float], ...]]
    surfaces: LossForecast | None = None
    frontier: LossForecast | None = None
    disagree: bool = False


@dataclass(frozen=True)
class FloorPoint:
    """The law fitted with its floor held.

    Args:
        floor: E.
        loss, n: loss and parameters of the best split of the target.
        objective: the sum over the fitted rows.
        inside: whether the floor lies in its profile interval; None without profiles.
    """

    floor: float
    loss: float
    n: float
    objective: float
    inside: bool | None = None


class WarningKind(StrEnum):
    """What a warning is about."""

    TABLE = "table"
    AT_BOUND = "at_bound"
    EQUALS_START = "equals_start"
    FEW_AT_BEST = "few_at_best"
    UNIDENTIFIED = "unidentified"
    FEW_RUNS = "few_runs"
    RESAMPLES = "resamples"
    RIVALS = "rivals"
    INFLATION = "inflation"
    EXTRAPOLATION = "extrapolation"
    ROWS_OF_ONE_RUN = "rows_of_one_run"
    COMPUTE = "compute"
    OUTLIERS = "outliers"
    APPROACH_2_BIAS = "approach_2_bias"
    APPROACHES_DISAGREE = "approaches_disagree"
    IN_STEP = "in_step"
    NOT_DETERMINED = "not_determined"
    FRONTIER_DISAGREES = "frontier_disagrees"
    PRIOR_CONTRADICTED = "prior_contradicted"
    FLOOR_ABOVE_REACHED = "floor_above_reached"
    FLOOR_NEAR_BEST = "floor_near_best"
    RATIO_IDENTIFIES_NOTHING = "ratio_identifies_nothing"
    FORECAST_OF_GROUPS = "forecast_of_groups"


@dataclass(frozen=True)
class FitWarning:
    """What a reader of the fit must know."""

    kind: WarningKind
    text: str

    def __str__(self) -> str:
        return self.text
