"""The sweep directory: `sweep.json`, and one run directory a point under `runs/`, whose files say what state it is in.

`sweep.json` holds the bases (completed configs) and the points (a base, overrides, labels), by run id. Points are only
ever added: what an earlier design asked for stays. A point is worked on by whoever holds its lease (`sweeps.lease`).
`error.json` is what an exception left.
"""

import dataclasses
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import foreign, lease
from training.errors import BadInput, nearest
from training.files import clear_temporaries, locked, read_json, write_json

# What plans a run imports JAX, and reading what became of it must not wait for that: see `Sweep.config` and `add`.
if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from sweeps.plan import Plan, Point

FORMAT = 1
STATES = ("missing", "running", "interrupted", "failed", "completed", "diverged")
ENDED = ("completed", "diverged")
SWEEP_BYTES = 256 << 20
LARGEST = 1e300  # number in a plan; sums of them are finite
RUN_ID = re.compile(r"[0-9a-f]{12}")
KINDS = {
    "base": str,
    "overrides": dict,
    "labels": dict,
    "group": str,
    "flops": int | float,
    "params": int,
    "steps": int,
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One point of a sweep directory; `flops`, `params`, `steps` and `group` are its plan's."""

    run_id: str
    base: str
    overrides: Mapping[str, Any]
    labels: Mapping[str, Any]
    group: str
    flops: float
    params: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `sweep.json` says."""

    path: Path
    name: str
    bases: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def config(self, entry: Entry) -> "ConfigDict":
        """The completed config of a point.

        Raises:
          BadInput: this version of the code has no such keys, or makes another run of them.
        """
        from ml_collections import ConfigDict

        from sweeps import plan as plans
        from training import config as configs

        where = f"{self.path / 'sweep.json'}"
        config = plans.configure(configs.complete(ConfigDict(self.bases[entry.base]), where), dict(entry.overrides))
        found = configs.resolve(config).derived.run_id
        if found != entry.run_id:
            raise BadInput(
                f"{where}: the run {entry.run_id} is now {found}: planned by another version, or with other data"
            )
        return config

    def run(self, run_id: str) -> Path:
        """The directory of a run."""
        return self.path / "runs" / run_id


def add(path: Path, plan: "Plan") -> Sweep:
    """Add the points of a plan to a sweep directory, made on first use; labels of a known point are renewed.

    Raises:
      BadInput: the directory holds something else, or a sweep of another name.
    """
    from sweeps import plan as plans

    if path.exists() and not path.is_dir():
        raise BadInput(f"workdir {path} is a file")
    if (path / "config.json").exists():
        raise BadInput(f"workdir {path} holds a run, not a sweep")
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / "sweep.lock", f"workdir {path}: sweep.json is being written", wait=True):
        clear_temporaries(path, "sweep.json")
        known = read(path) if (path / "sweep.json").exists() else Sweep(path, plan.name, {}, {})
        if known.name != plan.name:
            raise BadInput(f"workdir {path} holds the sweep {known.name!r}, not {plan.name!r}: give another --workdir")
        base = json.loads(plan.base.to_json_best_effort())
        key = plans.digest(base)
        entries = {point.run_id: _entry(key, point) for point in plan.points}
        for run_id, entry in known.entries.items():
            # A run keeps the base that it was first planned with: it is the same run by whatever way it is described.
            new = entries.get(run_id)
            entries[run_id] = entry if new is None else dataclasses.replace(entry, labels=new.labels)
        used = {entry.base for entry in entries.values()}
        bases = {name: value for name, value in {**known.bases, key: base}.items() if name in used}
        points = {run_id: _plain(entry) for run_id, entry in entries.items()}
        content = {"format": FORMAT, "name": plan.name, "bases": bases, "points": points}
        if points.keys() != known.entries.keys() or any(_plain(known.entries[i]) != points[i] for i in points):
            write_json(path / "sweep.json", content)
        return Sweep(path, plan.name, bases, entries)


def read(path: Path) -> Sweep:
    """The sweep of a directory.

    Raises:
      BadInput: there is none, or it is not one that this version reads.
    """
    file = path / "sweep.json"
    if foreign.stamp(file, path, SWEEP_BYTES) is None:
        raise BadInput(f"no sweep in {path}: {file} is missing")
    content = foreign.load(_text(file), file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f"{file}: not a sweep of format {FORMAT}")
    try:
        entries = {run_id: Entry(run_id=run_id, **point) for run_id, point in content["points"].items()}
        sweep = Sweep(path, content["name"], content["bases"], entries)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: damaged ({type(error).__name__}: {foreign.shown(str(error))})") from error
    if not isinstance(sweep.name, str) or not isinstance(sweep.bases, dict):
        raise BadInput(f"{file}: damaged (its name is no text, or its bases are no objects)")
    for entry in entries.values():
        _check(entry, file)
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
    there = foreign.stamp(file, run.parents[1], foreign.RECORD_BYTES) is not None
    return foreign.record(_text(file), file) if there else None


def parse_states(text: str, choices: tuple[str, ...] = ("missing", "interrupted", "failed")) -> tuple[str, ...]:
    """The states of a list such as "failed,missing".

    Raises:
      BadInput: one is not among the choices.
    """
    wanted = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in wanted:
        if word not in choices:
            raise BadInput(f"--only: no state {word!r}{nearest(word, choices)} (known: {', '.join(choices)})")
    return wanted or choices


def fail(run: Path, message: str, traceback: str, session: str) -> None:
    """Record that a run could not be made; a later sweep tries it again.

    Args:
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
        raise BadInput(f"{file}: {foreign.shown(entry.run_id)!r} is no run id")
    for name, kind in KINDS.items():
        value = getattr(entry, name)
        sane = kind in (str, dict) or (foreign.number(value) is not None and 0 <= value < LARGEST)
        if not isinstance(value, kind) or not sane:
            raise BadInput(f"{file}: damaged ({name} of the point {entry.run_id} is {foreign.shown(value)})")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not JSON ({error})") from None


def _entry(base: str, point: "Point") -> Entry:
    assert point.config is not None
    derived = point.config.derived
    plain = json.loads(json.dumps({"overrides": point.overrides, "labels": point.labels}))
    return Entry(
        run_id=point.run_id,
        base=base,
        **plain,
        group=point.group,
        flops=point.flops,
        params=derived.params_total,
        steps=derived.steps,
    )


def _plain(entry: Entry) -> dict[str, Any]:
    return {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name != "run_id"}
