"""The allocator setting, seen in the page faults of a process."""

import json
import subprocess
import sys

TIDY = """
import ctypes, json, resource
from training import allocator
nothing = allocator.tidy()
kept = allocator.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
pieces = [libc.malloc(100_000) for _ in range(2_000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[::2]:  # 100 MB free, between others that are not
    libc.free(piece)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = resident()
found = [allocator.tidy() for _ in range(2)]
new = sorted(libc.malloc(60_000) for _ in range(500))
close = sum(b - a < 70_000 for a, b in zip(new, new[1:]))
untouched = all(ctypes.string_at(piece, 100_000) == bytes([1]) * 100_000 for piece in pieces[1::200])
print(json.dumps([kept is not None, nothing, found, before - resident(), close, untouched]))
"""

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


def said(*words):
    return json.loads(subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True).stdout)


def probe(how):
    return said(PROBE, how)


def test_freed_memory_is_kept():
    took, kept_faults = probe("keep")
    untouched, faults = probe("leave")
    assert untouched is None
    if took is not None:
        assert set(took) == {"arena_max", "mmap_max", "trim_threshold", "top_pad"}
        assert kept_faults < faults / 10


def test_free_pieces_are_set_aside_and_what_comes_next_lies_together():
    glibc, nothing, found, returned, close, untouched = said(TIDY)
    assert nothing == 0, "the process had not asked for its memory to be kept"
    if glibc:
        assert min(found) > 80e6 and abs(found[1] - found[0]) < 20e6, "what was set aside is looked through again"
        assert returned > 60e6 and close > 490 and untouched
