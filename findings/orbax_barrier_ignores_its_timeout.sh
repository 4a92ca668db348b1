#!/usr/bin/env bash
# Library: orbax-checkpoint 0.12.8 (jax 0.10.2).
# Expected: multihost.sync_global_processes(name, timeout=2) raises after 2 seconds where another process is not there.
# Seen: it waits for as long as the other takes, here 8 seconds, and returns: without `processes` it calls JAX's barrier by
# collectives, which has no timeout, unless the flag EXPERIMENTAL_ORBAX_USE_DISTRIBUTED_BARRIER is set.
# Way round: multihost.get_barrier_sync_fn()(key=, timeout_ms=), which raises and names the processes that are absent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
cat >two.py <<'PYTHON'
import sys
import time
from importlib.metadata import version

import jax

index = int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, index)
from orbax.checkpoint import multihost

multihost.sync_global_processes("both are there")
time.sleep(8 * index)
began = time.monotonic()
try:
    multihost.sync_global_processes("late", timeout=2)
    seen = "returned"
except Exception as error:
    seen = type(error).__name__
seconds = time.monotonic() - began
if index == 0:
    print("orbax-checkpoint", version("orbax-checkpoint"), "sync_global_processes(timeout=2), the other 8 s late")
    print(f"expected an error after 2 s, seen: {seen} after {seconds:.0f} s")
    described = seen == "returned" and seconds > 4
    print("as described" if described else "the behaviour has changed")
    sys.exit(0 if described else 1)
PYTHON
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/python" -I two.py "$port" 1 2>/dev/null &
status=0
"$folder/venv/bin/python" -I two.py "$port" 0 2>/dev/null || status=$?
wait || true
exit "$status"
