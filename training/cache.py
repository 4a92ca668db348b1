"""What is prepared once and kept on disk: where it lies, who builds it, and how it is checked when it is read again."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import BadInput
from training.files import locked, read_json, write_json
from training.types import Record

if TYPE_CHECKING:
    from rich.progress import Progress

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, a used-up quota and a file limit report
HASHED_AT_ONCE = 64 << 20  # bytes; larger folders are hashed again only when a file's size or time has changed


def folder(named: str | None = None) -> Path:
    """The folder under which everything is kept: the named one, else `$ISOFLOP_CACHE`, else `~/.cache/isoflop`."""
    return Path(named or os.environ.get("ISOFLOP_CACHE") or "~/.cache/isoflop").expanduser()


def digest(definition: Any) -> str:
    """SHA-256 of a JSON value, in hex; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The hash of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path) -> Record:
    """A manifest's entry for a file: name, size in bytes, hash."""
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha256(path)}


def write(path: Path, save: Any) -> None:
    """Write a binary file whole or not at all; `save` is given the open file."""
    temporary = path.with_name(f".{path.name}")
    try:
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that is to be built; says so on standard error when another process has it."""
    lock = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, ""))
        except BadInput:
            print(f"isoflop: another process is preparing {path}; waiting for it", file=sys.stderr)
            stack.enter_context(locked(lock, "", wait=True))
        yield


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """A folder `NAME.partial` to build in, which is renamed to `path` when the block ends well.

    What a killed build left stays for the next one to go on with; what bad input left is removed, since no second try
    could finish it. The caller holds the lock of `path`.

    Raises:
      BadInput: the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except BadInput:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(partial if partial.exists() else partial.parent).free
        raise BadInput(
            f"{partial}: {error.strerror} ({free >> 20:,} MiB free); what is finished is kept for the next try"
        ) from None


_checked: dict[Path, dict[str, list[int]]] = {}  # what this process has hashed


def check(path: Path, entries: Sequence[Mapping[str, Any]], thorough: bool = False) -> None:
    """Compare a folder's files with what `describe` said of them; their sizes and times go to `verified.json`.

    Args:
      path: the folder.
      entries: of its files.
      thorough: hash every file; else those of large folders only where size or time differ from when they were last
        hashed.

    Raises:
      BadInput: a file is missing or damaged; names it.
    """
    states = {entry["file"]: _state(path, entry) for entry in entries}
    sidecar = path / "verified.json"
    if _checked.get(path) == states and not thorough:
        return
    large = sum(entry["size"] for entry in entries) > HASHED_AT_ONCE
    known = read_json(sidecar) if large and not thorough and sidecar.is_file() else {}
    for entry in entries:
        file = path / entry["file"]
        if known.get(entry["file"]) != states[entry["file"]] and sha256(file) != entry["sha256"]:
            raise BadInput(f"{file}: damaged, its hash is not the manifest's; delete {path} and prepare it again")
    _checked[path] = states
    if large and known != states:
        with contextlib.suppress(OSError):  # a folder on a read-only disk is hashed once a process
            write_json(sidecar, states)


def _state(path: Path, entry: Mapping[str, Any]) -> list[int]:
    try:
        stat = (path / entry["file"]).stat()
    except OSError as error:
        raise BadInput(f"{path / entry['file']}: {error.strerror}; delete {path} and prepare it again") from None
    if stat.st_size != entry["size"]:
        raise BadInput(
            f"{path / entry['file']}: damaged, {stat.st_size} bytes instead of {entry['size']}; "
            f"delete {path} and prepare it again"
        )
    return [stat.st_size, stat.st_mtime_ns]


@contextlib.contextmanager
def progress(show: bool) -> Iterator["Progress"]:
    """A bar that counts bytes, on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        yield bar
