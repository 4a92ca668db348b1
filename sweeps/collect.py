"""From a sweep directory to tidy tables: `runs.parquet`, a row a run that has ended, `curves.parquet`, `post.parquet`.

What a collection has read is kept in `collected.parquet` (`sweeps.collect_cache`): the next one reads only the runs whose
files have changed since.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeps import base_configs, collect_cache, curves, sweep_dir, untrusted_files
from sweeps.base_configs import BaseConfigs
from sweeps.collect_cache import CachedRun, CollectCache
from sweeps.untrusted_files import Stamp
from training.errors import BadInput

ROW_GROUP = 1 << 20  # lines of the curves that are written at once
CURVES_SCHEMA = pa.schema([pa.field("run_id", pa.string()), *curves.SCHEMA])


def collect(path: Path | str) -> Path:
    """Write `runs.parquet` and `curves.parquet` into a sweep directory, each whole or not at all, at any time.

    `runs.parquet` holds each record with the sweep's name, the labels and the overrides of its point, the name of its
    base config (`base_config`) and a column for each key in which base configs differ (`sweeps.base_configs`); a run that
    failed has its status, its labels and its plan. What is nested is JSON text. `curves.parquet` holds the logged
    training losses of every run that has begun. Where runs were also evaluated in formats of few bits, `post.parquet`
    holds a row for each: that of the run, with `bits_post`, the metrics then, `loss_before` and the difference
    `loss_added`.

    Nothing in the directory is executed, and no link is followed out of it.

    Returns:
        The path of `runs.parquet`.

    Raises:
        BadInput: there is no sweep, or a record or the metrics of a run are damaged.
    """
    path = Path(path)
    sweep, before = sweep_dir.read(path), collect_cache.read(path)
    bases = base_configs.compare(sweep)
    stamps = collect_cache.scan(path, sweep.entries)
    rows, record_texts = [], {}
    for run_id, entry in sweep.entries.items():
        result = stamps[run_id][0] if run_id in stamps else None
        record, record_texts[run_id] = _record(sweep, run_id, before.runs.get(run_id, CachedRun()), result)
        if (row := _row(sweep, entry, bases, record, begun=run_id in stamps)) is not None:
            rows.append(row)
    runs, post_rows = _table(path, rows), list(_post_rows(sweep, rows))
    post = _table(path, post_rows) if post_rows else None
    metrics = {run_id: stamps.get(run_id, (None, None))[1] for run_id in sweep.entries}
    lines, stamp = _write_curves(sweep, before, metrics)
    if post is not None:
        _write(path / "post.parquet", lambda file: pq.write_table(post, file))
    _write(path / "runs.parquet", lambda file: pq.write_table(runs, file))
    cached = {
        run_id: CachedRun(stamps.get(run_id, (None, None))[0], metrics[run_id], lines[run_id], record_texts[run_id])
        for run_id in sweep.entries
    }
    after = CollectCache(cached, stamp)
    if after != before:
        _write(path / collect_cache.NAME, lambda file: collect_cache.write(file, after))
    return path / "runs.parquet"


def _record(
    sweep: sweep_dir.Sweep, run_id: str, old: CachedRun, result: Stamp | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The record of a run and its JSON, from the cache where the file is the same.

    Args:
        sweep: the sweep directory.
        run_id: of the run.
        old: what the last collection read of it.
        result: the stamp of its `result.json`; None: it has not ended.
    """
    if result is None:
        return None, None
    if old.record is not None and result == old.result:
        return untrusted_files.record(old.record, sweep.path / collect_cache.NAME), old.record
    record = sweep_dir.result(sweep.run(run_id))
    return record, None if record is None else json.dumps(record)


def _row(
    sweep: sweep_dir.Sweep,
    entry: sweep_dir.Entry,
    bases: BaseConfigs,
    result: Mapping[str, Any] | None,
    begun: bool,
) -> dict[str, Any] | None:
    """The row of a run in `runs.parquet`; None where it has neither ended nor failed.

    Args:
        sweep: the sweep directory.
        entry: the point.
        bases: of the sweep.
        result: its record; None: it has not ended.
        begun: whether it has a directory.
    """
    base = {"base_config": bases.of_run[entry.run_id]}
    design = {"sweep": sweep.name, **base, **entry.labels}
    keys = {**bases.values(entry.run_id), **entry.overrides}
    if result is not None:
        extra = {key: value for key, value in keys.items() if key not in result}
        return {**result, **design, **extra, "run_id": entry.run_id}
    if not begun or sweep_dir.unfinished(sweep.run(entry.run_id)) != "failed":
        return None
    planned = {"params_total": entry.params, "steps": entry.steps, "flops_exact": entry.flops}
    planned |= {"trunk": entry.trunk, "fork_step": entry.fork_step} if entry.trunk else {}
    failed = {"run_id": entry.run_id, "status": "failed", **planned, **design, **keys}
    return failed | {"run_id": entry.run_id}


def _post_rows(sweep: sweep_dir.Sweep, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        kinds = row.get("post") or ()
        try:
            for kind in kinds:
                added = {"loss_before": row["loss"], "loss_added": kind["loss"] - row["loss"]}
                yield {name: value for name, value in row.items() if name != "post"} | kind | added
        except (KeyError, TypeError, OverflowError):
            file = sweep.run(row["run_id"]) / "result.json"
            raise BadInput(f"{file}: 'post' is no list of evaluations with a loss") from None


def _write_curves(
    sweep: sweep_dir.Sweep, before: CollectCache, metrics: Mapping[str, Stamp | None]
) -> tuple[dict[str, int], Stamp | None]:
    """Bring `curves.parquet` up to date; returns the lines of each run in it, and its stamp.

    Args:
        sweep: the sweep directory.
        before: what the last collection read.
        metrics: the stamp of the metrics of every run, in the order of the sweep.
    """
    file = sweep.path / "curves.parquet"
    old = {run_id: run.metrics for run_id, run in before.runs.items()}
    fits = before.curves is not None and _stamp(file, sweep.path) == before.curves
    if fits and list(old.items()) == list(metrics.items()):
        return {run_id: run.lines for run_id, run in before.runs.items()}, before.curves
    cached = _cached_curves(file, before) if fits else {}
    cached = {run_id: table for run_id, table in cached.items() if metrics.get(run_id) == old[run_id] is not None}
    begun = {run_id: stamp for run_id, stamp in metrics.items() if stamp is not None}
    changed = [(str(sweep.run(i) / "metrics.jsonl"), stamp[0]) for i, stamp in begun.items() if i not in cached]
    lines = dict.fromkeys(metrics, 0)
    with contextlib.closing(curves.read(changed)) as new:

        def write(opened: Any) -> None:
            with pq.ParquetWriter(opened, CURVES_SCHEMA) as writer:
                group: dict[str, pa.Table] = {}
                for run_id in begun:
                    group[run_id] = cached[run_id] if run_id in cached else next(new)
                    lines[run_id] = len(group[run_id])
                    if sum(map(len, group.values())) >= ROW_GROUP:
                        writer.write_table(_with_run_ids(group))
                        group = {}
                writer.write_table(_with_run_ids(group))

        return lines, _write(file, write)


def _stamp(file: Path, root: Path) -> Stamp | None:
    try:
        return untrusted_files.stamp(file, root, collect_cache.MAX_BYTES)
    except BadInput:  # what lies there is replaced
        return None


def _cached_curves(file: Path, before: CollectCache) -> dict[str, pa.Table]:
    """The curve of each run as `curves.parquet` holds it; none where the file is not as the cache says."""
    try:
        table = pq.read_table(file, columns=curves.SCHEMA.names)
    except (pa.ArrowException, OSError):
        return {}
    counts = [run.lines for run in before.runs.values()]
    if min(counts, default=0) < 0 or sum(counts) != len(table) or not table.schema.equals(curves.SCHEMA):
        return {}
    begins = itertools.accumulate(counts, initial=0)
    return {run_id: table.slice(begin, n) for run_id, begin, n in zip(before.runs, begins, counts, strict=False)}


def _with_run_ids(group: Mapping[str, pa.Table]) -> pa.Table:
    """The curves of several runs as one table, with their ids."""
    ids = pa.array(list(group), pa.string()).take(np.repeat(np.arange(len(group)), [len(t) for t in group.values()]))
    table = pa.concat_tables([curves.SCHEMA.empty_table(), *group.values()])
    return pa.table([ids, *table.columns], schema=CURVES_SCHEMA)


def _table(path: Path, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table, a column a name; the sweep directory is named where they make none."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["run_id", "status"]
    columns = {}
    for name in names:
        try:
            columns[name] = _column([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, UnicodeError, RecursionError) as error:
            reason = untrusted_files.printable(str(error))
            raise BadInput(f"{path}: column {untrusted_files.printable(name)!r} is for no table ({reason})") from None
    try:
        return pa.table(columns)
    except UnicodeError:
        raise BadInput(f"{path}: the name of a column is no text") from None


def _column(values: list[Any]) -> pa.Array:
    """Values of one column of a table, by the kinds that are among them.

    Integers are int64; with floats among them, or one that int64 cannot hold, all are float64. Nested values are JSON.
    Values of several kinds, or an integer beyond every float, make a column of texts.
    """
    values = [json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value for value in values]
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        with contextlib.suppress(OverflowError):
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) > 1 or kinds == {int}:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)


def _write(path: Path, write: Callable[[Any], object]) -> Stamp:
    """Write a file atomically; returns its stamp. A link that lies there is replaced, not followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        status = temporary.stat()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return status.st_size, status.st_mtime_ns
