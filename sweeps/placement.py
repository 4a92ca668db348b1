"""Where workers run: each on its own cores, or each on its own accelerator."""

import dataclasses
import heapq
import importlib.util
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

from training.cores import usable_cores

# What a worker takes beside its run's arrays (interpreter, libraries, compiled programs), and bytes a parameter: the
# parameter, its gradient and two moments in float32, as much again for updates in flight, and as much for activations.
PROCESS_BYTES = 700 << 20
BYTES_PER_PARAM = 48


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one worker runs: the cores it is pinned to (none: any), and the accelerator that it alone sees."""

    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """What must be in the environment before JAX starts."""
        if self.gpu is not None:
            return {"CUDA_VISIBLE_DEVICES": self.gpu}
        if len(self.cores) != 1:
            return {}
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
        tunables = ":".join(filter(None, [os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"]))
        # NPROC is the size of XLA's thread pool; OpenBLAS and OpenMP would start a thread a core too. With its heap in huge
        # pages a step takes 0 to 7% less.
        one = dict.fromkeys(("NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        return {"XLA_FLAGS": flags, "GLIBC_TUNABLES": tunables, **one}

    def __str__(self) -> str:
        if self.gpu is not None:
            return f"GPU {self.gpu}"
        return f"core{'s' * (len(self.cores) > 1)} {','.join(map(str, self.cores))}" if self.cores else "all cores"


def pin(cores: Sequence[int]) -> None:
    """Keep this process and its future threads on these cores, where the system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def placements(workers: int | None, flops: Sequence[float], largest_params: int) -> tuple[Placement, ...]:
    """One place a worker.

    Args:
      workers: how many; None: one a GPU, one for all chips of a TPU, else as many sharing out the cores as end first: one
        a core, fewer where one run is most of the work or the runs would not fit into memory. Never more than runs.
      flops: of each run to be made.
      largest_params: parameters of the largest.
    """
    kind, names = accelerators()
    if kind == "gpu":
        count = min(workers or len(names), max(len(flops), 1))
        return tuple(Placement(gpu=names[i % len(names)]) for i in range(count))
    if kind == "tpu":
        return (Placement(),)
    cores = usable_cores()
    count = min(workers or _fastest_count(len(cores), flops, largest_params), max(len(flops), 1))
    if count > len(cores):
        return tuple(Placement(cores=(cores[i % len(cores)],)) for i in range(count))
    bounds = [round(i * len(cores) / count) for i in range(count + 1)]
    return tuple(Placement(cores=tuple(cores[a:b])) for a, b in itertools.pairwise(bounds))


def accelerators() -> tuple[str, tuple[str, ...]]:
    """("gpu", names), ("tpu", ()) or ("cpu", ()); found without starting JAX, which would take hold of them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms.startswith("cpu"):
        return "cpu", ()
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            names = tuple(name for name in visible.split(",") if name.strip())
        else:
            files = sorted(Path("/dev").glob("nvidia[0-9]*"), key=lambda file: int(file.name.removeprefix("nvidia")))
            names = tuple(str(i) for i, _ in enumerate(files))
        if names:
            return "gpu", names
    if importlib.util.find_spec("libtpu") and (
        any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    ):
        return "tpu", ()
    return "cpu", ()


def _fastest_count(cores: int, flops: Sequence[float], largest_params: int) -> int:
    """How many workers with even shares of the cores end these runs first, each taking the longest that is left."""
    longest_first, exponent = sorted(flops, reverse=True), _core_scaling_exponent(largest_params)

    def cost(count: int) -> float:
        loads = [0.0] * count
        for each in longest_first:
            heapq.heapreplace(loads, loads[0] + each)
        return max(loads) / (cores // count) ** exponent

    return min(range(min(_count_in_memory(cores, largest_params), max(len(flops), 1)), 0, -1), key=cost)


def _core_scaling_exponent(params: int) -> float:
    """x, where k cores take the steps of a run k^x times as fast as one.

    Two took those of 37 thousand, 840 thousand and 4.8 million parameters 1.2, 1.55 and 1.75 times as fast as each of two
    pinned workers (`benchmarks/sweep.py`): x is 0.26, 0.63 and 0.81 there.
    """
    return min(max(0.26 * math.log10(max(params, 1) / 3_500), 0.0), 0.9)


def _count_in_memory(cores: int, largest_params: int) -> int:
    try:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return cores
    return max(1, min(cores, int(0.8 * free / (PROCESS_BYTES + BYTES_PER_PARAM * largest_params))))
