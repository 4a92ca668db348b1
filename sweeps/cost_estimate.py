"""What a plan costs: parameters and FLOPs by arithmetic, memory and time by compiling and running a few steps.

`python -m sweeps.cost_estimate` is the process that compiles and runs them, placed as a worker would be.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sweeps import run_batching, sweep_dir
from sweeps.measure import Measurement
from sweeps.placement import Placement, pin
from sweeps.plan import Plan, Point, configure
from training.config import complete, resolve
from training.errors import Absent, BadInput, RunFailed
from training.process import configure_process

COMMAND = (sys.executable, "-m", "sweeps.cost_estimate")
ABSENT = 3  # exit code of the measuring process where the data is not on this machine
MAX_SHAPES = 20  # compiled for their memory without being asked
SAMPLED_SHAPES = 3  # timed where there are more than that


@dataclasses.dataclass(frozen=True)
class Speed:
    """FLOP/s as a function of parameters.

    Attributes:
        measured: (parameters, FLOP/s) pairs.
        source: where they come from, for people.
    """

    measured: tuple[tuple[int, float], ...]
    source: str

    def flops_per_second(self, params: int) -> float:
        """Interpolated between logarithms; beyond the ends, as at the ends."""
        sizes, speeds = zip(*sorted(self.measured), strict=True)
        return float(np.exp(np.interp(math.log(params), np.log(sizes), np.log(speeds))))


def row(point: Point) -> dict[str, Any]:
    """The counts of a point by every convention, from shapes alone; of a refused one its overrides, and why it is."""
    if point.config is None or point.refused is not None:
        return {**point.labels, **point.overrides, "refused": point.refused}
    forked: dict[str, Any] = {}
    if point.trunk is not None:
        forked = {"trunk": point.trunk.run_id, "fork_step": point.fork_step, "own_flops": point.own_flops}
    return {"run_id": point.run_id, **point.labels, **point.counts, "epochs": point.epochs, **forked}


def representatives(plan: Plan, limit: int | None = None) -> list[Point]:
    """One point of each shape; with a limit, so many of them, spread from the smallest to the largest."""
    by_key = {point.compile_key: point for point in plan.points}
    ordered = sorted(by_key.values(), key=lambda point: point.config.derived.params_total if point.config else 0)
    if limit is None or len(ordered) <= limit:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (limit - 1))] for i in range(limit)]


def measure_points(
    base: ConfigDict, points: Iterable[Point], placement: Placement, runs: Mapping[str, int] | None = None
) -> dict[str, list[Measurement]]:
    """Measure each point in a process of its own that is placed as a worker would be.

    Args:
        base: the config that the points' overrides are laid over.
        points: one of each shape.
        placement: of the process.
        runs: how many runs there are by compile key, to measure batches of them too; none: one run at a time.

    Returns:
        By compile key, the measurements of batches of 1, 2, 4, ... runs, as `run_batching.measure_batches` makes them.

    Raises:
        BadInput: a point contradicts the machine or its data: its mesh, its batch.
        Absent: the data is not on this machine.
        RunFailed: the process died, or a point cannot be compiled; the message is its own.
    """
    overrides = {point.compile_key: point.overrides for point in points}
    job = {
        "cores": placement.cores,
        "base": json.loads(base.to_json_best_effort()),
        "overrides": overrides,
        "runs": runs,
    }
    done = subprocess.run(
        COMMAND,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | placement.environment(),
    )
    if done.returncode:
        message = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        error = {BadInput.exit_code: BadInput, ABSENT: Absent}.get(done.returncode)
        raise error(message) if error else RunFailed(f"cannot compile the plan: {message}")
    measurements = json.loads(done.stdout.splitlines()[-1])
    return {key: [Measurement(**values) for values in batches] for key, batches in measurements.items()}


def main() -> int:
    """The process behind `measure_points`; returns its exit code."""
    job = json.load(sys.stdin)
    pin(job["cores"])
    configure_process()
    measurements = {}
    base = complete(ConfigDict(job["base"]))
    try:
        for key, overrides in job["overrides"].items():
            limit = (job["runs"] or {}).get(key, 1)
            batches = run_batching.measure_batches(resolve(configure(base, overrides)), limit)
            measurements[key] = [dataclasses.asdict(batch) for batch in batches]
    except BadInput as error:
        print(error, file=sys.stderr)
        return ABSENT if isinstance(error, Absent) else error.exit_code
    print(json.dumps(measurements))
    return 0


def speed_of_records(path: Path) -> Speed | None:
    """The speed of the completed runs of a sweep directory; None where it has none."""
    sweep = sweep_dir.read(path)
    speeds: dict[int, list[float]] = {}
    for run_id in sweep.entries:
        result = sweep_dir.result(sweep.run(run_id)) or {}
        if result.get("status") == "completed" and result.get("train_seconds"):
            own = result["flops_exact"] * (1 - (result.get("fork_step") or 0) / result["steps"])
            speeds.setdefault(result["params_total"], []).append(own / result["train_seconds"])
    if not speeds:
        return None
    count = sum(map(len, speeds.values()))
    return Speed(tuple((n, float(np.median(s))) for n, s in speeds.items()), f"{count} completed runs in {path}")


def training_seconds(points: Sequence[Point], speed: Speed, measured: Mapping[str, Measurement]) -> list[float]:
    """Estimated seconds of each run's training: without evaluation, records and compilation.

    Args:
        points: of a plan.
        speed: of the shapes that were not measured.
        measured: one run of a shape, by compile key.
    """
    estimates = []
    for point in points:
        assert point.config is not None
        measurement = measured.get(point.compile_key)
        measured_speed = measurement.flops_per_second if measurement else None
        rate = measured_speed or speed.flops_per_second(point.config.derived.params_total)
        estimates.append(point.own_flops / rate)
    return estimates


if __name__ == "__main__":
    sys.exit(main())
