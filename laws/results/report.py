"""All that a fit states, as typed values: the content of ``fit.json``. Its parts are in ``laws.results.report_parts``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from laws.base.errors import InputError
from laws.base.json_files import jsonable
from laws.base.uncertainty_config import UncertaintyConfig
from laws.data.ladder import Ladder
from laws.data.table import Exclusion
from laws.data.token_cost import TokenCost
from laws.forecasting.backtest import Backtest
from laws.forecasting.floor_forecast import FloorForecast
from laws.inference.noise import RunNoise
from laws.results.report_parts import (
    ApproachReport,
    Baselines,
    CentroidTerms,
    Certificate,
    FittedRows,
    FitWarning,
    FloorPoint,
    FrontierReport,
    Groups,
    HoldoutReport,
    InputFile,
    Intervals,
    ModelAverage,
    ObjectiveReport,
    Profiles,
    SensitivityRow,
)

SCHEMA = 3  # number of the layout of ``fit.json``; it rises whenever a field changes its name or meaning


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
        approaches: approaches 1 and 2: ``envelope``, ``isoflop_cubic``, ``isoflop_akima``,
            ``isoflop_parabola``.
        ranges: variable -> smallest and largest value of the fitted runs.
        columns: variable -> column of the table.
        quantity: what was measured: ``loss``, its column, and the evaluation set or tokenizer that the table names.
        read_with: what ``laws.load`` was told beside columns and filters, to read another table alike.
        token_cost: training FLOPs a token.
        inputs: files behind the fit, the table first.
        data: the fitted rows.
        seed: of all draws.
        created_at: unix seconds.
        frontier: the law of the frontier beside the surfaces.
        ladder: the line of runs whose parameters and tokens are in step, where another law was asked for than could be
            fitted.
        asked_law: the law that was asked for; without a ladder another than the fitted one only where the runs do not
            determine it, and forecasts are those of surfaces under their prior.
        warnings: in the order in which they matter.
        sensitivity: the fit under other choices, where that was asked for.
        floor_profile: forecasts at the target with the floor held, likewise.
        floor_forecast: forecasts of the target by the mixture of surfaces, where the floor lies in an interval.
        groups: efficiencies of groups of runs that share the law, where that was asked for.
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
    frontier: FrontierReport | None = None
    ladder: Ladder | None = None
    asked_law: str | None = None
    warnings: tuple[FitWarning, ...] = ()
    sensitivity: tuple[SensitivityRow, ...] = ()
    floor_profile: tuple[FloorPoint, ...] = ()
    floor_forecast: tuple[FloorForecast, ...] = ()
    groups: Groups | None = None
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
        report = msgspec.convert(payload, FitReport)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: not a fit ({error})") from error
    _check_lengths(report, origin)
    return report


def _check_lengths(report: FitReport, origin: str) -> None:
    """Refuses arrays of one table that differ in length, and draws of other constants than the fitted ones.

    Raises:
        InputError: names the key.
    """
    rows = {"run": report.data.run, **report.data.values, "loss": report.data.loss}
    optional = {"weight": report.data.weight, "seed": report.data.seed}
    rows |= {name: values for name, values in optional.items() if values is not None}
    tables = {"samples": (report.samples, report.params), "data": (rows, rows)}
    for form in report.model_average.forms[1:]:
        tables[f"model_average ({form.label}) samples"] = (form.samples, form.params)
    for key, (arrays, names) in tables.items():
        unmatched = sorted(set(arrays) ^ set(names)) if arrays else []
        if unmatched:
            raise InputError(f"{origin}: not a fit ({key}: '{unmatched[0]}' is not in both samples and params)")
        first = next(iter(arrays), "")
        for name, values in arrays.items():
            if len(values) != len(arrays[first]):
                raise InputError(
                    f"{origin}: not a fit ({key}: '{name}' has {len(values)} values, and '{first}' {len(arrays[first])})"
                )
