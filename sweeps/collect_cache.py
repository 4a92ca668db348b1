"""The cache of a collection, `collected.parquet`: with it the next collection reads only the runs that have changed.

It has a row a point, in the order of `curves.parquet`: size and time of its two files, its record as JSON, and how many
lines it has in `curves.parquet`, of which size and time are noted too. It may be deleted at any time; where it does not fit
the files it is ignored.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.untrusted_files import METRICS_BYTES, RECORD_BYTES, Stamp, folders, stamp
from training.errors import BadInput

NAME = "collected.parquet"
FORMAT = 1
MAX_BYTES = 4 << 30  # of a table that is read
SCHEMA = pa.schema(
    {
        "run_id": pa.string(),
        "result_bytes": pa.int64(),
        "result_mtime_ns": pa.int64(),
        "metrics_bytes": pa.int64(),
        "metrics_mtime_ns": pa.int64(),
        "lines": pa.int64(),
        "record": pa.string(),
    }.items()
)


@dataclasses.dataclass(frozen=True)
class CachedRun:
    """What was read of a run.

    Attributes:
        result: stamp of its `result.json`; None: there was none.
        metrics: stamp of its `metrics.jsonl`; None: there was none.
        lines: how many lines it has in `curves.parquet`.
        record: its record, as JSON.
    """

    result: Stamp | None = None
    metrics: Stamp | None = None
    lines: int = 0
    record: str | None = None


@dataclasses.dataclass(frozen=True)
class CollectCache:
    """What was read of all runs.

    Attributes:
        runs: by run id, in the order of `curves.parquet`.
        curves: stamp of `curves.parquet`; None: there was none.
    """

    runs: Mapping[str, CachedRun]
    curves: Stamp | None


def scan(root: Path, run_ids: Iterable[str]) -> dict[str, tuple[Stamp | None, Stamp | None]]:
    """The stamps of `result.json` and `metrics.jsonl` of the runs that have a directory.

    Raises:
        BadInput: one of them is no plain file of a sane size, or a link out of the sweep directory.
    """
    runs = os.path.join(root, "runs", "")
    return {
        run_id: (
            stamp(f"{runs}{run_id}/result.json", root, RECORD_BYTES),
            stamp(f"{runs}{run_id}/metrics.jsonl", root, METRICS_BYTES),
        )
        for run_id in folders(root, run_ids)
    }


def read(root: Path) -> CollectCache:
    """The cache of a sweep directory; an empty one where there is none that can be read."""
    file = root / NAME
    try:
        if stamp(file, root, MAX_BYTES) is None:
            return CollectCache({}, None)
        table = pq.read_table(file)
        metadata = json.loads((table.schema.metadata or {})[b"isoflop"])
        if metadata["format"] != FORMAT or not table.schema.equals(SCHEMA):
            return CollectCache({}, None)
        columns = {name: table[name].to_pylist() for name in SCHEMA.names}
        results = zip(columns["result_bytes"], columns["result_mtime_ns"], strict=True)
        metrics = zip(columns["metrics_bytes"], columns["metrics_mtime_ns"], strict=True)
        runs = map(CachedRun, map(_stamp, results), map(_stamp, metrics), map(int, columns["lines"]), columns["record"])
        by_id = dict(zip(columns["run_id"], runs, strict=True))
        return CollectCache(by_id, _stamp(metadata["curves"]))
    except (BadInput, pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError):
        return CollectCache({}, None)


def write(file: Any, cache: CollectCache) -> None:
    """Write a cache to an open file."""
    columns = [
        [run_id, *(run.result or (None, None)), *(run.metrics or (None, None)), run.lines, run.record]
        for run_id, run in cache.runs.items()
    ]
    arrays = [pa.array(values, kind) for values, kind in zip(zip(*columns, strict=True), SCHEMA.types, strict=True)]
    metadata = json.dumps({"format": FORMAT, "curves": cache.curves})
    schema = SCHEMA.with_metadata({"isoflop": metadata})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema) if arrays else schema.empty_table(), file)


def _stamp(pair: Sequence[int | None]) -> Stamp | None:
    size, when = pair
    return None if size is None or when is None else (int(size), int(when))
