"""The lines of a run's `metrics.jsonl`, and the version of its record.

Without JAX, so that what reads thousands of runs starts at once.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import BadInput

LARGEST = 2**53  # whole numbers up to here are the same in every reader of JSON
NAME = "metrics.jsonl"
RECORD_SCHEMA = 1  # version of the names and meanings of the values of `result.json`
# Python writes and reads the literals NaN and Infinity, which are no JSON: they are null, as `finite` makes of them.
DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def read_metrics(path: Path, every_attempt: bool = False) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in order of steps.

    A line that an interruption tore, or that is no JSON for another reason, is passed over; where a later attempt covers
    a step again, only its lines count.

    Raises:
      BadInput: a line holds no step and attempt.
    """
    file = path / NAME
    lines = parse(file.read_bytes(), file) if file.exists() else []
    if every_attempt:
        return lines
    steps, attempts = (np.array([line[name] for line in lines], np.int64) for name in ("step", "attempt"))
    return [lines[i] for i in last_attempts(steps, attempts)]


def parse(data: bytes, file: Path | str) -> list[dict[str, Any]]:
    """All lines that are JSON, in the order of the file.

    Raises:
      BadInput: a line holds no step and attempt; `file` is named.
    """
    lines = []
    for number, text in enumerate(data.split(b"\n"), 1):
        try:
            line = DECODER.decode(text.decode())
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or not all(_whole(line.get(name)) for name in ("step", "attempt")):
            raise BadInput(f"{file}: line {number} holds no step and attempt")
        lines.append(line)
    return lines


def last_attempts(steps: np.ndarray, attempts: np.ndarray) -> np.ndarray:
    """Which lines count, in order of steps: those before the first line of every later attempt.

    Args:
      steps: int64 [lines], in the order of the file.
      attempts: int64 [lines].
    Returns:
      Indices of lines.
    """
    known, first = np.unique(attempts, return_index=True)
    earliest_after = np.minimum.accumulate(steps[first][:0:-1])[::-1]
    limits = np.append(earliest_after, np.iinfo(np.int64).max)
    kept = np.flatnonzero(steps < limits[np.searchsorted(known, attempts)])
    return kept[np.argsort(steps[kept], kind="stable")]


def _whole(value: object) -> bool:
    return type(value) is int and abs(value) < LARGEST
