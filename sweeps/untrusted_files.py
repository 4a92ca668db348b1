"""Reading files of a sweep directory that a stranger may have made.

Nothing in them is executed, no link is followed out of the directory, nothing is printed as it stands, and what cannot be
read is refused in one line.
"""

import json
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.errors import BadInput
from training.lines import DECODER, RECORD_SCHEMA

Stamp = tuple[int, int]  # bytes, mtime in ns: as long as it is the same, so is the file

RECORD_BYTES = 4 << 20  # read of a `result.json`, at most
METRICS_BYTES = 1 << 30  # read of a `metrics.jsonl`, at most
MAX_DEPTH = 32  # of nested values
MAX_CHARACTERS = 200  # printed of a text from elsewhere
STATUSES = ("completed", "diverged", "failed")


def stamp(file: Path | str, root: Path | str, limit: int) -> Stamp | None:
    """Size and time of a plain file; None where there is none.

    Args:
        file: the file.
        root: the directory that no link may lead out of.
        limit: bytes, at most.

    Raises:
        BadInput: it is no plain file, is larger, or a link leads out of `root`.
    """
    try:
        status = os.lstat(file)
        if stat.S_ISLNK(status.st_mode):
            check_link(file, root)
            status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{file}: not a plain file")
    if status.st_size > limit:
        raise BadInput(f"{file}: {status.st_size:,} bytes are more than the {limit:,} that are read")
    return status.st_size, status.st_mtime_ns


def check_link(path: Path | str, root: Path | str) -> None:
    """Raise BadInput where a link leads out of the directory `root`."""
    target = os.path.realpath(path)
    if not target.startswith(os.path.join(os.path.realpath(root), "")):
        raise BadInput(f"{path}: a link that leads out of the sweep directory")


def folders(root: Path, names: Iterable[str]) -> set[str]:
    """The names of those run directories `runs/<name>` that exist.

    Raises:
        BadInput: one of them is a link out of the sweep directory `root`.
    """
    runs = root / "runs"
    if runs.is_symlink():
        check_link(runs, root)
    if not runs.is_dir():
        return set()
    with os.scandir(runs) as entries:
        is_link = {entry.name: entry.is_symlink() for entry in entries}
    existing = {name for name in names if name in is_link}
    for name in existing:
        if is_link[name]:
            check_link(runs / name, root)
    return existing


def record(text: str, file: Path | str) -> dict[str, Any]:
    """The record of a run that has ended, from the text of its `result.json`; NaN and Infinity are null.

    Raises:
        BadInput: it is none, or has another schema; one without a schema was written before there were any, and is read.
    """
    value = load(text, file)
    if not isinstance(value, dict):
        raise BadInput(f"{file}: not a record")
    if value.get("schema", RECORD_SCHEMA) != RECORD_SCHEMA:
        raise BadInput(f"{file}: its schema is {printable(value['schema'])}, this version reads {RECORD_SCHEMA}")
    if value.get("status") not in STATUSES:
        raise BadInput(f"{file}: its status is none of {', '.join(STATUSES)}")
    return value


def load(text: str, file: Path | str) -> Any:
    """The value of a text of JSON, at most `MAX_DEPTH` levels deep.

    Raises:
        BadInput: it is none, or is deeper.
    """
    try:
        value = DECODER.decode(text)
        too_deep = not _is_within(value, MAX_DEPTH)
    except RecursionError:
        too_deep, value = True, None
    except ValueError as error:
        raise BadInput(f"{file}: not JSON ({error})") from None
    if too_deep:
        raise BadInput(f"{file}: nested more than {MAX_DEPTH} levels deep")
    return value


def number(value: Any) -> Any:
    """The value where it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= sys.float_info.max else None


def printable(value: Any, limit: int = MAX_CHARACTERS) -> str:
    """A value from elsewhere on one line of a terminal: without control characters, cut to `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(letter if letter.isprintable() else " " for letter in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _is_within(value: Any, levels: int) -> bool:
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_within(inner, levels - 1) for inner in nested if isinstance(inner, dict | list))
