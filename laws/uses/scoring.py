"""A frozen prediction against what was measured since.

Hashes of the prediction and of its inputs are checked first (``laws.uses.preregistration`` says what they prove).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import InputError, NotPreregistered
from laws.base.json_files import jsonable, sha256
from laws.data.loading import load
from laws.data.measurements import DAY
from laws.data.table import ExclusionRule, Table
from laws.model.law import Law
from laws.model.variables import CORE
from laws.results.read_back import from_report
from laws.results.report import FitReport
from laws.results.report_parts import InputFile
from laws.results.results import FitResult
from laws.uses.preregistration import FrozenPrediction, read_frozen

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

KIND = "isoflop.score"
NEAR = 0.05  # runs within this relative distance of the target are measurements of it
UNCHANGED = 1e-9  # relative difference up to which a number is the same after a round trip through files
INFORMATIVE = 0.05  # an interval wider than this share of the loss says nothing
SHIFT = 5e-5  # relative distance between a run and the target, by the law, from which it is said
DISTANCE_DIGITS = 6  # of a log distance, so that repeats of one size are equally near


@dataclass(frozen=True)
class PredictedLoss:
    """What was predicted.

    Args:
        loss: by the law.
        interval: of one run.
        level: nominal coverage of the interval.
    """

    loss: float
    interval: tuple[float, float]
    level: float


@dataclass(frozen=True)
class MeasuredLoss:
    """The one run that measures the target.

    Args:
        loss: at the target's size and data.
        run_loss: as measured, at the run's own size and data.
        how: how the run was chosen, in words.
        values: variable -> value of the run, as ``n``, ``d`` and ``c``.
        run: its identity.
        n_sizes: measured sizes at the target.
        n_repeats: runs of the chosen size.
        lowest_loss: lowest mean loss of a size.
    """

    loss: float
    run_loss: float
    how: str
    values: dict[str, float]
    run: str
    n_sizes: int
    n_repeats: int
    lowest_loss: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the variables stand among the fields."""
        fields = asdict(self)
        return fields | fields.pop("values")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MeasuredLoss:
        """From what ``to_dict`` gives."""
        named = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        return cls(**named, values={name: value for name, value in fields.items() if name not in named})


@dataclass(frozen=True)
class NaiveForecast:
    """The forecast of a naive method, and how far off it was."""

    loss: float
    abs_rel_error: float


@dataclass(frozen=True)
class NaiveForecasts:
    """Naive forecasts of the target.

    Args:
        best_so_far: the lowest loss among the fitted runs.
        power_law: a power law without offset along their frontier; None where there is none.
    """

    best_so_far: NaiveForecast
    power_law: NaiveForecast | None


@dataclass(frozen=True, repr=False)
class ScoredRuns:
    """Every measured run against the law at its own size and data.

    Args:
        n: how many.
        mean_abs_rel_error, max_abs_rel_error: of the predicted loss.
        coverage: share of them inside their intervals.
        rows: a column each: the variables, ``run``, ``loss``, ``predicted``, ``low`` and ``high``.
    """

    n: int
    mean_abs_rel_error: float
    max_abs_rel_error: float
    coverage: float
    rows: dict[str, np.ndarray]

    def frame(self) -> pd.DataFrame:
        """The runs as a table: ``rows``."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def __repr__(self) -> str:
        return f"<ScoredRuns {self.n} runs: mean error {self.mean_abs_rel_error:.2%}, {self.coverage:.0%} inside>"


@dataclass(frozen=True, repr=False)
class Score:
    """A frozen prediction against what was measured.

    Args:
        prediction: its file; the hash is the one inside it.
        target: variable -> value at which it was made.
        predicted, measured: loss before and after.
        abs_rel_error: of the predicted loss.
        covered: whether the measured loss lies inside the interval.
        interval_width, relative_width: of the interval, in loss and relative to the predicted loss.
        informative: whether it is narrower than ``INFORMATIVE`` of the loss.
        baselines: naive forecasts of the same.
        runs: all runs at the target.
        extrapolation: variable -> factor by which the target lies outside the fitted runs.
        preregistered: True if the table shows that the prediction came first; None where it does not say.
        frozen_at, first_record_at: when the prediction was frozen and the first measurement ended, unix seconds.
        warnings: what a reader must know.
    """

    prediction: InputFile
    target: dict[str, float]
    predicted: PredictedLoss
    measured: MeasuredLoss
    abs_rel_error: float
    covered: bool
    interval_width: float
    relative_width: float
    informative: bool
    baselines: NaiveForecasts
    runs: ScoredRuns
    extrapolation: dict[str, float]
    preregistered: bool | None
    frozen_at: float
    first_record_at: float | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``score.json``."""
        return jsonable({"kind": KIND} | asdict(self) | {"measured": self.measured.to_dict()})

    def __repr__(self) -> str:
        low, high = self.predicted.interval
        return (
            f"<Score: predicted {self.predicted.loss:.5g}, measured {self.measured.loss:.5g} "
            f"({self.abs_rel_error:.2%} off), {'inside' if self.covered else 'outside'} the {self.predicted.level:.0%} "
            f"interval [{low:.5g}, {high:.5g}]>"
        )


def _keys(values: Mapping[str, ArrayLike], loss: ArrayLike) -> Float[np.ndarray, "rows fields"]:
    """What tells rows apart: N, D and C as far as they are known, and the loss."""
    known = [np.asarray(values[variable], float) for variable in CORE if variable in values]
    return np.stack([*known, np.asarray(loss, float)], axis=1)


def _missing(fit: FitReport, table: Table) -> list[str]:
    """Fitted runs that a table no longer holds with the same numbers."""
    fitted, now = _keys(fit.data.values, fit.data.loss), _keys(table.values, table.loss)
    if fitted.shape[1] != now.shape[1]:
        return list(fit.data.run)
    now = now[np.lexsort(now.T[::-1])]
    missing = []
    for run, row in zip(fit.data.run, fitted, strict=True):
        first = np.searchsorted(now[:, 0], row[0] * (1 - UNCHANGED))
        last = np.searchsorted(now[:, 0], row[0] * (1 + UNCHANGED), side="right")
        if not np.any(np.all(np.abs(now[first:last] / row - 1) <= UNCHANGED, axis=1)):
            missing.append(run)
    return missing


def _check_inputs(frozen: FrozenPrediction, table: Table) -> list[str]:
    """Warnings about inputs that cannot be checked any more.

    A sweep's table grows when it is collected again, so a table whose hash differs passes if every run that was fitted
    is still in it with the same numbers.

    Raises:
        InputError: an input is not what the prediction was made from.
    """
    warnings = []
    table_path = frozen.fit.inputs[0].path if frozen.fit.inputs else None
    for file in frozen.inputs:
        path = Path(file.path)
        if not path.exists():
            warnings.append(f"{path} is no longer there and cannot be checked against its hash")
        elif sha256(path) != file.sha256:
            if file.path != table_path:
                raise InputError(f"{path}: changed since the prediction was frozen (sha256 {str(file.sha256)[:12]}...)")
            now = table if table.path == file.path else load(path, **frozen.table_options)
            lost = _missing(frozen.fit, now)
            if lost:
                raise InputError(
                    f"{path}: changed since the prediction was frozen: {len(lost)} fitted runs are gone or have other "
                    f"numbers, the first is {lost[0]}"
                )
    return warnings


def _rows_at_target(target: dict[str, float], table: Table) -> Bool[np.ndarray, " rows"]:
    """The rows that measure the target."""
    rows = np.ones(len(table), bool)
    for variable, value in target.items():
        rows &= table.at_budget(value, NEAR) if variable == "c" else np.abs(table.values[variable] / value - 1) <= NEAR
    if not rows.any():
        listed = ", ".join(f"{variable} = {value:.4g}" for variable, value in target.items())
        raise InputError(f"{table.name}: no run was measured at {listed} (within {NEAR:.0%})")
    return rows


def _first_record(
    frozen_at: float, table: Table, at_target: Bool[np.ndarray, " rows"]
) -> tuple[float | None, list[str]]:
    """When the first measurement of the target ended, None with a warning where the table does not say.

    A date without a time of day counts as the end of that day (UTC), so a run is refused only if all of its day lies
    before the prediction; if the prediction was frozen on that day, the date does not show which came first.

    Args:
        frozen_at: when the prediction was frozen, unix seconds.
        table: the runs.
        at_target: rows that measure the target.

    Raises:
        NotPreregistered: before the prediction was frozen.
    """
    if table.ended_at is None or not np.isfinite(table.ended_at[at_target]).all():
        return None, [
            f"{table.name} does not say when its runs ended (ended_at): that the prediction came before them is not shown"
        ]
    first = float(table.ended_at[at_target].min())
    if first <= frozen_at:
        run = table.run[at_target][np.argmin(table.ended_at[at_target])]
        raise NotPreregistered(
            f"{table.name}: run {run} at the target ended {frozen_at - first:.0f} s before the prediction "
            "was frozen, so the prediction is not preregistered"
        )
    ended = table.ended_at[at_target]
    if np.any((ended % DAY == 0) & (ended - DAY < frozen_at)):
        return None, [
            f"{table.name} says on which day its runs ended, not when, and the prediction was frozen on one of these days: "
            "that it came before them is not shown"
        ]
    return first, []


def _measurement(
    frozen: FrozenPrediction, fitted: FitResult, table: Table, at_target: Bool[np.ndarray, " rows"]
) -> MeasuredLoss:
    """The one run that measures the target, and its loss brought to the target's size and data by the frozen law.

    The interval is of one run at the target, so it is compared with one run, chosen without a look at its loss: the
    nearest to the target (for a compute budget, to the predicted best size), of repeats the one that ended first. The
    lowest of several sizes would be low by the luck of its noise, and a run beside the target is off by what the law
    says. A fit of the best run of each compute is compared with the best run.

    Args:
        frozen: the prediction.
        fitted: its fit.
        table: the runs.
        at_target: rows that measure the target.
    """
    rows, target = np.flatnonzero(at_target), frozen.target | frozen.prediction.inputs
    loss, values = table.loss[rows], {name: column[rows] for name, column in table.values.items()}
    size = np.unique(np.stack(list(values.values()), axis=1), axis=0, return_inverse=True)[1].ravel()
    if any(rule.rule == ExclusionRule.FRONTIER for rule in fitted.report.excluded):
        chosen, ratio, how = int(np.argmin(loss)), 1.0, f"lowest of {len(rows)} runs, as those that were fitted"
    else:
        shared = [name for name in target if name in values and target[name] > 0]
        distance = np.sum([np.abs(np.log(values[name] / target[name])) for name in shared], axis=0)
        ended = np.zeros(len(rows)) if table.ended_at is None else table.ended_at[rows]
        chosen = int(np.lexsort((ended, distance.round(DISTANCE_DIGITS)))[0])
        at_run = fitted.predict({name: column[[chosen]] for name, column in values.items()})
        ratio = float(fitted.predict({name: [value] for name, value in target.items()}).iloc[0] / at_run.iloc[0])
        how = f"nearest of {int(size.max()) + 1} measured sizes"
    repeats = int(np.sum(size == size[chosen]))
    how += f", first of {repeats} repeats" if repeats > 1 else ""
    how += f", {loss[chosen]:.5f} at its own size and data" if abs(ratio - 1) > SHIFT else ""
    return MeasuredLoss(
        loss=float(loss[chosen]) * ratio,
        run_loss=float(loss[chosen]),
        how=how,
        values={variable: float(column[chosen]) for variable, column in values.items()},
        run=str(table.run[rows[chosen]]),
        n_sizes=int(size.max()) + 1,
        n_repeats=repeats,
        lowest_loss=float(np.min(np.bincount(size, loss) / np.bincount(size))),
    )


def _naive_forecasts(frozen: FrozenPrediction, measured: MeasuredLoss) -> NaiveForecasts:
    """What the naive methods had predicted, and how far off they were."""
    baselines = frozen.fit.baselines
    scored = lambda loss: NaiveForecast(loss, abs(loss / measured.loss - 1))
    compute = frozen.target.get("c", measured.values.get("c"))
    power_law = None
    if baselines.power_law and compute:
        power_law = scored(baselines.power_law.k * compute**-baselines.power_law.p)
    return NaiveForecasts(scored(baselines.best_loss), power_law)


def _scored_runs(fitted: FitResult, table: Table, at_target: Bool[np.ndarray, " rows"]) -> ScoredRuns:
    """Every measured run against the law at its own size and data."""
    values = {variable: column[at_target] for variable, column in table.values.items()}
    measured, (predicted, low, high) = table.loss[at_target], fitted.predictor.losses(values)
    error = np.abs(predicted / measured - 1)
    return ScoredRuns(
        n=int(at_target.sum()),
        mean_abs_rel_error=float(error.mean()),
        max_abs_rel_error=float(error.max()),
        coverage=float(((low <= measured) & (measured <= high)).mean()),
        rows=values
        | {"run": table.run[at_target]}
        | {"loss": measured, "predicted": predicted, "low": low, "high": high},
    )


def _other_quantity(fit: FitReport, table: Table) -> list[str]:
    """Warnings where the runs measure something else than what was predicted."""
    return [
        f"the prediction is of {key} '{value}', and the runs are of '{table.quantity[key]}'"
        for key, value in fit.quantity.items()
        if table.quantity.get(key, value) != value
    ]


def score(path: str | Path, table: str | Path | Table, law: str | Law | None = None) -> Score:
    """A frozen prediction against what was measured since.

    Args:
        path: the frozen file.
        table: the runs; a path is read with the columns of the fit.
        law: the declaration, or ``file.py:NAME``; needed for a law that is not one of ``laws.LAWS``.

    Raises:
        InputError: the frozen file or an input was changed, or nothing was measured at the target.
        NotPreregistered: a measurement is older than the prediction.

    Example:
        >>> import pathlib, tempfile, time, numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> table = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28, "ended_at": 0.0})
        >>> fit = laws.load(table, n="n", d="d").fit(resamples=0)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prediction.json"
        >>> frozen = laws.freeze(fit, path, n=1e10, d=1e12)
        >>> table.loc[len(table)] = [1e10, 1e12, 2.1, time.time() + 1]
        >>> result = laws.score(path, laws.load(table, n="n", d="d"))
        >>> result.measured.loss, result.abs_rel_error < 0.05
        (2.1, True)
    """
    frozen = read_frozen(path)
    if not isinstance(table, Table):
        table = load(table, **frozen.table_options)
    warnings = _check_inputs(frozen, table) + _other_quantity(frozen.fit, table)
    fitted = from_report(frozen.fit, str(path), law)
    table = table.for_law(fitted.law)
    at_target = _rows_at_target(frozen.target, table)
    first_record_at, undated = _first_record(frozen.created_at, table, at_target)
    measured = _measurement(frozen, fitted, table, at_target)
    forecast = frozen.prediction
    low, high = forecast.interval
    relative_width = (high - low) / forecast.value
    if relative_width > INFORMATIVE:
        warnings.append(
            f"uninformative: the interval is {relative_width:.1%} of the loss wide, more than {INFORMATIVE:.0%}"
        )
    return Score(
        prediction=InputFile(str(path), frozen.sha256),
        target=frozen.target,
        predicted=PredictedLoss(forecast.value, forecast.interval, forecast.level),
        measured=measured,
        abs_rel_error=abs(forecast.value / measured.loss - 1),
        covered=low <= measured.loss <= high,
        interval_width=high - low,
        relative_width=relative_width,
        informative=relative_width <= INFORMATIVE,
        baselines=_naive_forecasts(frozen, measured),
        runs=_scored_runs(fitted, table, at_target),
        extrapolation=forecast.extrapolation,
        preregistered=None if first_record_at is None else True,
        frozen_at=frozen.created_at,
        first_record_at=first_record_at,
        warnings=(*undated, *warnings, *table.warnings, *forecast.warnings),
    )
