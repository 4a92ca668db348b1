"""The sweep directory: `sweep.json`, and one run directory a point under `runs/`, whose files say what state it is in.

`sweep.json` holds the base configs and the points (a base, overrides, labels), by run id; `sweeps.plan_storage` writes it.
Points are only ever added: what an earlier design asked for stays. A point is worked on by whoever holds its lease
(`sweeps.lease`). `error.json` is what an exception left. Nothing here imports JAX, so that states are shown at once.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps import lease, untrusted_files
from training.errors import BadInput
from training.files import read_json, write_json

FORMAT = 2  # of sweep.json
RENAMED = {1: {"group": "compile_key"}}  # fields of a point, by the format that had the old name
STATES = ("missing", "running", "interrupted", "failed", "completed", "diverged")
ENDED = ("completed", "diverged")
SWEEP_BYTES = 256 << 20  # read of a `sweep.json`, at most
MAX_NUMBER = 1e300  # in a plan; sums of such numbers are finite
RUN_ID = re.compile(r"[0-9a-f]{12}")
FIELD_TYPES = {
    "base": str,
    "overrides": dict,
    "labels": dict,
    "compile_key": str,
    "flops": int | float,
    "params": int,
    "steps": int,
    "trunk": str,
    "fork_step": int,
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One point of a sweep directory.

    Attributes:
        run_id: the identity of the run.
        base: the name of its base config.
        overrides: of the base config, by dotted key.
        labels: columns of its record.
        compile_key: points of equal key share one compiled step.
        flops: exact training FLOPs, of the whole way where the run is forked.
        params: parameters.
        steps: optimizer steps.
        trunk: the run that this one is forked from; empty: it is trained from its first step on.
        fork_step: steps that the trunk has made at the fork.
    """

    run_id: str
    base: str
    overrides: Mapping[str, Any]
    labels: Mapping[str, Any]
    compile_key: str
    flops: float
    params: int
    steps: int
    trunk: str = ""
    fork_step: int = 0

    @property
    def own_flops(self) -> float:
        """Exact training FLOPs of the steps after the fork; all of them where there is none."""
        return self.flops * (1 - self.fork_step / max(self.steps, 1))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep directory, as `sweep.json` describes it.

    Attributes:
        path: the directory.
        name: of the sweep.
        bases: completed configs, by the names by which entries refer to them.
        entries: the points by run id.
        indifferent: keys and sections of a base that change no result, only how fast or where it is computed.
    """

    path: Path
    name: str
    bases: Mapping[str, Any]
    entries: Mapping[str, Entry]
    indifferent: tuple[str, ...] = ()

    def run(self, run_id: str) -> Path:
        """The directory of a run."""
        return self.path / "runs" / run_id


def read(path: Path) -> Sweep:
    """The sweep of a directory.

    Raises:
        BadInput: there is none, or it is not one that this version reads.
    """
    file = path / "sweep.json"
    if untrusted_files.stamp(file, path, SWEEP_BYTES) is None:
        raise BadInput(
            f"no sweep in {path}: {file} is missing (isoflop sweep --config=FILE --workdir={path} makes one)"
        )
    content = untrusted_files.load(_text(file), file)
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, *RENAMED):
        raise BadInput(f"{file}: not a sweep of format {FORMAT}")
    renamed: dict[str, str] = RENAMED.get(content["format"], {})
    try:
        points = {
            run_id: {str(renamed.get(name, name)): value for name, value in point.items()}
            for run_id, point in content["points"].items()
        }
        entries = {run_id: Entry(run_id=run_id, **point) for run_id, point in points.items()}
        indifferent = tuple(str(key) for key in content.get("indifferent", ()))
        sweep = Sweep(path, content["name"], content["bases"], entries, indifferent)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: damaged ({type(error).__name__}: {untrusted_files.printable(str(error))})") from error
    if not isinstance(sweep.name, str) or not isinstance(sweep.bases, dict):
        raise BadInput(f"{file}: damaged (its name is no text, or its bases are no objects)")
    for entry in entries.values():
        _check(entry, file)
        if entry.trunk and (entry.trunk not in entries or not 0 < entry.fork_step < entry.steps):
            raise BadInput(f"{file}: damaged (the trunk of the point {entry.run_id} is no point, or has no fork)")
    return sweep


def state(sweep: Sweep, run_id: str) -> str:
    """One of `STATES`, read from the files of a run."""
    run = sweep.run(run_id)
    ended = result(run)
    return unfinished(run) if ended is None else ended["status"]


def unfinished(run: Path) -> str:
    """The state of a run that has no record: "running", "failed", "interrupted" or "missing"."""
    if lease.is_claimed(run):
        return "running"
    if (run / "error.json").exists():
        return "failed"
    return "interrupted" if (run / "config.json").exists() else "missing"


def result(run: Path) -> dict[str, Any] | None:
    """The record of a run that has ended.

    Raises:
        BadInput: it is damaged.
    """
    file = run / "result.json"
    exists = untrusted_files.stamp(file, run.parents[1], untrusted_files.RECORD_BYTES) is not None
    return untrusted_files.record(_text(file), file) if exists else None


def first_threads(run: Path) -> int | None:
    """With how many CPU threads a run began; None where it has not begun, or no record says so."""
    file = run / "environment.json"
    try:
        if untrusted_files.stamp(file, run.parents[1], untrusted_files.RECORD_BYTES) is None:
            return None
        environment = untrusted_files.load(_text(file), file)
        threads = environment["threads"][0]
    except (BadInput, KeyError, IndexError, TypeError):
        return None
    return threads if type(threads) is int and threads > 0 else None


def fail(run: Path, message: str, traceback: str, session: str) -> None:
    """Record that a run could not be made; a later sweep tries it again.

    Args:
        run: the run directory.
        message: what went wrong, in one line.
        traceback: of the exception; empty: there was none.
        session: names the `isoflop sweep` that tried, which tries no second time.
    """
    error = {"message": message, "traceback": traceback, "session": session, "at": time.time()}
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "error.json", error)


def failure(run: Path) -> dict[str, Any] | None:
    """What `fail` recorded."""
    return read_json(run / "error.json") if (run / "error.json").exists() else None


def _check(entry: Entry, file: Path) -> None:
    if not RUN_ID.fullmatch(entry.run_id):  # it becomes a path
        raise BadInput(f"{file}: {untrusted_files.printable(entry.run_id)!r} is no run id")
    for name, kind in FIELD_TYPES.items():
        value = getattr(entry, name)
        in_range = kind in (str, dict) or (untrusted_files.number(value) is not None and 0 <= value < MAX_NUMBER)
        if not isinstance(value, kind) or not in_range:
            raise BadInput(
                f"{file}: damaged ({name} of the point {entry.run_id} is {untrusted_files.printable(value)})"
            )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not JSON ({error})") from None
