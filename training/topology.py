"""Devices that are not there: named slices and nodes that the compilers of TPUs and GPUs compile for.

A name is ACCELERATOR:SHAPE, the shape that of a TPU slice (`v5p:4x4x4`), the GPUs of a node (`h100:8`) or nodes x GPUs
(`b200:2x8`); `*2` at its end makes it two slices that a network joins (`v5e:16x16*2`).
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.experimental import topologies

from training.accelerators import ACCELERATORS, COMPILED, Accelerator, GpuTarget
from training.errors import Absent, BadInput, nearest

EXTRAS = {"tpu": "aot-tpu", "gpu": "aot-gpu"}
WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two processes may compile at once
    "TPU_SKIP_MDS_QUERY": "1",  # nothing asks the cloud which TPU this machine has
    # Of a machine that has a TPU; where they are missing, libtpu tells standard error so. What is compiled does not change.
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: as it was given.
      accelerator: what each of them is.
      devices: in the compiler's order; none of them can hold an array.
    """

    name: str
    accelerator: Accelerator
    devices: Sequence[Any]


def resolve(name: str) -> Topology:
    """The devices of a topology by name.

    Args:
      name: ACCELERATOR:SHAPE, as above.

    Raises:
      BadInput: there is no such accelerator, or no such shape of it.
      Absent: its compiler is not installed.

    Example:
      >>> len(resolve("v5e:2x2").devices)  # doctest: +SKIP
      4
    """
    chip, _, shape = name.partition(":")
    if chip not in COMPILED:
        raise BadInput(f"--topology: no accelerator {chip!r}{nearest(chip, COMPILED)} (known: {', '.join(COMPILED)})")
    if not re.fullmatch(r"\d+(x\d+){0,2}(\*\d+)?", shape):
        raise BadInput(
            f"--topology: {name!r} is no ACCELERATOR:SHAPE, as in v5p:4x4x4, h100:8, b200:2x8 or v5e:16x16*2"
        )
    accelerator, (sides, _, slices) = ACCELERATORS[chip], shape.partition("*")
    for variable, value in WITHOUT_TPU.items():
        os.environ.setdefault(variable, value)
    try:
        if isinstance(accelerator.compiler, GpuTarget):
            found = _gpus(accelerator.compiler, sides, int(slices or 1))
        else:
            more = {"num_slices": int(slices)} if slices else {}
            found = topologies.get_topology_desc(f"{accelerator.compiler}:{sides}", "tpu", **more)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if accelerator.platform == "tpu" and not _installed("libtpu"):
            raise Absent(_missing(accelerator.platform)) from error
        if accelerator.platform == "gpu" and "cuda" in str(error).lower() and not _installed("jax_plugins"):
            raise Absent(_missing(accelerator.platform)) from error
        raise BadInput(f"--topology: {name}: {str(error).splitlines()[0]}") from error
    return Topology(name, accelerator, found.devices)


def _missing(platform: str) -> str:
    return (
        f"--topology: the compiler for {platform.upper()}s is not installed: pip install 'isoflop[{EXTRAS[platform]}]'"
    )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _gpus(target: GpuTarget, sides: str, slices: int) -> Any:
    nodes, _, gpus = sides.rpartition("x")
    if "x" in nodes:
        raise ValueError(f"GPUs are GPUS or NODESxGPUS, got {sides}")
    shape = f"{slices}x{nodes or 1}x{gpus}"
    return topologies.get_topology_desc("", "cuda", topology=shape, target_config=_target_config(target))


def _target_config(target: GpuTarget) -> str:
    """A `GpuTargetConfigProto` as text; limits that all CUDA devices share stand here."""
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": target.shared,
        "shared_memory_per_block_optin": target.shared_block,
        "core_count": target.cores,
        "fpus_per_core": target.units,
        "clock_rate_ghz": target.clock,
        "memory_bandwidth": target.bandwidth,
        "l2_cache_size": target.cache,
        "device_memory_size": target.memory,
    }
    lines = [f"{key}: {value}" for key, value in info.items()]
    capability = f"cuda_compute_capability {{ major: {target.capability} feature_extension: {target.features} }}"
    return (
        f'gpu_device_info {{ {" ".join(lines)} {capability} }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{target.name}"'
    )
