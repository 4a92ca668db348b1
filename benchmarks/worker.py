"""What a sweep's worker costs above the training itself: claims, data, metrics, checkpoints, evaluation, records.

    python -m benchmarks.worker [--shape d32] [--steps 9000] [--pairs 5] [--out FILE]

One process on one core, as a worker has it, takes turns: it works on a point of a sweep directory, from the claim to the
record, and it takes the steps of that point bare (the same compiled step on the same batches, losses fetched a call late,
nothing written). Everything is compiled before. Prints JSON: the cost is the median over the pairs of the ratio within a
pair, less one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sweep as benchmark
from benchmarks.train_step import _machine


def worked(path: Path, run_id: str) -> float:
    """Seconds of a worker on a point."""
    from sweeps import worker
    from sweeps.worker_job import WorkerJob

    began = time.perf_counter()
    worker.work(WorkerJob(str(path), (run_id,), f"{time.time_ns()}"), lambda event, **values: None)
    return time.perf_counter() - began


def bare(config: Any) -> float:
    """Seconds of the steps of a run alone."""
    from training import compilation, data, mesh as meshes, schedule, step as steps, step_spec
    from training.config import resolve
    from training.task import resolve as family_of

    config = resolve(config)
    task, mesh, total = family_of(config.task).build(config), meshes.build(config.mesh), config.derived.steps
    hyper, shapes = step_spec.hyper(config, task), data.shapes(task, config.batch_size)
    programs = steps.programs(step_spec.of(task.model, config), mesh, 1, shapes, tuple(hyper))
    train, init = compilation.program(programs.train), compilation.program(programs.init)
    rates = config.optimizer.learning_rate * schedule.values(config.schedule, total, config.derived.warmup_steps)
    seed, before = np.int32(config.seed), None
    state = init(seed, hyper)
    began = time.perf_counter()
    for step in range(total):
        batch = data.batches(task, shapes, mesh, step, 1)
        state, metrics = train(state, batch, rates[step : step + 1], seed, hyper)
        if before is not None:
            np.asarray(before["loss"])
        before = metrics
    np.asarray(before["loss"] if before else 0.0)
    return time.perf_counter() - began


def measure(shape: str, steps: int, pairs: int) -> dict[str, Any]:
    """All pairs, in this process."""
    from isoflop import config_file
    from sweeps import plan as plans, plan_storage
    from training.process import configure_process

    configure_process()
    timed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "sweep"
        plan = plans.plan(config_file.load(str(benchmark.config(benchmark.SHAPES[shape], folder, steps))))
        sweep = plan_storage.add_points(path, plan)
        ids = list(sweep.entries)
        for run_id in ids[: pairs + 1]:  # the first compiles
            pair = {"worker": worked(path, run_id), "bare": bare(plan_storage.run_config(sweep, sweep.entries[run_id]))}
            print(f"{shape}: {pair}", file=sys.stderr, flush=True)
            timed.append(pair)
    ratios = [pair["worker"] / pair["bare"] for pair in timed[1:]]
    return {
        "shape": shape,
        "steps": steps,
        "cost": statistics.median(ratios) - 1,
        "costs": [ratio - 1 for ratio in ratios],
        "pairs": timed[1:],
        "machine": _machine(),
    }


def main() -> None:
    """Parse the command line; measure in a process that is placed as a worker is."""
    from sweeps import placement

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=benchmark.SHAPES, default="d32")
    parser.add_argument("--steps", type=int, default=9_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.here:
        place = placement.Placement(cores=(placement.usable_cores()[-1],))
        sys.exit(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.worker", *sys.argv[1:], "--here"],
                env={"JAX_PLATFORMS": "cpu"} | os.environ | place.environment(),
            ).returncode
        )
    placement.pin((placement.usable_cores()[-1],))
    text = json.dumps(measure(flags.shape, flags.steps, flags.pairs), indent=1)
    print(text)
    if flags.out:
        flags.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
