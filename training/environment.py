"""The environment of a run: versions, devices, flags and the revision of the code."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax
from ml_collections import ConfigDict

from training import allocator
from training.types import Record, Value

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "numpy")


def of(config: ConfigDict, mesh: jax.sharding.Mesh, **facts: Value) -> Record:
    """Versions, devices, precision, flags and git state: what a number depends on beside its config."""
    devices = list(mesh.devices.flat)
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "precision": config.precision.to_dict(),
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "JAX_PLATFORMS") if name in os.environ},
        "allocator": allocator.kept(),
        "git_revision": git_revision(),
        "warnings": warnings_of(),
        **facts,
    }


def warnings_of() -> list[str]:
    """What should be said loudly of this machine: an accelerator that is present but unused."""
    unused = jax.default_backend() == "cpu" and (
        any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev").glob("accel[0-9]*"))
    )
    return ["an accelerator is present but JAX runs on the CPU: install the extra for it"] if unused else []


@functools.cache  # a process computes with what it has loaded
def versions() -> dict[str, str]:
    """The installed versions of the packages that a number depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def git_revision() -> str | None:
    """The commit of the code, "+dirty" where tracked files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+dirty" if dirty else commit
