"""Files of a sweep directory as a stranger may have made them: nothing in them is run, followed out of the directory or
printed as it stands, and what cannot be read ends in one line."""

import json
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.errors import BadInput
from training.lines import DECODER

Stamp = tuple[int, int]  # bytes, mtime in ns: as long as it is the same, so is the file

RECORD_BYTES = 4 << 20
METRICS_BYTES = 1 << 30
DEPTH = 32  # of nested values
STATUSES = ("completed", "diverged", "failed")
MAX_CHARACTERS = 200  # characters of a text from elsewhere


def stamp(file: Path | str, root: Path | str, most: int) -> Stamp | None:
    """Size and time of a plain file of at most `most` bytes; None where there is none.

    Raises:
      BadInput: it is no plain file, is larger, or a link leads out of the directory `root`.
    """
    try:
        found = os.lstat(file)
        if stat.S_ISLNK(found.st_mode):
            check_link(file, root)
            found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{file}: not a plain file")
    if found.st_size > most:
        raise BadInput(f"{file}: {found.st_size:,} bytes are more than the {most:,} that are read")
    return found.st_size, found.st_mtime_ns


def check_link(path: Path | str, root: Path | str) -> None:
    """Raise BadInput where a link leads out of the directory `root`."""
    target = os.path.realpath(path)
    if not target.startswith(os.path.join(os.path.realpath(root), "")):
        raise BadInput(f"{path}: a link that leads out of the sweep directory")


def folders(root: Path, names: Iterable[str]) -> set[str]:
    """Which of the run directories `runs/<name>` there are.

    Raises:
      BadInput: one of them is a link out of the sweep directory `root`.
    """
    runs = root / "runs"
    if runs.is_symlink():
        check_link(runs, root)
    if not runs.is_dir():
        return set()
    with os.scandir(runs) as entries:
        links = {entry.name: entry.is_symlink() for entry in entries}
    found = {name for name in names if name in links}
    for name in found:
        if links[name]:
            check_link(runs / name, root)
    return found


def record(text: str, file: Path | str) -> dict[str, Any]:
    """The record of a run that has ended, from the text of its `result.json`; NaN and Infinity are null.

    Raises:
      BadInput: it is none.
    """
    found = load(text, file)
    if not isinstance(found, dict):
        raise BadInput(f"{file}: not a record")
    if found.get("status") not in STATUSES:
        raise BadInput(f"{file}: its status is none of {', '.join(STATUSES)}")
    return found


def load(text: str, file: Path | str) -> Any:
    """The value of a text of JSON, at most `DEPTH` levels deep.

    Raises:
      BadInput: it is none, or is deeper.
    """
    try:
        found = DECODER.decode(text)
        deep = not _within(found, DEPTH)
    except RecursionError:
        deep, found = True, None
    except ValueError as error:
        raise BadInput(f"{file}: not JSON ({error})") from None
    if deep:
        raise BadInput(f"{file}: nested more than {DEPTH} levels deep")
    return found


def number(value: Any) -> Any:
    """The value where it is a finite number, else None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and abs(value) <= sys.float_info.max else None


def printable(value: Any, most: int = MAX_CHARACTERS) -> str:
    """A text from elsewhere on one line of a terminal: without control characters, cut to `most` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(letter if letter.isprintable() else " " for letter in text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _within(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_within(one, levels - 1) for one in inner if isinstance(one, dict | list))
