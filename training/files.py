"""Plain files written whole or not at all, and a lock that dies with its holder."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import BadInput

LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems that know no locks
OBJECT_STORAGE = re.compile(r"(gs|s3|az|abfss?|wasbs?|hdfs):/")  # one slash is left of two once it was a Path
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # what a file is called until it is whole


def refuse_object_storage(name: str, value: object) -> None:
    """Raise BadInput where the value of a flag or key is a path of object storage, which would be taken for a local folder.

    Records are appended to, locked and renamed, none of which object storage can do.
    """
    if OBJECT_STORAGE.match(str(value)):
        raise BadInput(
            f"{name}: {value} is object storage, which is neither read nor written: name a folder of a local or shared "
            "file system, and copy from or to it (gcloud storage rsync, aws s3 sync)"
        )


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: after a crash it is as before or whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporaries(folder: Path, name: str = "*") -> None:
    """Remove what processes that died were writing: only the one writer of these files may call this."""
    for file in folder.glob(f".{name}.*"):
        if TEMPORARY.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN and infinities are refused, since other readers refuse them too."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
      BadInput: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not JSON ({error})") from None


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The object of a JSON file that must have some keys.

    Raises:
      BadInput: it is missing, no JSON, no object, or lacks a key.
    """
    found = read_json(path)
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing or not isinstance(found, dict):
        raise BadInput(
            f"{path}: damaged, it holds no {missing[0]!r}" if missing else f"{path}: damaged, no JSON object"
        )
    return found


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes `path` at the end; where that is not reached, nothing is left.

    Raises:
      BadInput: something is there already, other than an empty folder.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path}: is there already; name a new folder")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, message: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; the kernel releases it when the holder dies. Where the file system knows no locks, nothing
    is held: a sweep's runs are guarded by their leases all the same.

    Raises:
      BadInput: with `message`, when a live process holds it and `wait` is false.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                raise BadInput(f"{message}{f' (process {holder})' if holder else ''}") from None
            except OSError as error:
                if error.errno not in LOCKLESS:
                    raise
            if not os.fstat(file.fileno()).st_nlink:
                continue  # its holder removed it meanwhile: another file may be the lock by now
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            return
