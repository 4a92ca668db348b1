"""How many runs of a shape to train as one program (batched by `vmap`): measured on this machine, and remembered."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from sweeps import plan as plans
from sweeps.measure import MIN_TIMING_SECONDS, Measurement, measure
from training import cache, environment, memory
from training.cores import usable_cores
from training.files import read_json, write_json

MIN_GAIN = 1.1  # a batch of twice as many runs is tried, and taken, where it takes so many times more steps a second
MAX_RUNS = 64  # of a batch
MEMORY_SHARE = 0.8  # of a device's memory that batches may fill
# On CPUs measuring must cost less than one part in so many of the work that is left: a batch gains little on one core, and
# a shape compiles for as long as tiny runs take.
MIN_WORK_RATIO = 20.0


def measure_batches(config: ConfigDict, limit: int) -> list[Measurement]:
    """Measure batches of 1, 2, 4, ... runs, as long as each doubling pays and fits into memory.

    Args:
        config: a resolved run config.
        limit: the largest number of runs.

    Raises:
        Absent: the data is not on this machine.
        BadInput: the run contradicts the machine.
    """
    batches = [measure(config)]
    # On CPUs each core may have a worker, and all of them share one memory.
    sharing = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    available = MEMORY_SHARE * memory.of_a_device() / sharing
    while (
        batches[-1].step_seconds
        and 2 * batches[-1].runs <= min(limit, MAX_RUNS)
        and 2 * batches[-1].memory_bytes < available
    ):
        batches.append(measure(config, 2 * batches[-1].runs))
        if not _pays(batches[-2], batches[-1]):
            break
    return batches


def best_batch(batches: Sequence[Measurement]) -> Measurement:
    """Of batches of growing size, the last whose doubling paid."""
    best = batches[0]
    for larger in batches[1:]:
        if not _pays(best, larger):
            break
        best = larger
    return best


def choose_size(config: ConfigDict, runs: int, flops: float) -> int:
    """How many of the runs of a shape to train at once.

    What was measured once is remembered in `$ISOFLOP_CACHE/packs`, by shape, device and versions. On CPUs measuring waits
    until there is work that it is worth.

    Args:
        config: of one of them; resolved.
        runs: that are left of this shape.
        flops: exact training FLOPs of all of them.
    """
    if runs < 2 or config.spike_guard.rollback:  # of runs stepped together none can go back
        return 1
    file = _measurements_file(config)
    if file.exists():
        batches = [Measurement(**values) for values in read_json(file)]
    else:
        alone = measure(config)
        cost = 2 * alone.compile_seconds + MIN_TIMING_SECONDS
        if alone.flops_per_second is None:  # it is refused when it is run
            return 1
        if jax.default_backend() == "cpu" and flops / alone.flops_per_second < MIN_WORK_RATIO * cost:
            return 1
        batches = measure_batches(config, MAX_RUNS)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, [dataclasses.asdict(batch) for batch in batches])
    return _even(min(best_batch(batches).runs, runs), jax.device_count())


def _pays(smaller: Measurement, larger: Measurement) -> bool:
    return (larger.flops_per_second or 0.0) > MIN_GAIN * (smaller.flops_per_second or 0.0)


def _even(runs: int, devices: int) -> int:
    """So many runs, or the few less that all devices share evenly."""
    return runs - runs % devices if runs > devices else runs


def _measurements_file(config: ConfigDict) -> Path:
    """Where what was measured of a shape is kept."""
    machine = [device.device_kind for device in jax.devices()], len(usable_cores()), environment.versions()
    return cache.folder() / "packs" / f"{plans.digest([plans.compile_key(config), machine])}.json"
