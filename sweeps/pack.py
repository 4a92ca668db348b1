"""How many runs of a shape to train as one program: measured on this machine, and remembered."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from sweeps import plan as plans, price
from training import cache, memory, record
from training.errors import BadInput
from training.files import read_json, write_json

GAIN = 1.1  # a pack of twice as many runs is tried, and taken, where it takes so many times more steps a second
MOST = 64  # runs
SHARE = 0.8  # of a device's memory
WORTH = 20.0  # measuring must cost less than one part in so many of the work that is left


def parse(text: str) -> int | None:
    """The value of a flag `--pack`: a number of runs, or None for "auto".

    Raises:
      BadInput: it is neither.
    """
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise BadInput(f"--pack: must be auto or a number of runs, got {text!r}")
    return int(text)


def tried(config: ConfigDict, most: int) -> list[price.Measured]:
    """Packs of 1, 2, 4, ... up to `most` runs of a resolved config, as long as each doubling pays and fits.

    Raises:
      Absent: the data is not on this machine.
      BadInput: the run contradicts the machine.
    """
    found, sharing = [price.measure(config)], (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    room = SHARE * memory.of_a_device() / sharing  # a worker a core, one memory
    while found[-1].step_seconds and 2 * found[-1].runs <= min(most, MOST) and 2 * found[-1].memory_bytes < room:
        found.append(price.measure(config, 2 * found[-1].runs))
        if not _pays(found[-2], found[-1]):
            break
    return found


def best(found: Sequence[price.Measured]) -> price.Measured:
    """Of packs of growing size, the last whose doubling paid."""
    chosen = found[0]
    for larger in found[1:]:
        if not _pays(chosen, larger):
            break
        chosen = larger
    return chosen


def _pays(smaller: price.Measured, larger: price.Measured) -> bool:
    return (larger.flops_per_second or 0.0) > GAIN * (smaller.flops_per_second or 0.0)


def choose(config: ConfigDict, runs: int, flops: float) -> int:
    """How many of the runs of a shape to train at once.

    What was measured once is remembered in `$ISOFLOP_CACHE/packs`, by shape, device and versions. On the CPU, where a
    pack of one core's worker gains little, and a shape compiles for as long as tiny runs take, measuring waits until
    there is work that it is worth.

    Args:
      config: of one of them; resolved.
      runs: that are left of this shape.
      flops: of all of them.
    """
    if runs < 2:
        return 1
    file = _file(config)
    if file.exists():
        found = [price.Measured(**one) for one in read_json(file)]
    else:
        alone = price.measure(config)
        spent = 2 * alone.compile_seconds + price.SECONDS
        if alone.flops_per_second is None:  # it is refused when it is run
            return 1
        if jax.default_backend() == "cpu" and flops / alone.flops_per_second < WORTH * spent:
            return 1
        found = tried(config, MOST)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, [dataclasses.asdict(one) for one in found])
    return _even(min(best(found).runs, runs), jax.device_count())


def _even(runs: int, devices: int) -> int:
    """So many runs, or the few less that all devices share evenly."""
    return runs - runs % devices if runs > devices else runs


def _file(config: ConfigDict) -> Path:
    """Where what was measured of a shape is kept."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = [device.device_kind for device in jax.devices()], cores, record.versions()
    return cache.folder() / "packs" / f"{plans.digest([plans.group(config), machine])}.json"
