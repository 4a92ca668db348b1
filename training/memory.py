"""What a device's memory holds, and whether a compiled program fits into it, before anything is allocated."""

import contextlib
import os
from pathlib import Path

import jax

from training.errors import BadInput

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def of_a_device() -> float:
    """Bytes of one device of this process; CPU devices share those of the machine, or of its container."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    found = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    for name in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            found.append(float(Path(name).read_text()))
    return min(found) / jax.local_device_count()


def check(needed: float, runs: int = 1) -> None:
    """Refuse a program that needs more bytes of each device than there are.

    Args:
      needed: its arguments and what it holds meanwhile, as XLA counts them.
      runs: how many it trains.
    Raises:
      BadInput: it cannot fit.
    """
    there = of_a_device()
    if needed > there:
        what = "a step" if runs == 1 else f"a step of {runs} runs"
        raise BadInput(
            f"memory: {what} needs {needed / 2**30:,.1f} GiB of each device, which has {there / 2**30:,.1f}: more "
            "gradient_accumulation_steps or mesh.fsdp, or a smaller batch_size or model"
        )
