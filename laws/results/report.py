"""All that a fit states, as typed values: the content of ``fit.json``.

Values that JSON cannot hold (not a number, infinity) are None, so that a report read back equals the report written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np

from laws.approaches.isoflop_profiles import MinimumFlaw
from laws.base.errors import InputError
from laws.base.json_files import jsonable
from laws.base.uncertainty_config import UncertaintyConfig
from laws.data.table import Exclusion
from laws.data.token_cost import TokenCost
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.backtest import Backtest
from laws.inference.methods import IntervalMethod
from laws.inference.noise import RunNoise

SCHEMA = 2  # number of the layout of ``fit.json``; it rises whenever a field changes its name or meaning

Interval = tuple[float | None, float | None]  # lower and upper end; None where it is open


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
    """

    above: float
    n: int
    mean_abs_rel_error: float
    max_abs_rel_error: float
    coverage: float


@dataclass(frozen=True)
class RivalReport:
    """A form in the model average.

    Args:
        label, law: the form for people, and the name of its law.
        weight: in the mixture.
        score: mean log density that it gave the runs beyond each forecast origin; None without an origin.
        params: its constants.
        samples: name -> resampled constants; empty for the fitted law, whose samples are the report's own.
    """

    label: str
    law: str
    weight: float
    score: float | None
    params: dict[str, float]
    samples: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class ModelAverage:
    """The fitted law, first, and its rivals.

    Args:
        extrapolation_inflation: relative standard deviation added to forecasts for every factor e of extrapolation.
        forms: the mixture.
    """

    extrapolation_inflation: float
    forms: tuple[RivalReport, ...]


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
    """

    run: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    loss: tuple[float, ...]
    weight: tuple[float, ...] | None = None


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


@dataclass(frozen=True)
class FitWarning:
    """What a reader of the fit must know."""

    kind: WarningKind
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FitReport:
    """The content of ``fit.json``.

    Args:
        law, declared_in, formula, source: the law; ``declared_in`` is ``file.py:NAME`` for one of one's own.
        observable: what is predicted, with its unit where that is known.
        fixed: constants that were held.
        params: fitted constants.
        derived: exponents, best size and data, and loss at the target; those that exist.
        target_flops: training FLOPs at which they are derived; None for a law without an optimum.
        objective, certificate: of the optimum.
        weights: what each row counts, in words.
        n_runs, n_rows: fitted runs and rows.
        dof_resid: residual degrees of freedom: effective runs less constants.
        excluded: rules that left rows out.
        intervals, profile, backtest: uncertainty; the latter two None without resamples.
        noise: of one run.
        uncertainty: settings that shape intervals.
        model_average: the rival forms.
        samples: name -> resampled constants.
        terms_at_centroid: what the linear constants add at the centre of the runs.
        holdout: errors on held-out runs.
        baselines: naive forecasts.
        approaches: approaches 1 and 2: ``envelope``, ``isoflop_akima``, ``isoflop_parabola``.
        ranges: variable -> smallest and largest value of the fitted runs.
        columns: variable -> column of the table.
        quantity: what was measured: ``loss``, its column, and the evaluation set or tokenizer that the table names.
        read_with: what ``laws.load`` was told beside columns and filters, to read another table alike.
        token_cost: training FLOPs a token.
        inputs: files behind the fit, the table first.
        data: the fitted rows.
        seed: of all draws.
        created_at: unix seconds.
        warnings: in the order in which they matter.
        sensitivity: the fit under other choices, where that was asked for.
        command: how it was made, where that is known.
        schema: number of this layout.
    """

    law: str
    declared_in: str | None
    formula: str
    source: str
    observable: str
    fixed: dict[str, float]
    params: dict[str, float]
    derived: dict[str, float]
    target_flops: float | None
    objective: ObjectiveReport
    certificate: Certificate
    weights: str
    n_runs: int
    n_rows: int
    dof_resid: float
    excluded: tuple[Exclusion, ...]
    intervals: Intervals
    profile: Profiles | None
    backtest: Backtest | None
    noise: RunNoise
    uncertainty: UncertaintyConfig
    model_average: ModelAverage
    samples: dict[str, tuple[float, ...]]
    terms_at_centroid: CentroidTerms
    holdout: HoldoutReport | None
    baselines: Baselines
    approaches: dict[str, ApproachReport]
    ranges: dict[str, tuple[float, float]]
    columns: dict[str, str]
    quantity: dict[str, str]
    read_with: dict[str, Any]
    token_cost: TokenCost
    inputs: tuple[InputFile, ...]
    data: FittedRows
    seed: int
    created_at: float
    warnings: tuple[FitWarning, ...] = ()
    sensitivity: tuple[SensitivityRow, ...] = ()
    command: str | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """As kept in ``fit.json``."""
        return jsonable(msgspec.to_builtins(self, enc_hook=plain_number))


def plain_number(value: Any) -> Any:
    """A number of NumPy as one of Python.

    Raises:
        NotImplementedError: the value is none, as msgspec asks for.
    """
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError


def finite(value: Any) -> float | None:
    """A number as JSON can hold it: None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def interval_of(ends: Any) -> Interval:
    """A pair of ends as an interval, open where an end is not finite."""
    low, high = ends
    return finite(low), finite(high)


def read_report(payload: dict[str, Any], origin: str) -> FitReport:
    """A report from the content of ``fit.json``.

    Args:
        payload: the parsed JSON.
        origin: how messages call it, as the path.

    Raises:
        InputError: the content is not a fit's, or has the layout of another version.
    """
    if "schema" not in payload and not {"law", "params"} <= set(payload):
        raise InputError(f"{origin}: not a fit (no 'law' with 'params')")
    if payload.get("schema") != SCHEMA:
        version = f"schema {payload['schema']}" if "schema" in payload else "no schema number, before schema 2"
        raise InputError(
            f"{origin}: a fit of another version ({version}; this one reads {SCHEMA}): fit the table again"
        )
    try:
        return msgspec.convert(payload, FitReport)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: not a fit ({error})") from error
