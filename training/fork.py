"""Runs that begin with the whole state of another run at one of its steps: cooldowns forked from a trunk.

A fork saves steps and changes no result: up to the fork a run of the same config makes the steps that its trunk has made,
bit for bit. So `fork_from` is no part of a run's identity, and a trunk that would have made other steps is refused.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from training import checkpoint, identity, optimizer, replicas, schedule, transforms
from training.errors import BadInput
from training.files import read_object
from training.state import State

# Parts of a semantic config that may differ: what they make of the steps before the fork is compared by itself.
SCHEDULE = ("steps", "warmup_steps", "schedule")
FACTS = ("data_hash", "tokenizer_hash")  # of the data, which are equal where batches are


def trunk(section: ConfigDict) -> ConfigDict | None:
    """The resolved config of the run that the section `fork_from` names; None where it names none.

    Raises:
      BadInput: there is no such run, or it has no checkpoint of that step.
    """
    if not section.run:
        if section.step is not None:
            raise BadInput("fork_from.step: says where a run is forked from another; give fork_from.run")
        return None
    run = Path(section.run)
    if not (run / "config.json").is_file():
        raise BadInput(f"fork_from.run: {run} is no run directory")
    if section.step is None:
        raise BadInput("fork_from.step: give the step of the trunk's checkpoint")
    if section.step not in checkpoint.saved_steps(run):
        raise BadInput(f"fork_from.run: {run} has no checkpoint of step {section.step}")
    config = ConfigDict(read_object(run / "config.json", "task", "derived"))
    identity.check_schema(config.derived, f"fork_from.run: {run}")
    return config


def check(config: ConfigDict, trunk: ConfigDict, step: int) -> None:
    """Raise BadInput where a run would not make the same steps as its trunk up to a step.

    Args:
      config: of the run; resolved.
      trunk: of the run that it is forked from; resolved.
      step: steps that the trunk has made.
    """
    steps, theirs = config.derived.steps, trunk.derived.steps
    if not 0 < step < steps:
        raise BadInput(f"fork_from.step: step {step} does not lie inside a run of {steps} steps")
    if step > theirs:
        raise BadInput(f"fork_from.step: the trunk of {theirs} steps is shorter than the {step} before the fork")
    if step % config.steps_per_call:
        raise BadInput(f"fork_from.step: {step} is no multiple of steps_per_call {config.steps_per_call}")
    if config.early_stopping.patience:
        raise BadInput("fork_from.run: early_stopping.patience counts evaluations from step 0, and a fork has none")
    changes = identity.changes(identity.semantic(trunk), identity.semantic(config))
    others = [key for key in changes if not identity.under(key, SCHEDULE)]
    if others:
        raise BadInput(f"fork_from.run: the trunk has another {', '.join(others[:5])}")
    differing = sorted(
        name for name, value in _of_the_duration(config).items() if value != _of_the_duration(trunk).get(name)
    )
    if differing:
        raise BadInput(f"fork_from.run: {', '.join(differing)} of a step follows from the duration, which differs")
    same = schedule.rates(config)[:step] == schedule.rates(trunk)[:step]
    if not same.all():
        raise BadInput(
            f"fork_from.run: the learning rate leaves the trunk's at step {int(np.argmin(same))}, before the fork at "
            f"step {step}; with schedule.name wsd it is constant until the cooldown"
        )


def check_data(run: Path, facts: Mapping[str, object]) -> None:
    """Raise BadInput where the trunk in a run directory had other data."""
    there = read_object(run / "environment.json")
    for name in FACTS:
        if there.get(name) != facts.get(name):
            raise BadInput(f"fork_from.run: {run} has the {name} {there.get(name)}, and this run {facts.get(name)}")


def restored(section: ConfigDict, abstract: State, shardings: State) -> State:
    """The state of the trunk that the section `fork_from` names: parameters, moments, statistics and step.

    Args:
      section: names a run and a step.
      abstract: shapes of the state.
      shardings: of the state.
    Raises:
      Damaged: the checkpoint is not as it was saved.
      BadInput: it is of another model.
    """
    path = (Path(section.run) / checkpoint.FOLDER / str(section.step)).absolute()
    return checkpoint.restored(path, abstract, shardings)


def _of_the_duration(config: ConfigDict) -> dict[str, float]:
    """Scalars that enter a step and may follow from the duration of the run, by name."""
    values = {**transforms.hyper(config), **replicas.hyper(config)}
    if "steps" in optimizer.TABLE[config.optimizer.name].inputs:
        values["optimizer.name"] = config.derived.steps
    return {name: float(value) for name, value in values.items()}
