"""The CPU cores of this process, and the threads that XLA computes with on them."""

import os


def usable_cores() -> list[int]:
    """The cores that this process may use: those it is pinned to, where the system can say so, else all."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def compute_threads() -> int:
    """The size of XLA's thread pool on CPUs: `$NPROC`, else one thread a core.

    Sums are split among threads, so that another number of them changes the last digits of a loss.
    """
    text = os.environ.get("NPROC", "")
    return int(text) if text.isdigit() and int(text) else len(usable_cores())
