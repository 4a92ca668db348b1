"""The run directory: what a run leaves behind, in plain files that are whole at every moment.

`config.json` (resolved), `environment.json`, `metrics.jsonl` (append only; after a resume the last attempt wins),
`checkpoints/`, and `result.json`, which exists only when the run has ended.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from training import identity
from training.checkpoint import FOLDER
from training.cores import compute_threads
from training.errors import BadInput
from training.files import clear_temporaries, locked, read_json, read_object, write_json
from training.lines import read_metrics
from training.types import Record


class RunDirectory:
    """The files of one run, held by one live process at a time; on other hosts of the same run it writes nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.attempt = 0
        self._metrics: IO[str] | None = None

    def result(self) -> dict[str, Any] | None:
        """The result, if the run has ended."""
        path = self.path / "result.json"
        return read_json(path) if path.exists() else None

    def check_data(self, environment: Record) -> None:
        """Raise BadInput where a run would go on with other data than it began with."""
        path = self.path / "environment.json"
        before = read_object(path) if path.exists() else {}
        for key in ("data_hash", "tokenizer_hash"):
            old, new = before.get(key, environment.get(key)), environment.get(key)
            if old != new:
                raise BadInput(f"workdir {self.path}: {key} was {old} and is now {new}: the data has changed")

    def start(self, config: ConfigDict, environment: Record, keep: Callable[[Path], None]) -> None:
        """Begin an attempt, once nothing can be refused any more: note config, environment and what the task says to
        `keep`, open the metrics."""
        if jax.process_index():
            return
        clear_temporaries(self.path)
        write_json(self.path / "config.json", json.loads(config.to_json_best_effort()))
        previous = read_metrics(self.path, every_attempt=True)
        self.attempt = 1 + max((line["attempt"] for line in previous), default=-1)
        write_json(self.path / "environment.json", self._with_earlier_threads(environment))
        keep(self.path)
        torn = self.path / "metrics.jsonl"
        cut = torn.exists() and torn.stat().st_size > 0 and not torn.read_bytes().endswith(b"\n")
        self._metrics = open(torn, "a", buffering=1)  # noqa: SIM115 - held for the length of the run
        if cut:
            self._metrics.write("\n")

    def _with_earlier_threads(self, environment: Record) -> Record:
        """An environment whose `threads` are those of every attempt at the run, the first one first."""
        path = self.path / "environment.json"
        earlier = (read_object(path) if path.exists() else {}).get("threads", [])
        return environment | {"threads": [*earlier, compute_threads()]}

    def log(self, step: int, **values: object) -> None:
        """Append one line of metrics; what is not finite becomes null."""
        if self._metrics is not None:
            plain = {name: finite(value) for name, value in values.items()}
            self._metrics.write(json.dumps({"step": step, "attempt": self.attempt, **plain}) + "\n")

    def finish(self, result: Record) -> None:
        """Write `result.json`: from here on the run has ended."""
        if not jax.process_index():
            write_json(self.path / "result.json", {name: finite(value) for name, value in result.items()})

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()


@contextlib.contextmanager
def open_run(path: Path, config: ConfigDict, allow_change: tuple[str, ...] = ()) -> Iterator[RunDirectory]:
    """Hold the directory of a run, made on first use; what is raised before the run begins leaves nothing of it.

    Args:
      config: resolved.
      allow_change: semantic keys by which a resumed run may differ from the one that began.
    Raises:
      BadInput: a live process holds it, or another config began it (the differing keys are named) or ended it.
    """
    if path.exists() and not path.is_dir():
        raise BadInput(f"workdir {path} is a file")
    lock, made = contextlib.nullcontext(), [folder for folder in (path, *path.parents) if not folder.exists()]
    if not jax.process_index():
        lock = locked(path / "lock", f"workdir {path} is locked by a live run")
    with lock:
        directory = RunDirectory(path)
        try:
            _check_config(path, config, allow_change)
            yield directory
        except BaseException:
            _leave_nothing(path, made)
            raise
        finally:
            directory.close()


def _leave_nothing(path: Path, made: list[Path]) -> None:
    """Where a run ended before it began: remove its lock, and the folders that were made for it."""
    if jax.process_index() or (path / "config.json").exists():
        return
    (path / "lock").unlink()
    for folder in (path / FOLDER, *made):
        with contextlib.suppress(OSError):  # something else came to lie there
            folder.rmdir()


def _check_config(path: Path, config: ConfigDict, allow_change: tuple[str, ...]) -> None:
    if not (path / "config.json").exists():
        return
    before = ConfigDict(read_object(path / "config.json", "task", "derived"))
    identity.check_schema(before.derived, f"workdir {path}")
    old, new = identity.semantic(before), identity.semantic(config)
    ended = (path / "result.json").exists()
    changes = identity.changes(old, new)
    fixed = [] if ended else [key for key in changes if identity.under(key, identity.FIXED)]
    changed = fixed or [key for key in changes if ended or key not in allow_change]
    if not changed:
        return
    old, new = (identity.flatten(each.to_dict()) | keys for each, keys in ((before, old), (config, new)))
    shown = ", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in changed[:5])
    shown += " ..." if len(changed) > 5 else ""
    if fixed:
        raise BadInput(
            f"workdir {path}: {shown}: a run that goes on keeps its batches and their order; another --workdir"
        )
    if ended:
        raise BadInput(
            f"workdir {path}: the run has ended with another {shown}; another --workdir (--allow_change is for a run "
            "that goes on)"
        )
    raise BadInput(
        f"workdir {path} holds another run: {shown}; another --workdir, or --allow_change={','.join(changed)}"
    )


def finite(value: object) -> object:
    """Plain Python values, with null for what is not finite."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
