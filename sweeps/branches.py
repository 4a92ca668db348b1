"""Branches in a sweep directory: when one can begin, from where, and how long its trunk keeps the state it begins with."""

import contextlib
import enum
import os
import shutil
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from sweeps import lease, sweep_dir
from sweeps.sweep_dir import Entry, Sweep
from training import checkpoint


class Readiness(enum.Enum):
    """Whether a point can be run."""

    READY = enum.auto()
    WAITING = enum.auto()  # for its trunk
    NEVER = enum.auto()  # its trunk ended, or failed, before the fork


class Branch(NamedTuple):
    """What is known of a point: whether it can be run, and why it never will be."""

    readiness: Readiness
    reason: str = ""


def look(sweep: Sweep, entry: Entry, session: str) -> Branch:
    """Whether a point can be run; one that is no branch, or has begun, always can.

    Where a trunk has ended and kept no checkpoint of the fork, the branch is trained from its first step on, to the same
    result.

    Args:
        sweep: the sweep directory.
        entry: the point.
        session: names the invocation of the sweep, which tries no failed trunk again.
    """
    if not entry.trunk or checkpoint.saved_steps(sweep.run(entry.run_id)) or _fork_is_saved(sweep, entry):
        return Branch(Readiness.READY)
    trunk = sweep.run(entry.trunk)
    if (result := sweep_dir.result(trunk)) is not None:
        if result["status"] == "diverged" and result["steps"] < entry.fork_step:
            where = f"at step {result['steps']}, before the fork at step {entry.fork_step}"
            return Branch(Readiness.NEVER, f"not run: its trunk {entry.trunk} diverged {where}")
        return Branch(Readiness.READY)
    failure = sweep_dir.failure(trunk) or {}
    if failure.get("session") == session and not lease.is_claimed(trunk):
        return Branch(Readiness.NEVER, f"not run: its trunk {entry.trunk} failed ({failure.get('message')})")
    return Branch(Readiness.WAITING)


def with_trunks(sweep: Sweep, run_ids: Iterable[str]) -> list[str]:
    """Points with the trunks that have yet to bring them to their forks, each before its branches."""
    needed: dict[str, None] = {}
    for run_id in run_ids:
        entry = sweep.entries[run_id]
        if entry.trunk and sweep_dir.state(sweep, entry.trunk) not in sweep_dir.ENDED:
            needed.setdefault(entry.trunk)
        needed.setdefault(run_id)
    return list(needed)


def configure(sweep: Sweep, entry: Entry, config: ConfigDict) -> ConfigDict:
    """The config of a point with what it begins with, and with the steps at which branches are forked from it.

    Args:
        sweep: the sweep directory.
        entry: the point.
        config: of the point; complete.
    """
    forks = {e.fork_step for e in sweep.entries.values() if e.trunk == entry.run_id and not _has_ended(sweep, e.run_id)}
    if forks:
        config.checkpoint.at_steps = tuple(sorted({*config.checkpoint.at_steps, *forks}))
    if entry.trunk and _fork_is_saved(sweep, entry):
        config.fork_from.run, config.fork_from.step = str(sweep.run(entry.trunk)), entry.fork_step
    return config


def release(sweep: Sweep, trunk: str) -> None:
    """Remove the checkpoints of a trunk that has ended from which only branches that have ended were forked.

    Args:
        sweep: the sweep directory.
        trunk: a run; one without branches is left alone.
    """
    over: dict[int, bool] = {}
    for entry in sweep.entries.values():
        if entry.trunk == trunk:
            over[entry.fork_step] = over.get(entry.fork_step, True) and _has_ended(sweep, entry.run_id)
    if not over or not _has_ended(sweep, trunk):
        return
    section = sweep.bases[sweep.entries[trunk].base]["checkpoint"]
    if section.get("keep_every"):
        return
    for step in (step for step, ended in over.items() if ended and step not in section.get("at_steps", ())):
        folder = sweep.run(trunk) / checkpoint.FOLDER / str(step)
        aside = folder.with_name(f".{step}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # gone, or removed by another worker at this moment
            os.replace(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)


def _fork_is_saved(sweep: Sweep, entry: Entry) -> bool:
    return entry.fork_step in checkpoint.saved_steps(sweep.run(entry.trunk))


def _has_ended(sweep: Sweep, run_id: str) -> bool:
    return (sweep.run(run_id) / "result.json").exists()
