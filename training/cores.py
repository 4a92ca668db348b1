"""The CPU cores of this process."""

import os


def usable_cores() -> list[int]:
    """The cores that this process may use: those it is pinned to, where the system can say so, else all."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
