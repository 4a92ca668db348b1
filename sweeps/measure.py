"""Memory and speed of one compiled shape: a few train steps of a config, compiled and timed on this machine."""

import dataclasses
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from training import compilation, data, memory, mesh as meshes, run_batch, step as steps, step_spec
from training.task import resolve as family_of

MIN_TIMING_SECONDS = 0.5  # spent on timing a shape, at least


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Cost of the train step of one compiled shape on this machine.

    Attributes:
        params: parameters of one run.
        memory_bytes: that a step needs of each device.
        compile_seconds: to compile the step, or to read it from the cache.
        step_seconds: median time of a step; None where the program does not fit into a device, and is not run.
        flops_per_second: exact training FLOP/s of all runs together; None as above.
        runs: how many runs were stepped as one program; all of the above but `params` are theirs together.
    """

    params: int
    memory_bytes: int
    compile_seconds: float
    step_seconds: float | None
    flops_per_second: float | None
    runs: int = 1


def measure(config: ConfigDict, runs: int = 1) -> Measurement:
    """Compile the train step of a resolved config and time it on this machine's devices; opens its data.

    Args:
        config: a resolved run config.
        runs: how many of its shape are stepped as one program, each on data of its own.

    Raises:
        Absent: the data is not on this machine.
        BadInput: the point contradicts the machine: its mesh, its batch.
    """
    mesh = meshes.build(config.mesh) if runs == 1 else run_batch.mesh_of(runs)
    data.check_divisible(config, mesh)
    task = family_of(config.task).build(config)
    hyper, shapes, n = step_spec.hyper(config, task), data.shapes(task, config.batch_size), config.steps_per_call
    n = min(n, config.derived.steps)
    began = time.perf_counter()
    spec = step_spec.of(task.model, config)
    batched = () if runs == 1 else (runs, False)  # as `training.run_batch` asks for it
    programs = steps.programs(spec, mesh, n, shapes, tuple(hyper), *batched)
    train, init = compilation.program(programs.train), compilation.program(programs.init)
    compilation.ready([train, init])
    needed = train.memory_bytes
    compiling = time.perf_counter() - began
    if needed > memory.of_a_device():
        return Measurement(config.derived.params_total, needed, compiling, None, None, runs)
    seed, rates = np.int32(config.seed), np.zeros(n, np.float32)
    state = init(seed, hyper)
    if runs > 1:
        state = run_batch.stacked([state] * runs, programs.shardings)
        seed, rates, hyper = jax.tree.map(lambda x: np.stack([x] * runs), (seed, rates, hyper))
    call_seconds: list[float] = []
    while len(call_seconds) < 4 or sum(call_seconds[1:]) < MIN_TIMING_SECONDS:  # the first call warms up
        began = time.perf_counter()
        if runs == 1:
            batch = data.batches(task, shapes, mesh, 0, n)
        else:
            batch = data.packed([task] * runs, shapes, mesh, [0] * runs, n)
        state, metrics = train(state, batch, rates, seed, hyper)
        jax.block_until_ready(metrics)
        call_seconds.append(time.perf_counter() - began)
    seconds = float(np.median(call_seconds[1:])) / n  # the median: machines do other things too
    speed = runs * config.derived.flops / config.derived.steps / seconds
    return Measurement(config.derived.params_total, needed, compiling, seconds, speed, runs)
