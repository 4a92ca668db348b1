"""A study's folder, read: the runs of its sweep, the fit, the frozen prediction and its score, whichever are there."""

import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from laws import FitResult, read_fit
from laws.base.json_files import read_json
from laws.data.loading import DEFAULTS
from laws.plotting import plot_data
from training.errors import BadInput

VARIABLES = ("n", "d", "c")


Frame = Any  # a pandas frame: hints of its columns' types would say less than they cost


@dataclasses.dataclass(frozen=True)
class FrozenForecast:
    """The forecast of one held-out budget, and what was measured there.

    Args:
      prediction, score: content of `prediction.json` and `score.json`; None where there is none.
    """

    prediction: dict[str, Any] | None
    score: dict[str, Any] | None

    @property
    def compute(self) -> float | None:
        """FLOPs of the budget, where the forecast is of one."""
        return (self.prediction or {}).get("prediction", {}).get("inputs", {}).get("c")


@dataclasses.dataclass(frozen=True)
class Study:
    """What a folder holds.

    Args:
      folder: the study's folder.
      name: the sweep's name, else the folder's.
      runs: a row a run that has ended, as collected; empty where there is no sweep.
      curves: logged losses of the runs, as collected.
      pending: points that have not ended or have failed, as `sweeps.status.rows` tells them.
      environments: the environment record of every run that began.
      fit: the fit.
      forecasts: of the held-out budgets, the smallest first; none where nothing was frozen or scored.
    """

    folder: Path
    name: str
    runs: Frame
    curves: Frame
    pending: list[dict[str, Any]]
    environments: list[dict[str, Any]]
    fit: FitResult | None
    forecasts: tuple[FrozenForecast, ...] = ()

    @property
    def prediction(self) -> dict[str, Any] | None:
        """The frozen prediction of the largest held-out budget."""
        return self.forecasts[-1].prediction if self.forecasts else None

    @property
    def score(self) -> dict[str, Any] | None:
        """The score of the largest held-out budget."""
        return self.forecasts[-1].score if self.forecasts else None

    @property
    def columns(self) -> dict[str, str]:
        """Variable -> column of the runs."""
        return DEFAULTS if self.fit is None else self.fit.report.columns

    @functools.cached_property
    def points(self) -> Frame:
        """Every completed run as run, n, d, c, loss, with `fitted` and `residual` (log of loss over law, else NaN).

        `budget` numbers groups of equal compute from the smallest; it is absent where there is no compute.
        """
        points = self._measured()
        if self.fit is not None:
            data = self.fit.data.reset_index()
            others = points[~points["run"].isin(data["run"])] if self.columns.get("run") else points.iloc[:0]
            points = pd.concat([data.assign(fitted=True), others.assign(fitted=False)], ignore_index=True)
        else:
            points = points.assign(fitted=False)
        numeric = [name for name in (*VARIABLES, "loss") if name in points]
        points[numeric] = points[numeric].astype(float)
        return plot_data.with_residuals_and_budgets(points, self.fit)

    def _measured(self) -> Frame:
        """Completed runs of the sweep under the variables of the fit; none where the fit is of another table."""
        wanted = {variable: column for variable, column in self.columns.items() if variable in (*VARIABLES, "loss")}
        derived = wanted.pop("c", None) if wanted.get("c") == "6ND" else None
        present = {variable: column for variable, column in wanted.items() if column in self.runs}
        needed = wanted if self.fit is not None else {"loss": wanted["loss"]}
        if self.runs.empty or not set(needed) <= set(present):
            return pd.DataFrame(columns=["run", *wanted, *(["c"] if derived else [])])
        done = self.runs[self.runs["status"] == "completed"]
        points = pd.DataFrame(
            {variable: pd.to_numeric(done[column], errors="coerce") for variable, column in present.items()}
        )
        if derived:
            points["c"] = 6 * points["n"] * points["d"]
        identity = self.columns.get("run", "run_id")
        points.insert(0, "run", done[identity].astype(str) if identity in done else done.index.astype(str))
        return points[(points.drop(columns="run") > 0).all(axis=1)].reset_index(drop=True)

    def states(self) -> dict[str, int]:
        """How many points are in each state."""
        ended = [str(status) for status in self.runs.get("status", []) if status != "failed"]
        return dict(Counter(ended + [row["state"] for row in self.pending]))


def load(folder: Path) -> Study:
    """The study of a folder, its sweep collected.

    Args:
      folder: with `sweep/`, `fit.json`, `prediction.json`, `score.json`, or a sweep directory itself.

    Raises:
      BadInput: there is neither a sweep nor a fit.
      InputError: a file is damaged.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}")
    sweep = next((path for path in (folder / "sweep", folder) if _is_sweep(path)), None)
    fit = folder / "fit.json"
    if sweep is None and not fit.exists():
        raise BadInput(
            f"{folder} holds no study: neither sweep/sweep.json nor fit.json is there "
            f"(isoflop study --config=FILE --workdir={folder} makes one)"
        )
    name, pending, environments = folder.resolve().name, [], []
    if sweep is not None and (sweep / "sweep.json").exists():
        name, pending, environments = _collect(sweep)
    return Study(
        folder=folder,
        name=name,
        runs=_table(sweep, "runs.parquet"),
        curves=_table(sweep, "curves.parquet"),
        pending=pending,
        environments=environments,
        fit=read_fit(fit) if fit.exists() else None,
        forecasts=_forecasts(folder),
    )


def _forecasts(folder: Path) -> tuple[FrozenForecast, ...]:
    """The forecasts of a folder: `prediction.json` is that of the largest budget, `prediction_BUDGET.json` are others."""
    names = sorted(path.name.removeprefix("prediction") for path in folder.glob("prediction_*.json"))
    pairs = {
        name: FrozenForecast(
            _optional(folder / f"prediction{name}", "prediction"), _optional(folder / f"score{name}", "score")
        )
        for name in (*names, ".json")
    }
    largest = pairs.pop(".json")
    smaller = sorted(pairs.values(), key=lambda forecast: forecast.compute or 0.0)
    return (*smaller, *([largest] if largest != FrozenForecast(None, None) else []))


def _is_sweep(path: Path) -> bool:
    return any((path / name).exists() for name in ("sweep.json", "runs.parquet"))


def _collect(path: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Collect a sweep; its name, the points that have not ended well, and the environments of its runs."""
    from sweeps import collect, status, sweep_dir

    collect.collect(path)
    sweep = sweep_dir.read(path)
    pending = [row for row in status.rows(sweep) if row["state"] not in sweep_dir.ENDED]
    files = [sweep.run(run_id) / "environment.json" for run_id in sweep.entries]
    return sweep.name, pending, [read_json(file, "environment record") for file in files if file.exists()]


def _table(sweep: Path | None, name: str) -> Frame:
    if sweep is None or not (sweep / name).exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(sweep / name)
    except (OSError, ValueError) as error:
        raise BadInput(f"{sweep / name}: not a readable table ({str(error).splitlines()[0]})") from error


def _optional(path: Path, what: str) -> dict[str, Any] | None:
    return read_json(path, what) if path.exists() else None


def distinct(frame: Frame, column: str) -> list[str]:
    """The values of a column, the most frequent first."""
    return [str(v) for v in frame[column].dropna().value_counts().index] if column in frame else []


def versions(frame: Frame) -> list[str]:
    """Package versions of the runs, as "jax 0.10.2"."""
    names: dict[str, None] = {}
    for text in distinct(frame, "versions"):
        try:
            names |= {f"{name} {version}": None for name, version in json.loads(text).items()}
        except (ValueError, AttributeError):
            names[text] = None
    return list(names)
