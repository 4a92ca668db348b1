"""Flags of XLA's compiler in tests, for this process and those that it starts: programs that run once are not optimised.

Where `XLA_FLAGS` gives an optimisation level, as the Makefile does for fits, that level and XLA's defaults hold.
"""

import os

# The older emitter of loops, in one piece, compiles in a quarter of the time.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
DEVICES = "--xla_force_host_platform_device_count"
_given = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(DEVICES)]
_levelled = any("backend_optimization_level" in flag for flag in _given)
ONE_DEVICE = " ".join([*_given, *(() if _levelled else QUICK)])
EIGHT_DEVICES = f"{ONE_DEVICE} {DEVICES}=8"
