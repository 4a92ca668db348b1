"""The results object of a fit, in the manner of statsmodels: parameters, intervals, residuals, predictions, summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from laws.base.array_math import numbers_of
from laws.base.errors import InputError
from laws.base.json_files import write_json
from laws.estimation.estimate import log_predictions
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.mixture import Predictor
from laws.forecasting.prediction import Forecast, predict_compute, predict_runs
from laws.inference.methods import IntervalMethod
from laws.inference.noise import interval
from laws.model.forms import find, shipped
from laws.model.grouped import grouped
from laws.model.law import Law
from laws.model.variables import CORE, VARIABLES, checked_variable
from laws.results.budget_forecasts import budget_frame
from laws.results.certificate_forecast import with_certificate
from laws.results.form_reports import by_row, frontier_predictor, rival_of
from laws.results.report import FitReport
from laws.results.report_parts import Certificate, FitWarning
from laws.results.run_predictions import Prediction

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NO_ENDS = (None, None)  # of an interval that is not known


@dataclass(frozen=True, repr=False)
class FitResult:
    """A law fitted to a table of runs.

    Args:
        law: the law, without the constants that were held.
        report: all that ``fit.json`` states.
    """

    law: Law
    report: FitReport

    @property
    def params(self) -> pd.Series:
        """Fitted constants, by name."""
        return pd.Series(self.report.params, dtype=float, name=self.law.name)

    @property
    def derived(self) -> pd.DataFrame:
        """What follows from the constants at the target compute.

        Returns:
            ``value``, ``low`` and ``high`` of the exponents ``a`` and ``b``, ``n_opt`` (parameters), ``d_opt`` (tokens),
            ``loss_opt`` and ``tokens_per_param``; ``n_without_optimum``, the number of resamples without an optimum
            there, which are not in the interval; in ``attrs``, ``target_flops``.
        """
        rows = {
            name: (value, *self.report.intervals.derived.get(name, NO_ENDS))
            for name, value in self.report.derived.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"], dtype=float)
        frame["n_without_optimum"] = self.report.intervals.n_without_optimum
        frame.attrs["target_flops"] = self.report.target_flops
        return frame

    def conf_int(self, level: float | None = None) -> pd.DataFrame:
        """Intervals of the constants.

        Args:
            level: nominal coverage; by default that of the fit.

        Returns:
            ``low`` and ``high``, a row a constant; infinite where an end is open.

        Raises:
            InputError: another level of profile intervals, or no resamples.
        """
        level = self.report.intervals.level if level is None else level
        if level == self.report.intervals.level:
            rows = self.report.intervals.params
        elif not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, and is {level}")
        elif self.report.intervals.method == IntervalMethod.PROFILE:
            raise InputError(
                f"profile intervals are known at the level of the fit alone, {self.report.intervals.level}: fit with "
                f"level={level}"
            )
        else:
            rows = {name: interval(np.array(draws), level) for name, draws in self.report.samples.items()}
        if not rows:
            raise InputError("the fit has no resamples, so there are no intervals: fit with resamples above 0")
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["low", "high"], dtype=float)
        return frame.fillna({"low": -np.inf, "high": np.inf})

    @property
    def approaches(self) -> pd.DataFrame:
        """Exponents of N*(C) and D*(C) by the three approaches of Hoffmann et al. 2022, on the same runs.

        Returns:
            ``a``, ``a_low``, ``a_high``, ``b``, ``b_low``, ``b_high``, and ``reason`` where an approach has none, of
            ``envelope`` (approach 1), ``isoflop_cubic``, ``isoflop_akima`` and ``isoflop_parabola`` (2), and ``law`` (3, at
            the target).
        """
        rows = {
            name: [
                approach.a,
                *(approach.a_interval or NO_ENDS),
                approach.b,
                *(approach.b_interval or NO_ENDS),
                approach.reason,
            ]
            for name, approach in self.report.approaches.items()
        }
        if {"a", "b"} <= set(self.report.derived):
            ends = [(self.report.derived[name], *self.report.intervals.derived.get(name, NO_ENDS)) for name in "ab"]
            rows["law"] = [*ends[0], *ends[1], None]
        exponents = ["a", "a_low", "a_high", "b", "b_low", "b_high"]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*exponents, "reason"])
        return frame.astype(dict.fromkeys(exponents, float))

    @property
    def groups(self) -> pd.DataFrame:
        """Efficiencies of the groups of a fit with ``group=``, relative to the first, which has the most runs.

        Returns:
            a row a group: ``n_runs``; ``size`` and ``data``, the parameters and tokens of the first group that one of the
            group is worth, and ``compute``, their product, each with ``_low`` and ``_high``. No rows without groups.
        """
        quantities = ("size", "data", "compute")
        rows = {
            entry.group: [entry.n_runs]
            + [v for q in quantities for v in (getattr(entry, q), *(getattr(entry, f"{q}_interval") or NO_ENDS))]
            for entry in (self.report.groups.efficiencies if self.report.groups else ())
        }
        columns = ["n_runs", *(f"{q}{end}" for q in quantities for end in ("", "_low", "_high"))]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return frame.astype({name: float for name in columns[1:]} | {"n_runs": int}).rename_axis("group")

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the constants over the resamples.

        Raises:
            InputError: the fit has no resamples.
        """
        if len(self.predictor.draws) < 2:
            raise InputError("the fit has no resamples, so there is no covariance: fit with resamples above 0")
        names = list(self.law.names)
        return pd.DataFrame(np.atleast_2d(np.cov(self.predictor.draws, rowvar=False)), names, names)

    @property
    def data(self) -> pd.DataFrame:
        """The fitted rows: a column a variable (``n``, ``d``, ``c``, ...) and ``loss``, indexed by run."""
        values = {variable: np.array(values) for variable, values in self.report.data.values.items()}
        frame = pd.DataFrame(values | {"loss": np.array(self.report.data.loss)}, index=list(self.report.data.run))
        return frame.rename_axis("run")

    @property
    def fittedvalues(self) -> pd.Series:
        """What the law predicts for each fitted row."""
        return self.predict(self.data).rename("fitted")

    @property
    def resid(self) -> pd.Series:
        """Residuals of the fitted rows: log of the measured loss minus log of the predicted one."""
        return np.log(self.data["loss"] / self.fittedvalues).rename("resid")

    def objective_at(self, params: Mapping[str, float]) -> float:
        """The objective of the fitted rows at other constants, to compare with ``report.objective.value``.

        Args:
            params: a value for every constant of the law that is not held; other names are ignored.

        Returns:
            the sum over the fitted rows, in the objective of the fit and with its weights.

        Raises:
            InputError: a constant has no value.
        """
        missing = [name for name in self.law.names if name not in params]
        if missing:
            raise InputError(f"the objective of law '{self.law.name}' needs a value of {' and '.join(missing)}")
        rows, objective = self.report.data, OBJECTIVES[self.report.objective.name]
        columns = {variable: np.array(values) for variable, values in rows.values.items()}
        log_loss = np.log(rows.loss)
        residual = log_predictions(self.law, by_row(self.law, params)[None], columns)[0] - log_loss
        weight = np.ones(len(log_loss)) if rows.weight is None else np.array(rows.weight)
        return float(np.sum(objective.weights(weight, log_loss) * objective(residual, self.report.objective.delta)))

    @property
    def n_runs(self) -> int:
        """Number of fitted runs."""
        return self.report.n_runs

    @property
    def dof_resid(self) -> float:
        """Residual degrees of freedom: effective runs, of equal numbers of rows, less constants."""
        return self.report.dof_resid

    @property
    def certificate(self) -> Certificate:
        """What vouches for the optimum: gradient, expected decrease, condition, bounds, starts."""
        return self.report.certificate

    @property
    def warnings(self) -> tuple[FitWarning, ...]:
        """What a reader of the fit must know, in the order in which it matters."""
        return self.report.warnings

    @property
    def observable(self) -> str:
        """What is predicted, with its unit where that is known."""
        return self.report.observable

    @property
    def predictor(self) -> Predictor:
        """The part of the fit that predictions need."""
        report = self.report
        predictor = Predictor(
            law=self.law,
            constants=by_row(self.law, report.params),
            draws=by_row(self.law, report.samples).reshape(-1, len(self.law.names)),
            cost=report.token_cost,
            noise=report.noise,
            rivals=tuple(map(rival_of, report.model_average.forms[1:])),
            extrapolation_inflation=report.model_average.extrapolation_inflation,
            ranges=report.ranges,
            level=report.intervals.level,
            seed=report.seed,
            config=report.uncertainty,
            ladder=report.ladder,
        )
        frontier = report.frontier
        return predictor if frontier is None else predictor.beside(frontier_predictor(predictor, frontier.forms))

    def _variables(self, frame: pd.DataFrame | Mapping[str, Any]) -> dict[str, Float[np.ndarray, " rows"]]:
        """Variables that the law reads, from columns called as the variables or as in the fitted table."""
        columns, lengths = {}, {}
        for variable in dict.fromkeys((*self.law.columns, *(CORE if self.predictor.of_surfaces else ("c",)))):
            for column in (variable, self.report.columns.get(variable, variable), VARIABLES[variable].column):
                if column in frame:
                    columns[variable] = numbers_of(frame[column], f"column '{column}'")
                    lengths[column] = columns[variable].size
                    break
        several = {column: length for column, length in lengths.items() if length != 1}
        if len(set(several.values())) > 1:
            listed = " and ".join(f"'{column}' ({length})" for column, length in several.items())
            raise InputError(f"columns {listed} are of unequal lengths")
        return columns

    def predict(self, frame: pd.DataFrame | Mapping[str, Any]) -> pd.Series:
        """What the law predicts for runs.

        Args:
            frame: a row a run; its columns are called as the law's variables (``n``: parameters, ``d``: tokens, ``c``:
                FLOPs, ...) or as in the fitted table. Compute is filled in where it is not given.

        Raises:
            InputError: a variable is missing, a value is not a positive and finite number, or columns differ in length.
        """
        columns = self.predictor.columns(self._variables(frame))
        value = np.exp(log_predictions(self.law, self.predictor.constants[None], columns)[0])
        return pd.Series(value, _index(frame, len(value)), name=self.observable)

    def get_prediction(self, frame: pd.DataFrame | Mapping[str, Any]) -> Prediction:
        """Predictions for runs, with the interval of the mean and that of one run.

        Args:
            frame: as in ``predict``.

        Raises:
            InputError: as ``predict``.
        """
        columns = self.predictor.columns(self._variables(frame))
        log_losses = self.predictor.log_losses(columns)
        value = self.predictor.central_losses(columns, log_losses)
        return Prediction(self.predictor, columns, value, log_losses, _index(frame, len(value)))

    def optimal(self, compute: ArrayLike, **given: float) -> pd.DataFrame:
        """Compute-optimal sizes of many budgets.

        Args:
            compute: training FLOPs, in the convention of the fit.
            given: values of what the law reads beside n and d.

        Returns:
            a row a budget: ``n`` (parameters), ``d`` (tokens), ``loss``, ``a`` and ``b`` (local exponents), each with
            ``_ci_lower`` and ``_ci_upper``; ``loss_run_ci_lower`` and ``loss_run_ci_upper`` of one run; and
            ``n_without_optimum``, resamples that have none. Not a number where the law has no optimum. Beside surfaces
            ``frontier_loss``, by the law of the frontier, with its interval; where the two are apart, those of the loss
            hold both.

        Raises:
            InputError: the law does not trade n against d, or a compute is not positive and finite.
        """
        compute = np.atleast_1d(numbers_of(compute, "compute"))
        wrong = ~(np.isfinite(compute) & (compute > 0))
        if wrong.any():
            raise InputError(f"compute must be positive and finite, and is {compute[wrong][0]:g}")
        predictor = self.predictor.with_inputs_fixed(**given)
        return budget_frame(predictor, compute)

    def forecast(self, *, compute: float | None = None, **given: float | None) -> Forecast:
        """The forecast of one run, with what its uncertainty is made of.

        Args:
            compute: FLOPs to be split in the best way, at given values of what the law reads beside n and d; or
            given: the size ``n`` and data ``d`` of one run, or whatever variables the law reads.

        Raises:
            InputError: neither or both are given, a value is not positive, or the law does not read a variable.
            FitFailed: the law has no optimum at that compute.
        """
        values = {variable: value for variable, value in given.items() if value is not None}
        unread = sorted(set(map(checked_variable, values)) - {*CORE, *self.law.columns})
        if unread:
            raise InputError(f"law '{self.law.name}' does not read {' or '.join(unread)}")
        if (not values) if compute is None else set(values) & set(CORE):
            message = "a forecast needs either compute or the law's own variables (n, d, ...), not both"
            raise InputError(message, flag="--compute=FLOPS")
        if compute is None:
            forecast = predict_runs(self.predictor, **values)
        elif "c" in self.law.columns and not self.law.has_compute_optimum:
            forecast = predict_runs(self.predictor, c=compute, **values)
        else:
            forecast = predict_compute(self.predictor.with_inputs_fixed(**values), compute)
            forecast = dataclasses.replace(forecast, inputs=values | forecast.inputs)
        return dataclasses.replace(forecast, observable=self.observable)

    def forecast_certificate(self, compute: float, tolerance: float | None = None) -> Forecast:
        """The forecast of a budget with the interval of a certificate: whatever mixtures of power laws allow.

        Args:
            compute: training FLOPs.
            tolerance: relative distance within which the mixtures meet the best run of each budget; by default from the
                noise of the runs.

        Raises:
            InputError: the runs have no compute or too few budgets, or a number is not positive.
            FitFailed: the law has no optimum at that compute, or a linear program was not solved.
        """
        return with_certificate(self.forecast(compute=compute), self.report, compute, tolerance)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``fit.json``."""
        return self.report.to_dict()

    def save(self, path: str | Path) -> Path:
        """Writes ``fit.json``; returns its path."""
        write_json(path, self.to_dict())
        return Path(path)

    def table(self) -> pd.DataFrame:
        """Constants and derived quantities: ``value``, ``low`` and ``high``."""
        ends = self.report.intervals.params
        rows = {name: (value, *ends.get(name, NO_ENDS)) for name, value in self.report.params.items()}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"], dtype=float)
        return pd.concat([frame, self.derived.drop(columns="n_without_optimum")]) if len(self.report.derived) else frame

    def _heading(self) -> str:
        target = f", target {self.report.target_flops:.4g} FLOPs" if self.report.target_flops else ""
        intervals = f"{self.report.intervals.level:.0%} intervals by {self.report.intervals.method.title}"
        return f"{self.law.formula}   ({self.n_runs} runs{target}; {intervals})"

    def summary(self) -> str:
        """Constants, derived quantities and warnings as text."""
        lines = [self._heading()]
        for name, value, low, high in self.table().itertuples():
            ends = "" if np.isnan([low, high]).all() else f"   [{low:.4g}, {high:.4g}]".replace("nan", "open")
            lines.append(f"  {name:<16} {value:.6g}{ends}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its report: laws hold functions without names, which are looked up again by the name of the law."""
        is_own = self.report.declared_in is not None or shipped(law_name(self.report)) is None
        return _restored, (type(self), self.report, self.law if is_own else None)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        constants = ", ".join(f"{name}={value:.4g}" for name, value in self.report.params.items())
        return f"<FitResult {self.law.name}: {constants}; {self.n_runs} runs, {len(self.warnings)} warnings>"

    def _repr_html_(self) -> str:
        warned = "".join(f"<li>{escape(str(warning))}</li>" for warning in self.warnings)
        table = self.table().to_html(float_format=lambda value: f"{value:.6g}", na_rep="")
        return f"<p>{escape(self._heading())}</p>{table}" + (f"<ul>{warned}</ul>" if warned else "")


def _restored(kind: type[FitResult], report: FitReport, law: Law | None) -> FitResult:
    """A fit from its report, and its law where that is not one of ours."""
    return kind(declared_law(report, None) if law is None else law, report)


def declared_law(report: FitReport, law: str | Law | None) -> Law:
    """The law of a report: one of ours by its name, or the declaration given; shared by groups where the fit has them."""
    if report.groups is None:
        return find(law or report.law).with_fixed(report.fixed)
    return grouped(find(law or report.groups.law), len(report.groups.efficiencies)).with_fixed(report.fixed)


def law_name(report: FitReport) -> str:
    """Name of the law of a report, of the one that its groups share."""
    return report.law if report.groups is None else report.groups.law


def _index(frame: pd.DataFrame | Mapping[str, Any], count: int) -> pd.Index:
    return frame.index if isinstance(frame, pd.DataFrame) else pd.RangeIndex(count)
