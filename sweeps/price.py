"""What a plan costs: parameters and FLOPs by arithmetic, memory and time by compiling and running a few steps."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sweeps import store
from sweeps.placement import Place, pin
from sweeps.plan import Plan, Point, configure
from sweeps.worker import prepare
from training import compilation, data, memory, mesh as meshes, pack, step as steps
from training.config import complete, resolve
from training.errors import Absent, BadInput, RunFailed
from training.task import resolve as family_of

COMMAND = (sys.executable, "-m", "sweeps.price")
ABSENT = 3  # exit code of its process where the data is not on this machine
MOST_SHAPES = 20  # compiled for memory unless asked
SAMPLES = 3  # shapes that are timed where memory was not asked for
SECONDS = 0.5  # spent on timing a shape, at least


@dataclasses.dataclass(frozen=True)
class Measured:
    """One compiled shape: bytes of a training step, seconds to compile it and to take it, and its FLOP/s.

    With several `runs` as one program, all of these are those of the pack. What does not fit into a device is not run:
    its speed is None.
    """

    params: int
    memory_bytes: int
    compile_seconds: float
    step_seconds: float | None
    flops_per_second: float | None
    runs: int = 1


@dataclasses.dataclass(frozen=True)
class Speed:
    """FLOP/s as a function of parameters, through what was measured, and where that comes from."""

    known: tuple[tuple[int, float], ...]
    source: str

    def flops_per_second(self, params: int) -> float:
        """Interpolated between logarithms; beyond the ends, as at the ends."""
        sizes, speeds = zip(*sorted(self.known), strict=True)
        return float(np.exp(np.interp(math.log(params), np.log(sizes), np.log(speeds))))


def row(point: Point) -> dict[str, Any]:
    """The counts of a point by every convention, from shapes alone; of a refused one what it asked for, and why not."""
    if point.config is None or point.refused is not None:
        return {**point.labels, **point.overrides, "refused": point.refused}
    config, derived = point.config, point.config.derived
    cost = family_of(config.task).cost(config)
    return {
        "run_id": derived.run_id,
        **point.labels,
        "params_total": cost.params_total,
        "params_non_embedding": cost.params_non_embedding,
        "params_active": cost.active,
        "tokens": derived.tokens,
        "epochs": point.epochs,
        "steps": derived.steps,
        "batch_size": config.batch_size,
        "peak_lr": config.optimizer.peak_lr,
        "seed": config.seed,
        "flops_6nd": 6.0 * cost.params_total * derived.tokens,
        "flops_6nd_non_embedding": 6.0 * cost.params_non_embedding * derived.tokens,
        "flops_6nd_active": 6.0 * cost.active * derived.tokens,
        "flops_exact": derived.flops,
    }


def representatives(plan: Plan, most: int | None = None) -> list[Point]:
    """One point of each group; with `most`, so many of them, spread from the smallest to the largest."""
    one = {point.group: point for point in plan.points}
    ordered = sorted(one.values(), key=lambda point: point.config.derived.params_total if point.config else 0)
    if most is None or len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def measure(config: ConfigDict, runs: int = 1) -> Measured:
    """Compile the train step of a resolved config and time it on this machine's devices; opens its data.

    Args:
      runs: how many of its shape are stepped as one program, each on data of its own.
    Raises:
      Absent: the data is not on this machine.
      BadInput: the point contradicts the machine: its mesh, its batch.
    """
    mesh = meshes.build(config.mesh) if runs == 1 else pack.mesh(runs)
    data.check_divisible(config, mesh)
    task = family_of(config.task).build(config)
    hyper, shapes, n = steps.hyper(config, task), data.shapes(task, config.batch_size), config.steps_per_call
    n = min(n, config.derived.steps)
    began = time.perf_counter()
    recipe, packed = steps.recipe(task.model, config), () if runs == 1 else (runs, False)  # as `pack` asks for it
    program = steps.programs(recipe, mesh, n, shapes, tuple(hyper), *packed)
    compilation.ready([program.train, program.init])
    needed = program.train.memory_bytes
    compiling = time.perf_counter() - began
    if needed > memory.of_a_device():
        return Measured(config.derived.params_total, needed, compiling, None, None, runs)
    seed, rates = np.int32(config.seed), np.zeros(n, np.float32)
    state = program.init(seed, hyper)
    if runs > 1:
        state = pack.stacked([state] * runs, program.shardings)
        seed, rates, hyper = jax.tree.map(lambda x: np.stack([x] * runs), (seed, rates, hyper))
    taken: list[float] = []
    while len(taken) < 4 or sum(taken[1:]) < SECONDS:  # the first call warms up
        began = time.perf_counter()
        if runs == 1:
            batch = data.batches(task, shapes, mesh, 0, n)
        else:
            batch = data.packed([task] * runs, shapes, mesh, [0] * runs, n)
        state, metrics = program.train(state, batch, rates, seed, hyper)
        jax.block_until_ready(metrics)
        taken.append(time.perf_counter() - began)
    seconds = float(np.median(taken[1:])) / n  # the median: machines do other things too
    speed = runs * config.derived.flops / config.derived.steps / seconds
    return Measured(config.derived.params_total, needed, compiling, seconds, speed, runs)


def measured(
    base: ConfigDict, points: Iterable[Point], place: Place, runs: Mapping[str, int] | None = None
) -> dict[str, list[Measured]]:
    """`measure` of each point, by group, in a process of its own that is placed as a worker would be.

    Args:
      runs: how many there are of each group, to measure packs of them too, as `sweeps.pack.tried` does.
    Raises:
      BadInput: a point contradicts the machine or its data: its mesh, its batch.
      Absent: the data is not on this machine.
      RunFailed: the process died, or a point cannot be compiled; the message is its own.
    """
    overrides = {point.group: point.overrides for point in points}
    job = {"cores": place.cores, "base": json.loads(base.to_json_best_effort()), "overrides": overrides, "runs": runs}
    done = subprocess.run(
        COMMAND,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | place.environment(),
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        known = {BadInput.exit_code: BadInput, ABSENT: Absent}.get(done.returncode)
        raise known(said) if known else RunFailed(f"cannot compile the plan: {said}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {group: [Measured(**values) for values in each] for group, each in found.items()}


def main() -> int:
    """The process behind `measured`."""
    job = json.load(sys.stdin)
    pin(job["cores"])
    prepare()
    from sweeps import pack as packs

    found = {}
    base = complete(ConfigDict(job["base"]))
    try:
        for group, overrides in job["overrides"].items():
            most = (job["runs"] or {}).get(group, 1)
            each = packs.tried(resolve(configure(base, overrides)), most)
            found[group] = [dataclasses.asdict(one) for one in each]
    except BadInput as error:
        print(error, file=sys.stderr)
        return ABSENT if isinstance(error, Absent) else error.exit_code
    print(json.dumps(found))
    return 0


def speed_of_records(path: Path) -> Speed | None:
    """The speed of the completed runs of a sweep directory; None where it has none."""
    sweep = store.read(path)
    speeds: dict[int, list[float]] = {}
    for run_id in sweep.entries:
        result = store.result(sweep.run(run_id)) or {}
        if result.get("status") == "completed" and result.get("train_seconds"):
            speeds.setdefault(result["params_total"], []).append(result["flops_exact"] / result["train_seconds"])
    if not speeds:
        return None
    count = sum(map(len, speeds.values()))
    return Speed(tuple((n, float(np.median(s))) for n, s in speeds.items()), f"{count} completed runs in {path}")


def seconds(points: Sequence[Point], speed: Speed, found: dict[str, Measured]) -> list[float]:
    """Estimated seconds of each run's training: without evaluation, records and compilation."""
    estimates = []
    for point in points:
        assert point.config is not None
        own = found.get(point.group)
        rate = (own and own.flops_per_second) or speed.flops_per_second(point.config.derived.params_total)
        estimates.append(point.flops / rate)
    return estimates


if __name__ == "__main__":
    sys.exit(main())
