"""A finished fit: what it found, what vouches for it, and what it predicts; kept as one JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laws.base.errors import InputError
from laws.base.json_files import read_json, write_json
from laws.data.token_cost import TokenCost
from laws.forecasting.prediction import Predictor, Rival, predict_compute, predict_loss
from laws.inference.noise import RunNoise
from laws.model.forms import find
from laws.model.law import Law
from laws.model.variables import CORE, checked_variable

DIGITS = 12  # of the resampled constants kept in the file


@dataclass(frozen=True)
class FitResult:
    """A law with its constants, their uncertainty and the runs behind them.

    Args:
        law: the law.
        report: everything ``fit.json`` says, in its layout.
    """

    law: Law
    report: dict[str, Any]

    @property
    def params(self) -> dict[str, float]:
        return self.report["params"]

    @property
    def derived(self) -> dict[str, float]:
        return self.report["derived"]

    @property
    def intervals(self) -> dict[str, Any]:
        return self.report["intervals"]

    @property
    def warnings(self) -> list[str]:
        return self.report["warnings"]

    @property
    def observable(self) -> str:
        """What is predicted, with its unit where that is known."""
        return self.report["observable"]

    @property
    def predictor(self) -> Predictor:
        """The part of the fit that predictions need."""
        report = self.report
        return Predictor(
            law=self.law,
            constants=_array(self.law, report["params"]),
            draws=_array(self.law, report["samples"]).reshape(-1, len(self.law.names)),
            cost=TokenCost.from_dict(report["cost"]),
            noise=RunNoise(**{name: report["noise"][name] for name in ("seeds", "residual", "dof")}),
            rivals=tuple(map(_rival, report.get("ensemble", {}).get("forms", [])[1:])),
            extrapolation_inflation=report.get("ensemble", {}).get("growth", 0.0),
            ranges={variable: tuple(ends) for variable, ends in report["ranges"].items()},
            level=report["intervals"]["level"],
            seed=report["seed"],
        )

    def predict(self, *, compute: float | None = None, **given: float) -> dict[str, Any]:
        """A prediction with its interval and extrapolation factors.

        Args:
            compute: FLOPs to be split in the best way, at given values of what the law reads beside n and d; or
            given: the size ``n`` and data ``d`` of one run, or whatever variables the law reads.

        Raises:
            InputError: neither or both are given, a value is not positive, or the law does not read a variable.
        """
        given = {variable: value for variable, value in given.items() if value is not None}
        unread = sorted(set(map(checked_variable, given)) - {*CORE, *self.law.columns})
        if unread:
            raise InputError(f"law '{self.law.name}' does not read {' or '.join(unread)}")
        if (not given) if compute is None else set(given) & set(CORE):
            raise InputError("a prediction needs either --compute or the law's own columns (--n, --d, --at), not both")
        if compute is None:
            found = predict_loss(self.predictor, **given)
        elif "c" in self.law.columns and not self.law.has_compute_optimum:
            found = predict_loss(self.predictor, c=compute, **given)
        else:
            found = given | predict_compute(self.predictor.with_inputs_fixed(**given), compute)
        return found | {"observable": self.observable}

    def save(self, path: str | Path) -> Path:
        """Writes ``fit.json``."""
        write_json(path, self.report)
        return Path(path)

    def __str__(self) -> str:
        level, ends = self.intervals["level"], self.intervals["params"] | self.intervals["derived"]
        lines = [f"{self.law.formula}   ({self.report['n_runs']} runs)"]
        for name, value in (self.params | self.derived).items():
            low, high = ends.get(name) or (None, None)
            bracket = "" if low is None else f"   [{low:.4g}, {high:.4g}]"
            lines.append(f"  {name:<16} {value:.6g}{bracket}" if value is not None else f"  {name:<16} none")
        lines.append(f"  intervals: {level:.0%}")
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])


def _array(law: Law, kept: dict[str, Any]) -> np.ndarray:
    return np.array([kept[name] for name in law.names], np.float64).T


def _rival(kept: dict[str, Any]) -> Rival:
    law = find(kept["law"])
    draws = _array(law, kept["samples"]).reshape(-1, len(law.names))
    return Rival(kept["form"], law, _array(law, kept["params"]), draws, kept["weight"])


def samples_of(law: Law, params: np.ndarray) -> dict[str, list[float]]:
    """Resampled constants as kept in the file."""
    return {name: [float(f"{v:.{DIGITS}g}") for v in params[:, i]] for i, name in enumerate(law.names)}


def from_report(report: dict[str, Any], origin: str = "fit", law: str | Law | None = None) -> FitResult:
    """A fit from the content of its file.

    Raises:
        InputError: the content is not a fit's, or not of that law.
    """
    missing = [key for key in ("law", "params", "intervals", "ranges", "samples", "cost", "noise") if key not in report]
    if missing:
        raise InputError(f"{origin}: not a fit (no '{missing[0]}')")
    found = find(law or report.get("declared_in") or report["law"]).with_fixed(report.get("fixed"))
    if set(found.names) != set(report["params"]):
        raise InputError(
            f"{origin}: a fit of other constants than those of law '{found.name}' ({', '.join(found.names)})"
        )
    return FitResult(found, report)


def read_fit(path: str | Path, law: str | Law | None = None) -> FitResult:
    """A fit from ``fit.json``.

    Args:
        path: the file.
        law: the declaration, or ``file.py:NAME``; by default the law that the fit names, from where it was declared.

    Raises:
        InputError: no such file, or not a fit.
    """
    return from_report(read_json(path, "fit"), str(path), law)
