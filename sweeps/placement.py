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

PROCESS_BYTES = 700 << 20  # of a worker beside its run's arrays: interpreter, libraries, compiled programs
# The parameter, its gradient and two moments in float32; as much again for updates in flight, and for activations.
BYTES_PER_PARAM = 48
MEMORY_SHARE = 0.8  # of a machine's memory that workers may fill


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one worker runs.

    Attributes:
        cores: that it is pinned to; none: any.
        gpu: the one that it alone sees; None: none is set apart for it.
    """

    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Environment variables that must be set before JAX starts."""
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


def placements(
    workers: int | None, flops: Sequence[float], largest_params: int, threads: int | None = None
) -> tuple[Placement, ...]:
    """The placement of each worker.

    Args:
        workers: how many; None: one a GPU, one for all chips of a TPU, else as many sharing out the cores as end first:
            one a core, fewer where one run is most of the work or the runs would not fit into memory. Never more than runs.
        flops: training FLOPs of each run to be made.
        largest_params: parameters of the largest run.
        threads: cores of each worker on a machine without accelerators, where it has as many; None: an even share.
    """
    kind, names = accelerators()
    if kind == "gpu":
        count = min(workers or len(names), max(len(flops), 1))
        return tuple(Placement(gpu=names[i % len(names)]) for i in range(count))
    if kind == "tpu":
        return (Placement(),)
    cores = usable_cores()
    if threads is not None and threads <= len(cores):
        at_once = min(len(cores) // threads, _count_in_memory(len(cores), largest_params))
        count = min(workers or at_once, max(len(flops), 1))
        if count * threads <= len(cores):
            return tuple(Placement(cores=tuple(cores[i * threads : (i + 1) * threads])) for i in range(count))
    count = min(workers or _fastest_count(len(cores), flops, largest_params), max(len(flops), 1))
    if count > len(cores):
        return tuple(Placement(cores=(cores[i % len(cores)],)) for i in range(count))
    bounds = [round(i * len(cores) / count) for i in range(count + 1)]
    return tuple(Placement(cores=tuple(cores[a:b])) for a, b in itertools.pairwise(bounds))


def accelerators() -> tuple[str, tuple[str, ...]]:
    """The kind of device of this machine, "gpu", "tpu" or "cpu", and the names of its GPUs.

    Found without starting JAX, which would take hold of them.
    """
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
    """How many workers with even shares of the cores end these runs first, each taking the longest run that is left.

    Args:
        cores: of this machine.
        flops: training FLOPs of each run.
        largest_params: parameters of the largest run.
    """
    longest_first, exponent = sorted(flops, reverse=True), _core_scaling_exponent(largest_params)

    def cost(count: int) -> float:
        loads = [0.0] * count
        for run_flops in longest_first:
            heapq.heapreplace(loads, loads[0] + run_flops)
        return max(loads) / (cores // count) ** exponent

    return min(range(min(_count_in_memory(cores, largest_params), max(len(flops), 1)), 0, -1), key=cost)


def _core_scaling_exponent(params: int) -> float:
    """The exponent x with which k cores take the steps of a run k^x times as fast as one.

    Two took those of 37 thousand, 840 thousand and 4.8 million parameters 1.2, 1.55 and 1.75 times as fast as each of two
    pinned workers (`benchmarks/sweep.py`): x is 0.26, 0.63 and 0.81 there.
    """
    return min(max(0.26 * math.log10(max(params, 1) / 3_500), 0.0), 0.9)


def _count_in_memory(cores: int, largest_params: int) -> int:
    """How many workers of one core or more fit into this machine's memory."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return cores
    return max(1, min(cores, int(MEMORY_SHARE * total / (PROCESS_BYTES + BYTES_PER_PARAM * largest_params))))
