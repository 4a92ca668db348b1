"""Going back from a spike: the run continues from its last checkpoint on other batches.

With `spike_guard.rollback` n, a step that `training.spike_guard` calls a spike takes the run back to the last multiple of
`checkpoint.every_steps` before it, and the n batches from there on, at least those up to the spike's, are left out for
good. After `spike_guard.max_rollbacks` of them spikes are skipped alone. `rollbacks.json` in the run directory holds them,
so that a run that is stopped anywhere and continued takes the same course: the batch of a step is a function of that list.

Source: Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, section 5.1: back about 100 steps, past 200 to 500 batches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from training.errors import BadInput
from training.files import read_object, write_json
from training.types import Record

FILE = "rollbacks.json"


class Rollback(NamedTuple):
    """One return: the step whose loss was a spike, the step that the run went back to, and how many batches it left out."""

    spike: int
    step: int
    batches: int


class Spike(Exception):
    """A spike that the run goes back from; `step` is its number, from 1."""

    def __init__(self, step: int):
        super().__init__(f"step {step} is a spike")
        self.step = step


def check(config: ConfigDict) -> None:
    """Raise BadInput where `spike_guard.rollback` contradicts itself or other sections."""
    section, saves = config.spike_guard, config.checkpoint
    for key in ("rollback", "max_rollbacks"):
        if section[key] < 0:
            raise BadInput(f"spike_guard.{key}: must not be negative, got {section[key]}")
    if not section.rollback:
        return
    if not section.sigmas:
        raise BadInput("spike_guard.rollback: no step is a spike; set spike_guard.sigmas")
    if saves.every_steps < 1 or saves.every_steps % config.steps_per_call:
        raise BadInput(
            "spike_guard.rollback: goes back to a multiple of checkpoint.every_steps, which must be one of steps_per_call="
            f"{config.steps_per_call}; got {saves.every_steps}"
        )
    if saves.every_minutes or saves.keep_last < 2:
        raise BadInput(
            "spike_guard.rollback: goes back by steps, not by the clock: checkpoint.every_minutes=0 and "
            f"checkpoint.keep_last of 2 or more, got {saves.every_minutes} and {saves.keep_last}"
        )
    if config.model.get("stateful"):
        raise BadInput(
            "spike_guard.rollback: model.stateful carries a state from batch to batch, none of which can lack"
        )
    if config.fork_from.run:
        raise BadInput("spike_guard.rollback: a fork takes the batches of its trunk; spike_guard.rollback=0")


def check_alone(config: ConfigDict, runs: int) -> None:
    """Raise BadInput where a run that may go back would be stepped together with others."""
    if config.spike_guard.rollback and runs > 1:
        raise BadInput(
            "spike_guard.rollback: of runs that are stepped together none can go back; train them one by one"
        )


def read(run: Path) -> list[Rollback]:
    """The rollbacks of a run so far."""
    path = run / FILE
    if not path.exists():
        return []
    return [
        Rollback(*(int(one[name]) for name in Rollback._fields)) for one in read_object(path, "rollbacks")["rollbacks"]
    ]


def write(run: Path, rollbacks: Sequence[Rollback]) -> None:
    """Keep the rollbacks of a run."""
    if not jax.process_index():
        write_json(run / FILE, {"rollbacks": [rollback._asdict() for rollback in rollbacks]})


def target(config: ConfigDict, spike: int) -> int:
    """The step that a run goes back to from a spike."""
    return (spike - 1) // config.checkpoint.every_steps * config.checkpoint.every_steps


def of(config: ConfigDict, spike: int, step: int) -> Rollback:
    """The rollback of a spike to a step, as the config says."""
    return Rollback(spike, step, max(config.spike_guard.rollback, spike - step))


def record(config: ConfigDict, rollbacks: Sequence[Rollback]) -> Record:
    """Entries of the record where a run may go back: how often it did, steps that were taken in vain, batches left out."""
    if not config.spike_guard.rollback:
        return {}
    return {
        "rollbacks": len(rollbacks),
        "rolled_back_steps": sum(one.spike - one.step for one in rollbacks),
        "batches_left_out": sum(one.batches for one in rollbacks),
    }


def batch_of(rollbacks: Sequence[Rollback], step: int) -> int:
    """The number of the batch of the step that follows `step` steps."""
    return step + sum(rollback.batches for rollback in rollbacks if rollback.step <= step)
