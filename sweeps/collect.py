"""From a sweep directory to tidy tables: `runs.parquet`, a row a run that has ended, `curves.parquet`, `post.parquet`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps import store
from training.record import read_metrics

CURVES = {
    "run_id": pa.string(),
    "step": pa.int64(),
    "tokens": pa.float64(),
    "learning_rate": pa.float64(),
    "loss": pa.float64(),
}


def collect(path: Path | str) -> Path:
    """Write `runs.parquet` and `curves.parquet` into a sweep directory, each whole or not at all, at any time.

    `runs.parquet` holds each record with the sweep's name, the labels and the overrides of its point; a run that
    failed has its status, its labels and its plan. What is nested is JSON text. `curves.parquet` holds the logged
    training losses of every run that has begun. Where runs were also evaluated in formats of few bits, `post.parquet`
    holds a row for each: that of the run, with `bits_post`, the metrics then, `loss_before` and what was `loss_added`.

    Returns:
      The path of `runs.parquet`.
    Raises:
      BadInput: there is no sweep, or a record is damaged.
    """
    path = Path(path)
    sweep = store.read(path)
    rows = [row for entry in sweep.entries.values() if (row := _row(sweep, entry)) is not None]
    _write(path / "curves.parquet", _curves(sweep))
    if post := list(_post(rows)):
        _write(path / "post.parquet", _table(post))
    _write(path / "runs.parquet", _table(rows))
    return path / "runs.parquet"


def _row(sweep: store.Sweep, entry: store.Entry) -> dict[str, Any] | None:
    design = {"sweep": sweep.name, **entry.labels}
    result = store.result(sweep.run(entry.run_id))
    if result is not None:
        extra = {key: value for key, value in entry.overrides.items() if key not in result}
        return {**result, **design, **extra}
    if store.state(sweep, entry.run_id) != "failed":
        return None
    planned = {"params_total": entry.params, "steps": entry.steps, "flops_exact": entry.flops}
    return {"run_id": entry.run_id, "status": "failed", **planned, **design, **entry.overrides}


def _post(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for kind in row.get("post") or ():
            added = {"loss_before": row["loss"], "loss_added": kind["loss"] - row["loss"]}
            yield {name: value for name, value in row.items() if name != "post"} | kind | added


def _curves(sweep: store.Sweep) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in CURVES}
    for run_id in sweep.entries:
        for line in read_metrics(sweep.run(run_id)):
            if "loss" in line:
                for name in CURVES:
                    columns[name].append(run_id if name == "run_id" else line.get(name))
    return pa.table({name: pa.array(values, CURVES[name]) for name, values in columns.items()})


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["run_id", "status"]
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    values = [json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value for value in values]
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds or kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:  # a label that is a number here and a word there
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
