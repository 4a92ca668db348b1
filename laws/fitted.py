"""A finished fit: what it found, what vouches for it, and what it predicts; kept as one JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laws.compute import Cost
from laws.errors import BadTable
from laws.forms import find
from laws.law import Law
from laws.predict import Predictor, Rival, predict_compute, predict_loss
from laws.roles import CORE, checked
from laws.uncertainty import Noise

DIGITS = 12  # of the resampled constants kept in the file


def plain(value: Any) -> Any:
    """The same as JSON can hold: arrays as lists, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_json(path: str | Path, payload: dict[str, Any]) -> None:
    """A file that is there whole or not at all.

    Raises:
        BadTable: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(plain(payload), indent=1, allow_nan=False) + "\n")
        os.replace(draft, path)
    except OSError as error:
        raise BadTable(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BadTable: no such file, or not JSON.
    """
    try:
        payload = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise BadTable(f"{path}: no such {what}") from error
    except (OSError, ValueError) as error:
        raise BadTable(f"{path}: not a readable {what} ({str(error).splitlines()[0]})") from error
    if not isinstance(payload, dict):
        raise BadTable(f"{path}: not a {what}")
    return payload


@dataclass(frozen=True)
class Fitted:
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
            cost=Cost.from_dict(report["cost"]),
            noise=Noise(**{name: report["noise"][name] for name in ("seeds", "residual", "freedom")}),
            rivals=tuple(map(_rival, report.get("ensemble", {}).get("forms", [])[1:])),
            growth=report.get("ensemble", {}).get("growth", 0.0),
            ranges={role: tuple(ends) for role, ends in report["ranges"].items()},
            level=report["intervals"]["level"],
            seed=report["seed"],
        )

    def predict(self, *, compute: float | None = None, **given: float) -> dict[str, Any]:
        """A prediction with its interval and extrapolation factors.

        Args:
            compute: FLOPs to be split in the best way, at given values of what the law reads beside n and d; or
            given: the size ``n`` and data ``d`` of one run, or whatever roles the law reads.

        Raises:
            BadTable: neither or both are given, a value is not positive, or the law does not read a role.
        """
        given = {role: value for role, value in given.items() if value is not None}
        unread = sorted(set(map(checked, given)) - {*CORE, *self.law.columns})
        if unread:
            raise BadTable(f"law '{self.law.name}' does not read {' or '.join(unread)}")
        if (not given) if compute is None else set(given) & set(CORE):
            raise BadTable("a prediction needs either --compute or the law's own columns (--n, --d, --at), not both")
        if compute is None:
            found = predict_loss(self.predictor, **given)
        elif "c" in self.law.columns and not self.law.allocates:
            found = predict_loss(self.predictor, c=compute, **given)
        else:
            found = given | predict_compute(self.predictor.at(**given), compute)
        return found | {"observable": self.observable}

    def plot(self, directory: str | Path, curves=None) -> list[Path]:
        """Every figure that the fit has data for, as PNG and SVG; returns the files."""
        from laws.plots import plot_all

        return plot_all(self, directory, curves)

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


def samples_of(law: Law, natural: np.ndarray) -> dict[str, list[float]]:
    """Resampled constants as kept in the file."""
    return {name: [float(f"{v:.{DIGITS}g}") for v in natural[:, i]] for i, name in enumerate(law.names)}


def from_report(report: dict[str, Any], origin: str = "fit", law: str | Law | None = None) -> Fitted:
    """A fit from the content of its file.

    Raises:
        BadTable: the content is not a fit's, or not of that law.
    """
    missing = [key for key in ("law", "params", "intervals", "ranges", "samples", "cost", "noise") if key not in report]
    if missing:
        raise BadTable(f"{origin}: not a fit (no '{missing[0]}')")
    found = find(law or report.get("declared_in") or report["law"]).holding(report.get("fixed"))
    if set(found.names) != set(report["params"]):
        raise BadTable(
            f"{origin}: a fit of other constants than those of law '{found.name}' ({', '.join(found.names)})"
        )
    return Fitted(found, report)


def read_fit(path: str | Path, law: str | Law | None = None) -> Fitted:
    """A fit from ``fit.json``.

    Args:
        path: the file.
        law: the declaration, or ``file.py:NAME``; by default the law that the fit names, from where it was declared.

    Raises:
        BadTable: no such file, or not a fit.
    """
    return from_report(read_json(path, "fit"), str(path), law)
