"""One run, from a config to a record: the only training loop."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from training import checkpoint, data, pack, record, schedule, step as steps, transfer
from training.config import resolve
from training.course import Course
from training.meter import Diverged, Observer
from training.task import Task, resolve as family_of


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
      config: complete; resolved when it is run.
      workdir: the run directory.
      observers: called with (step, metrics) at every logged step, e.g. a progress bar or a mirror.
      allow_change: semantic keys that may differ from the config that began the run.
      extra: entries for the record, e.g. the sweep and its design columns.
      check: called before the record is written; what it raises is raised.
    """

    config: ConfigDict
    workdir: Path
    observers: Sequence[Observer] = ()
    allow_change: tuple[str, ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[], None] = lambda: None


def run(
    config: ConfigDict,
    workdir: Path | str,
    observers: Iterable[Observer] = (),
    allow_change: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one run to its end, or continue it from its last checkpoint; returns its result.

    Args: as in `Job`; a run that has ended in `workdir` is returned as it is.
    Raises:
      BadInput: a config, workdir, checkpoint or corpus that does not fit.
      Interrupted: stopped by a signal, after saving a checkpoint.
    """
    (found,) = together([Job(config, Path(workdir), tuple(observers), allow_change, extra or {})])
    if isinstance(found, Exception):
        raise found
    return found


def together(jobs: Sequence[Job]) -> list[dict[str, Any] | Exception]:
    """Train runs of one shape in lockstep, as one program; returns the result of each, or what was raised in it.

    Raises:
      Interrupted: stopped by a signal, after saving checkpoints.
    """
    return pack.together([_run(job) for job in jobs])


def _run(job: Job) -> pack.Run:
    config = resolve(job.config)
    with record.open_run(job.workdir, config, job.allow_change) as directory:
        ended = directory.result()
        if ended is not None:
            return ended
        family = family_of(config.task)
        task = family.build(config)
        facts = task.facts()
        transfer.check_shared(config, {name: facts[name] for name in getattr(family, "INHERITED", ())})
        directory.check_data(facts)
        keep = config.checkpoint
        best = max(keep.keep_best, 1) if config.stopping.patience else keep.keep_best
        saved = checkpoint.Checkpoints(directory.path, keep.keep_last, best, keep.keep_every)
        try:
            env, done, measured = yield from _train(config, task, directory, saved, job.observers)
        finally:
            saved.close()
        result = record.result(config, family.cost(config), task.facts(), env, done, measured) | job.extra
        job.check()
        directory.finish(result)
        return result


def _train(
    config: ConfigDict,
    task: Task,
    directory: record.RunDirectory,
    saved: checkpoint.Checkpoints,
    observers: Iterable[Observer],
) -> Any:
    """Train to the horizon; returns the environment, the steps done and what was measured."""
    total, stride, began = config.derived.steps, config.steps_per_call, time.perf_counter()
    hyper, recipe = steps.hyper(config, task), steps.recipe(task.model, config)
    rates = config.optimizer.peak_lr * schedule.values(config.schedule, total, config.derived.warmup_steps)
    ready = pack.Ready(config, task, recipe, hyper, data.shapes(task, config.batch_size), rates)
    course = Course(ready, (yield ready), directory, saved, observers)
    step, status = course.start, "completed"
    try:
        while step < total and not course.over:
            n, metrics = yield stride if step + stride <= total else 1
            course.meter.put(step, metrics)
            step += n
            course.between(step, n)
        course.meter.flush()
    except Diverged as error:
        status, step = "diverged", error.step
    return course.env, step, course.end(step, status, began)
