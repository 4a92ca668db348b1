"""What produced a study."""

from typing import Any

import pandas as pd

from isoflop.report.formats import count, duration, power_of_ten
from isoflop.report.study import Frame, Study, distinct, versions


def provenance(study: Study) -> dict[str, Any]:
    """What `provenance.html` shows."""
    frame, report = study.runs, study.fit.report if study.fit else None
    files = [file for forecast in study.forecasts for file in (forecast.prediction, forecast.score)]
    typed = [report and report.command, *(file and file.get("command") for file in files)]
    devices = [f"{number} × {kind}" for kind, number in _pairs(frame, "device_kind", "num_devices")]
    systems = [f"Python {record.get('python')}, {record.get('platform')}" for record in study.environments]
    return {
        "commands": [*map(str, filter(None, typed)), f"isoflop report {study.folder}"],
        "statements": [
            ("training FLOPs", power_of_ten(_made(frame, "flops_exact")) if len(frame) else None),
            ("tokens trained on", count(_made(frame, "tokens")) if len(frame) else None),
            ("time of the runs", _time(frame)),
            ("device", ", ".join(devices)),
            ("system", ", ".join(dict.fromkeys(systems))),
            ("versions", ", ".join(versions(frame))),
            ("corpus", ", ".join(distinct(frame, "corpus"))),
            ("evaluation set", ", ".join(distinct(frame, "eval_set"))),
        ],
        "revisions": [short(name) for name in distinct(frame, "git_revision")],
        "data_hashes": distinct(frame, "data_hash"),
        "tokenizers": distinct(frame, "tokenizer"),
        "tokenizer_hashes": distinct(frame, "tokenizer_hash"),
        "inputs": report.inputs if report else (),
    }


def short(revision: str) -> str:
    """A revision by its first digits, and whether the tree was changed."""
    name, plus, state = revision.partition("+")
    return name[:12] + plus + state


def _pairs(frame: Frame, *columns: str) -> list[tuple]:
    if not set(columns) <= set(frame):
        return []
    return [tuple(row) for row in frame[list(columns)].dropna().drop_duplicates().astype({columns[1]: int}).to_numpy()]


def _sum(frame: Frame, column: str) -> float | None:
    numbers: Any = pd.to_numeric(frame[column], errors="coerce") if column in frame else None
    return None if numbers is None else float(numbers.sum())


def _made(frame: Frame, column: str) -> float | None:
    """The sum of a column that counts all steps of a run's way, without those that a branch has of its trunk."""
    if "fork_step" not in frame or "steps" not in frame or column not in frame:
        return _sum(frame, column)
    columns: list[Any] = [pd.to_numeric(frame[name], errors="coerce") for name in ("fork_step", "steps", column)]
    forked, steps, numbers = columns
    return float((numbers * (1 - forked.fillna(0) / steps)).sum())


def _time(frame: Frame) -> str | None:
    total, compiling = _sum(frame, "wall_seconds"), _sum(frame, "compile_seconds")
    if not total:
        return None
    return f"{duration(total)} summed over the runs" + (
        f", {duration(compiling)} of them compiling" if compiling else ""
    )
