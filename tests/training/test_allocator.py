"""The allocator setting, seen in the page faults of a process."""

import json
import subprocess
import sys

PROBE = """
import json, resource, sys
import numpy as np
from training.allocator import keep_freed_memory
took = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(3): np.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): np.ones(2**22)  # 32 MiB each
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def probe(how):
    run = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_freed_memory_is_kept():
    took, kept_faults = probe("keep")
    untouched, faults = probe("leave")
    assert untouched is None
    if took is not None:
        assert set(took) == {"arena_max", "mmap_max", "trim_threshold", "top_pad"}
        assert kept_faults < faults / 10
