"""The table of runs: every point of the sweep, sortable and searchable, those that failed among them."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from isoflop.report.formats import count, duration, missing, number, power_of_ten
from isoflop.report.study import Study
from laws.plotting import plot_data

STATES = ("completed", "diverged", "failed", "interrupted", "running", "missing")

# heading, column of the table, how it is written; a column that no run has is left out.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("run", "run_id", str),
    ("status", "status", str),
    ("budget", "budget", lambda value: power_of_ten(value, 2)),
    ("N", "params_total", lambda value: f"{value:,.0f}"),
    ("D", "tokens", count),
    ("D/N", "tokens_per_param", number),
    ("FLOPs", "flops_exact", power_of_ten),
    ("steps", "steps", lambda value: f"{value:,.0f}"),
    ("batch", "batch_size", lambda value: f"{value:,.0f}"),
    ("peak rate", "peak_lr", number),
    ("seed", "seed", lambda value: f"{value:.0f}"),
    ("train loss", "train_loss", lambda value: number(value, 4)),
    ("loss", "loss", lambda value: number(value, 5)),
    ("accuracy", "accuracy", number),
    ("flag", "curve_flag", str),
    ("off the law", "off", lambda value: f"{value:+.2f}%".replace("-", "−")),
    ("time", "wall_seconds", duration),
)
ORDER = ("budget", "params_total", "seed")
WORDS = ("status", "run_id", "curve_flag")


def runs(study: Study) -> dict[str, Any] | None:
    """What `runs.html` shows: the counts of states, the failures, and the table."""
    rows = _rows(study)
    if not rows:
        return None
    columns = [column for column in COLUMNS if any(not missing(row.get(column[1])) for row in rows)]
    counts = study.states()
    ordered = sorted(counts, key=lambda state: STATES.index(state) if state in STATES else len(STATES))
    return {
        "n_points": len(rows),
        "states": [f"{counts[state]} {state}" for state in ordered],
        "failures": [row for row in study.pending if row.get("message")],
        "columns": [{"heading": heading, "numeric": key not in WORDS} for heading, key, _ in columns],
        "rows": [
            {
                "completed": row.get("status") in ("completed", None),
                "cells": [_cell(row.get(key), key, write) for _, key, write in columns],
            }
            for row in rows
        ],
    }


def _rows(study: Study) -> list[dict[str, Any]]:
    """Every point: as collected where it ended, as planned where not."""
    frame = study.runs[study.runs["status"] != "failed"] if "status" in study.runs else study.runs
    off = {row["run"]: 100 * row["residual"] for row in study.points.to_dict("records")}
    rows = []
    for row in frame.to_dict("records") or ([] if study.fit is None else _fitted(study)):
        cells = {key: row.get(key) for _, key, _ in COLUMNS}
        cells["off"] = off.get(str(row.get("run_id")))
        if not missing(cells["tokens"]) and cells["params_total"]:
            cells["tokens_per_param"] = cells["tokens"] / cells["params_total"]
        rows.append(cells)
    rows.sort(key=lambda row: [0 if missing(row[key]) else row[key] for key in ORDER])
    planned = [
        row | {"status": row["state"], "flops_exact": row.get("flops_exact", row["flops"])} for row in study.pending
    ]
    return rows + [{key: row.get(key) for _, key, _ in COLUMNS} for row in planned]


def _fitted(study: Study) -> list[dict[str, Any]]:
    """The runs of a fit that has no sweep beside it, their budgets by their training FLOPs."""
    names = {"run": "run_id", "n": "params_total", "d": "tokens", "c": "flops_exact"}
    points = study.points
    if "budget" in points:
        points = points.assign(budget=points["budget"].map(plot_data.budget_compute(points)))
    return points.rename(columns=names).to_dict("records")


def _cell(value: Any, key: str, write: Callable[[Any], str]) -> dict[str, Any]:
    """A cell of the table: its text and what it is sorted by.

    Args:
        value: of the run.
        key: the column.
        write: a number of that column as text.
    """
    if key in WORDS:
        return {"key": key, "text": value or "", "sort_value": value or ""}
    numeric: Any = pd.to_numeric(value, errors="coerce") if isinstance(value, str) else value
    if missing(numeric) or pd.isna(numeric):
        text = value if isinstance(value, str) else ""
        return {"key": key, "text": text, "sort_value": text}
    return {"key": key, "text": write(float(numeric)), "sort_value": float(numeric)}
