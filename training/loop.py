"""One run, from a config to a record: the only training loop of the house."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from training import (
    checkpoint,
    data,
    evaluation,
    hosts,
    pack,
    record,
    restored,
    schedule,
    state as states,
    step as steps,
    stopping,
    transfer,
    transforms,
)
from training.config import resolve
from training.meter import Diverged, Meter, Observer
from training.signals import Interrupted
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
    total, stride = config.derived.steps, config.steps_per_call
    hyper, recipe = steps.hyper(config, task), steps.recipe(task.model, config)
    rates = config.optimizer.peak_lr * schedule.values(config.schedule, total, config.derived.warmup_steps)
    began = time.perf_counter()
    seat = yield pack.Ready(config, task, recipe, hyper, data.shapes(task, config.batch_size), rates)
    program, mesh, stop = seat.program, seat.mesh, seat.stop
    env = record.environment(config, mesh, **task.facts())
    axes = states.axes(program.variables)
    start, state = saved.newest(program.abstract, program.shardings)
    step = start
    if state is None:
        state = transfer.begin(program.init(np.int32(config.seed), hyper), config.start, program.shardings, mesh)
        state = steps.begun(recipe, program, state, hyper)
    seat.state = restored.taught(state, config, program.variables, program.shardings, mesh)
    del state
    directory.start(config, env, task.keep)
    meter = seat.meter = Meter(
        directory, start, total, config.log.every, rates, config.derived.tokens // total, observers
    )

    def evaluate(state: states.State, final: bool) -> dict[str, Any]:
        params, paused = steps.read(recipe.transforms, axes, state, hyper), time.perf_counter()
        heard = stop if final and env["num_processes"] == 1 else ()  # one host of many may not leave the others
        scores = evaluation.evaluate(task, params, state.stats, mesh, config.precision.matmul, final, heard)
        meter.uncounted(time.perf_counter() - paused)
        return scores

    status, scores, saved_at = "completed", {"loss": None, "loss_sem": None}, time.perf_counter()
    metric, patience, keep = config.stopping.metric, config.stopping.patience, config.checkpoint
    best = stopping.judge(directory.path, start, metric, patience) if patience else None
    try:
        while step < total and not (best and best.exhausted):
            n, metrics = yield stride if step + stride <= total else 1
            meter.put(step, metrics)
            step += n
            if step == total and not patience:
                break  # what follows the loop evaluates and saves
            minutes, asked, score = (time.perf_counter() - saved_at) / 60, stop, None
            if env["num_processes"] > 1:  # the hosts do at a step what any of them was asked for, or none of them
                told = _crossed(step, n, config.log.every)
                minutes, number = hosts.agreed(minutes, stop[0] if stop else 0) if told else (0.0, 0)
                asked = [int(number)] if number else []
            due = _crossed(step, n, keep.every_steps) or 0 < keep.every_minutes <= minutes
            if step == total or _crossed(step, n, config.log.evaluate_every) or (due and keep.keep_best):
                meter.flush()
                interim = evaluate(seat.state, final=False)
                score = stopping.score(interim, metric)
                directory.log(step, **{f"eval_{name}": value for name, value in interim.items()})
                hosts.agreed(0.0)  # the line is there for all hosts to judge by
                best = stopping.judge(directory.path, step, metric, patience) if patience else None
                if best and (best.exhausted or step == total):
                    break  # what follows the loop saves the best of all steps in the place of this one
                due = due or (best is not None and best.step == step)
            if due or asked:
                meter.flush()
                saved.save(step, seat.state, score)
                saved_at = time.perf_counter()
                if asked:
                    saved.wait()
                    raise Interrupted(asked[0], step)
        meter.flush()
    except Diverged as error:
        status, step = "diverged", error.step
    seconds, state = meter.seconds(), seat.state
    if status == "completed":
        chosen = best.step if best is not None and best.step != step else None
        if chosen is not None:
            saved.wait()
            state = saved.restore(chosen, program.abstract, program.shardings)
        try:
            scores = evaluate(state, final=True)
        except evaluation.Stopped:
            if chosen is None:  # else the checkpoints hold what leads here again
                saved.save(step, state)
                saved.wait()
            raise Interrupted(stop[0], step) from None
        if keep.final:
            saved.save(step, state)
        scores |= {"post": evaluation.after_training(task, config, axes, state, mesh)} if config.quantize.post else {}
    measured = {
        "status": status,
        **scores,
        "train_loss": meter.recent_loss(),
        "best_step": best.step if best else None,
        "params_trained": transfer.trained(state.params, recipe.lr_factors),
        **transforms.facts(config, state.params, axes, state.masks),
        "last_good": meter.last_good if status == "diverged" else None,
        "wall_seconds": meter.earlier + time.perf_counter() - began,
        "train_seconds": seconds,
        "compile_seconds": seat.compile_seconds,
        "compiles": seat.compiles,
        "pack": seat.runs,
        "continued_from": start or None,
        "damaged_checkpoints": checkpoint.damaged_steps(directory.path),
    }
    return env, step, measured


def _crossed(step: int, n: int, every: int) -> bool:
    return bool(every) and step // every > (step - n) // every
