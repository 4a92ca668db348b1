"""Settings of a process that trains."""

import os
import subprocess
import sys

import pytest

from training.cores import compute_threads, usable_cores

SCRIPT = """
import gc, os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])
gc.disable()
import jax
from training import allocator
from training.process import configure_process
configure_process()
ahead = jax.config.values["jax_cpu_enable_async_dispatch"]
print(ahead, gc.isenabled(), gc.get_freeze_count() > 10_000, allocator.kept() is not None)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
@pytest.mark.parametrize("cores", [1, 2])
def test_a_configured_process(cores, tmp_path):
    if cores > len(usable_cores()):
        pytest.skip("one core")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "ISOFLOP_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT.format(cores=cores)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    dispatched_ahead, collects, frozen, keeps = done.stdout.split()
    assert dispatched_ahead == str(cores > 1) and (collects, frozen) == ("True", "True")
    assert keeps == str(sys.platform.startswith("linux"))


@pytest.mark.parametrize(("nproc", "threads"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_threads_are_those_of_the_environment_or_one_a_core(monkeypatch, nproc, threads):
    monkeypatch.setenv("NPROC", nproc)
    assert compute_threads() == (threads or len(usable_cores()))
