"""One run, from a config to a record: the only training loop of the house."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from training import (
    checkpoint,
    data,
    evaluation,
    mesh as meshes,
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
from training.signals import Interrupted, stoppable
from training.task import Task, resolve as family_of


def run(
    config: ConfigDict,
    workdir: Path | str,
    observers: Iterable[Observer] = (),
    allow_change: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one run to its end, or continue it from its last checkpoint; returns its result.

    Args:
      config: complete; resolved here.
      workdir: the run directory; a run that has ended there is returned as it is.
      observers: called with (step, metrics) at every logged step, e.g. a progress bar or a mirror.
      allow_change: semantic keys that may differ from the config that began the run.
      extra: entries for the record, e.g. the sweep and its design columns.
    Raises:
      BadInput: a config, workdir, checkpoint or corpus that does not fit.
      Interrupted: stopped by a signal, after saving a checkpoint.
    """
    config = resolve(config)
    with record.open_run(Path(workdir), config, allow_change) as directory:
        ended = directory.result()
        if ended is not None:
            return ended
        family, mesh = family_of(config.task), meshes.build(config.mesh)
        data.check_divisible(config, mesh)
        task = family.build(config)
        env = record.environment(config, mesh, **task.facts())
        transfer.check_shared(config, {name: env[name] for name in getattr(family, "INHERITED", ())})
        directory.check_data(env)
        keep = config.checkpoint
        best = max(keep.keep_best, 1) if config.stopping.patience else keep.keep_best
        saved = checkpoint.Checkpoints(directory.path, keep.keep_last, best, keep.keep_every)
        try:
            done, measured = _train(config, task, mesh, directory, env, saved, observers)
        finally:
            saved.close()
        result = record.result(config, family.cost(config), task.facts(), env, done, measured) | (extra or {})
        directory.finish(result)
        return result


def _train(
    config: ConfigDict,
    task: Task,
    mesh: Mesh,
    directory: record.RunDirectory,
    env: dict[str, Any],
    saved: checkpoint.Checkpoints,
    observers: Iterable[Observer],
) -> tuple[int, dict[str, Any]]:
    """Train to the horizon; returns the steps done and what was measured."""
    total, stride, seed = config.derived.steps, config.steps_per_call, np.int32(config.seed)
    hyper, shapes = steps.hyper(config, task), data.shapes(task, config.batch_size)
    rates = config.optimizer.peak_lr * schedule.values(config.schedule, total, config.derived.warmup_steps)
    recipe = steps.recipe(task.model, config)
    began = time.perf_counter()
    programs = {n: steps.compiled(recipe, mesh, n, shapes, tuple(hyper)) for n in steps.strides(total, stride)}
    compiling = time.perf_counter() - began
    program = next(iter(programs.values()))
    axes = states.axes(program.variables)
    step = start = saved.latest() or 0
    if start:
        state = saved.restore(start, program.abstract, program.shardings)
    else:
        state = transfer.begin(program.init(seed, hyper), config.start, program.shardings, mesh)
        state = steps.begun(recipe, program, state, hyper)
    state = restored.taught(state, config, program.variables, program.shardings, mesh)
    directory.start(config, env, task.keep)
    meter = Meter(directory, start, total, config.log.every, rates, config.derived.tokens // total, observers)

    def evaluate(final: bool) -> dict[str, Any]:
        params = steps.read(recipe.transforms, axes, state, hyper)
        paused = time.perf_counter()
        scores = evaluation.evaluate(task, params, state.stats, mesh, config.precision.matmul, final)
        meter.uncounted(time.perf_counter() - paused)
        return scores

    status, scores, saved_at = "completed", {"loss": None, "loss_sem": None}, time.perf_counter()
    metric, patience, keep = config.stopping.metric, config.stopping.patience, config.checkpoint
    best = stopping.judge(directory.path, start, metric, patience) if patience else None
    try:
        with stoppable() as stop:
            while step < total and not (best and best.exhausted):
                n = stride if step + stride <= total else 1
                batch = data.batches(task, shapes, mesh, step, n)
                state, metrics = programs[n].train(state, batch, rates[step : step + n], seed, hyper)
                meter.put(step, metrics)
                step += n
                if step == total and not patience:
                    break  # what follows the loop evaluates and saves
                minutes, score = (time.perf_counter() - saved_at) / 60, None
                due = _crossed(step, n, keep.every_steps) or 0 < keep.every_minutes <= minutes
                if step == total or _crossed(step, n, config.log.evaluate_every) or (due and keep.keep_best):
                    meter.flush()
                    interim = evaluate(final=False)
                    score = stopping.score(interim, metric)
                    directory.log(step, **{f"eval_{name}": value for name, value in interim.items()})
                    best = stopping.judge(directory.path, step, metric, patience) if patience else None
                    if best and (best.exhausted or step == total):
                        break  # what follows the loop saves the best of all steps in the place of this one
                    due = due or (best is not None and best.step == step)
                if due or stop:
                    meter.flush()
                    saved.save(step, state, score)
                    saved_at = time.perf_counter()
                    if stop:
                        saved.wait()
                        raise Interrupted(stop[0], step)
            meter.flush()
    except Diverged as error:
        status, step = "diverged", error.step
    seconds = meter.seconds()
    if status == "completed":
        if best and best.step != step:
            saved.wait()
            state = saved.restore(best.step, program.abstract, program.shardings)
        scores = evaluate(final=True)
        if keep.final:
            saved.save(step, state)
        scores |= {"post": evaluation.after_training(task, config, axes, state, mesh)} if config.quantize.post else {}
    return step, {
        "status": status,
        **scores,
        "train_loss": meter.recent_loss(),
        "best_step": best.step if best else None,
        "params_trained": transfer.trained(state.params, recipe.lr_factors),
        **transforms.facts(config, state.params, axes, state.masks),
        "last_good": meter.last_good if status == "diverged" else None,
        "wall_seconds": meter.earlier + time.perf_counter() - began,
        "train_seconds": seconds,
        "compile_seconds": compiling,
        "continued_from": start or None,
    }


def _crossed(step: int, n: int, every: int) -> bool:
    return bool(every) and step // every > (step - n) // every
