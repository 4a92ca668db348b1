"""`collected.parquet`: what the tables of a sweep directory were made of, so that the next collection reads only the rest.

A row a point, in the order of `curves.parquet`: size and time of its two files, its record as JSON, and how many lines it
has in `curves.parquet`, of which size and time are noted too. It may be deleted at any time; what does not fit the files
is as if it were not there.
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
LARGEST = 4 << 30
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
    """What was read of a run: the stamps of its files (None: there was none), its record, its lines of the curves."""

    result: Stamp | None = None
    metrics: Stamp | None = None
    lines: int = 0
    record: str | None = None


@dataclasses.dataclass(frozen=True)
class CollectCache:
    """The runs in the order of `curves.parquet`, and the stamp of that file."""

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
    """The index of a sweep directory; an empty one where there is none that can be read."""
    file = root / NAME
    try:
        if stamp(file, root, LARGEST) is None:
            return CollectCache({}, None)
        table = pq.read_table(file)
        facts = json.loads((table.schema.metadata or {})[b"isoflop"])
        if facts["format"] != FORMAT or not table.schema.equals(SCHEMA):
            return CollectCache({}, None)
        columns = {name: table[name].to_pylist() for name in SCHEMA.names}
        results = zip(columns["result_bytes"], columns["result_mtime_ns"], strict=True)
        metrics = zip(columns["metrics_bytes"], columns["metrics_mtime_ns"], strict=True)
        known = map(
            CachedRun, map(_stamp, results), map(_stamp, metrics), map(int, columns["lines"]), columns["record"]
        )
        runs = dict(zip(columns["run_id"], known, strict=True))
        return CollectCache(runs, _stamp(facts["curves"]))
    except (BadInput, pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError):
        return CollectCache({}, None)


def write(file: Any, index: CollectCache) -> None:
    """Write an index to an open file."""
    columns = [
        [run_id, *(known.result or (None, None)), *(known.metrics or (None, None)), known.lines, known.record]
        for run_id, known in index.runs.items()
    ]
    arrays = [pa.array(values, kind) for values, kind in zip(zip(*columns, strict=True), SCHEMA.types, strict=True)]
    facts = json.dumps({"format": FORMAT, "curves": index.curves})
    schema = SCHEMA.with_metadata({"isoflop": facts})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema) if arrays else schema.empty_table(), file)


def _stamp(pair: Sequence[int | None]) -> Stamp | None:
    size, when = pair
    return None if size is None or when is None else (int(size), int(when))
