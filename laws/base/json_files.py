"""JSON files: arrays as lists, written whole or not at all, sealed by a hash of their content."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from laws.base.errors import InputError


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: arrays and tuples as lists, numbers of numpy as numbers, NaN and infinity as None.

    Example:
        >>> jsonable({"a": np.array([1.0, np.nan]), 2: (np.int64(3),)})
        {'a': [1.0, None], '2': [3]}
    """
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_json(path: str | Path, payload: dict[str, Any]) -> None:
    """Write a JSON file, which is there whole or not at all.

    Args:
        path: of the file; its directory is made.
        payload: content, as ``jsonable`` takes it.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(jsonable(payload), indent=1, allow_nan=False) + "\n")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: str | Path, what: str, command: str | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: of the file.
        what: it should be, as messages call it.
        command: the command line that makes such a file.

    Raises:
        InputError: no such file, or not JSON.
    """
    try:
        payload = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {what}", command=command) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable {what} ({str(error).splitlines()[0]})", command=command) from error
    if not isinstance(payload, dict):
        raise InputError(f"{path}: not a {what}")
    return payload


def content_hash(payload: dict[str, Any]) -> str:
    """SHA-256 of a JSON object, its key ``sha256`` left out."""
    content = {key: value for key, value in payload.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
