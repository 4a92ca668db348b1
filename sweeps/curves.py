"""Learning curves of many runs as columns: the losses of each `metrics.jsonl`, read by several processes at once.

`python -m sweeps.curves` is one of these processes. It reads its job, a line of JSON, from its standard input, and writes
an Arrow stream to its standard output; it imports no JAX, so that it starts at once.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from sweeps.untrusted_files import number
from training.cores import usable_cores
from training.errors import BadInput, RunFailed
from training.lines import last_attempts, parse

SCHEMA = pa.schema(
    {"step": pa.int64(), "tokens": pa.float64(), "learning_rate": pa.float64(), "loss": pa.float64()}.items()
)
READ_SCHEMA = pa.schema([*SCHEMA, pa.field("attempt", pa.int64())])
MEASURES = ("tokens", "learning_rate", "loss")
# The only characters that the engine writes. Only files of these are given to Arrow's reader, which is several times faster
# than Python's, and which a stray `null` makes crash.
USUAL_CHARACTERS = b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _"+-.,:/{}\n'
CHUNK_BYTES = 4 << 20  # of metrics that are read and sent at once
MIN_PARALLEL_BYTES = 64 << 20  # of metrics, from which on other processes are worth starting
# -P: nothing is imported from the folder in which the command was given, which may be a stranger's.
COMMAND = (sys.executable, "-P", "-m", "sweeps.curves")


def read(files: Sequence[tuple[str, int]], processes: int | None = None) -> Generator[pa.Table, None, None]:
    """The curve of each run, in the order given: the lines of the last attempts that have a loss.

    Args:
        files: path and bytes of each `metrics.jsonl`.
        processes: that share the reading; 0: this one. By default one a core where there is much to read.

    Raises:
        BadInput: a line is damaged; the file is named.
    """
    if processes is None:
        processes = len(usable_cores()) if sum(size for _, size in files) > MIN_PARALLEL_BYTES else 0
    chunks = _chunks(files)
    processes = min(processes, len(chunks))
    if processes < 2:
        yield from (curve(file) for file, _ in files)
        return
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_reader(chunks[i::processes])) for i in range(processes)]
        for _, reader in zip(chunks, itertools.cycle(readers), strict=False):
            yield from reader()


def curve(file: Path | str) -> pa.Table:
    """The curve of one run; what is not finite is null.

    Raises:
        BadInput: a line holds no step and attempt, or something else than a number.
    """
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:  # it has just been removed
        data = b""
    table = _parsed_by_arrow(data)
    return _parsed_line_by_line(data, file) if table is None else table


def _parsed_by_arrow(data: bytes) -> pa.Table | None:
    """The curve in lines as the engine writes them; None where there is anything else among them."""
    if not data:
        return SCHEMA.empty_table()
    lines = data.count(b"\n")
    ends = data.count(b"}\n") == data.count(b"}") == lines
    begins = data[:1] == b"{" and data.count(b"\n{") + 1 == data.count(b"{") == lines
    if not (ends and begins) or data.translate(None, USUAL_CHARACTERS):
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(data),
            pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pj.ParseOptions(explicit_schema=READ_SCHEMA, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    steps, attempts = table["step"], table["attempt"]
    losses = lines - table["loss"].null_count
    # A loss that is null is a line of the curve, one that is absent is not; the reader makes no difference.
    if len(table) != lines or steps.null_count or attempts.null_count or data.count(b'"loss"') != losses:
        return None
    columns = {name: table[name].to_numpy() for name in MEASURES}
    if any(np.isfinite(values).sum() != lines - table[name].null_count for name, values in columns.items()):
        return None
    order = last_attempts(steps.to_numpy(), attempts.to_numpy())
    order = order[~np.isnan(columns["loss"][order])]
    table = table.select(SCHEMA.names)
    return table if np.array_equal(order, np.arange(lines)) else table.take(order)


def _parsed_line_by_line(data: bytes, file: Path | str) -> pa.Table:
    lines = parse(data, file)
    steps, attempts = (np.array([line[name] for line in lines], np.int64) for name in ("step", "attempt"))
    curve_lines = [lines[i] for i in last_attempts(steps, attempts) if "loss" in lines[i]]
    columns: dict[str, list[Any]] = {"step": [line["step"] for line in curve_lines]}
    for name in MEASURES:
        columns[name] = [_measure(line, name, file) for line in curve_lines]
    return pa.table(columns, SCHEMA)


def _measure(line: dict[str, Any], name: str, file: Path | str) -> float | None:
    value = line.get(name)
    if value is not None and type(value) not in (int, float):
        raise BadInput(f"{file}: step {line['step']}: {name} is no number")
    value = number(value)
    try:
        return None if value is None else float(value)
    except OverflowError:
        return None


def _chunks(files: Sequence[tuple[str, int]]) -> list[list[str]]:
    chunks: list[list[str]] = []
    free_bytes = 0
    for file, size in files:
        if free_bytes <= 0:
            chunks.append([])
            free_bytes = CHUNK_BYTES
        chunks[-1].append(file)
        free_bytes -= size
    return chunks


@contextlib.contextmanager
def _reader(chunks: list[list[str]]) -> Iterator[Any]:
    """A process that reads chunks of files; each call of what is yielded gives the curves of the next chunk."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+") as job:
        json.dump(chunks, job)
        job.seek(0)
        process = subprocess.Popen(
            COMMAND, stdin=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
        )
    assert process.stdout is not None
    stream: list[pa.RecordBatchStreamReader] = []

    def next_chunk() -> Iterator[pa.Table]:
        try:
            if not stream:
                stream.append(pa.ipc.open_stream(process.stdout))
            batch, metadata = stream[0].read_next_batch_with_custom_metadata()
        except (StopIteration, pa.ArrowException, OSError):
            raise _failure(process) from None
        table, begin = pa.Table.from_batches([batch]), 0
        for lines in json.loads(metadata[b"lines"]):
            yield table.slice(begin, lines)
            begin += lines

    try:
        yield next_chunk
    finally:
        process.kill()
        process.communicate()


def _failure(process: subprocess.Popen[bytes]) -> Exception:
    lines = process.communicate()[1].decode(errors="replace").strip().splitlines()
    message = lines[-1] if lines else f"exit code {process.returncode}"
    is_bad_input = process.returncode == BadInput.exit_code
    return BadInput(message) if is_bad_input else RunFailed(f"a process that reads metrics died: {message}")


def main() -> int:
    """The process behind `read`; returns its exit code."""
    chunks = json.load(sys.stdin)
    try:
        with pa.ipc.new_stream(sys.stdout.buffer, SCHEMA) as stream:
            for chunk in chunks:
                tables = [curve(file) for file in chunk]
                columns = pa.concat_tables(tables).combine_chunks().columns
                batch = pa.RecordBatch.from_arrays(
                    [pa.concat_arrays(column.chunks) for column in columns], schema=SCHEMA
                )
                stream.write_batch(batch, {"lines": json.dumps([len(table) for table in tables])})
    except BadInput as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
