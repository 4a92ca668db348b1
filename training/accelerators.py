"""Accelerators by name: peak FLOP/s, memory and clock of one device, each figure with its source."""

from collections.abc import Mapping
from typing import NamedTuple


class Accelerator(NamedTuple):
    """One kind of device.

    Attributes:
      platform: "tpu" or "gpu".
      kinds: `Device.device_kind` as JAX reports it, lower case.
      peak: dense FLOP/s of one device without sparsity, by compute dtype.
      source: of the peak.
      memory: bytes of one device that a program may use; None: not looked up.
      clock: cycles a second of the matrix units, which turns the TPU compiler's estimate of cycles into seconds; None: the
        compiler estimates none.
      compiler: what the compiler calls it in the name of a topology (TPU), or its `GpuTarget`; None: not compiled for.
    """

    platform: str
    kinds: tuple[str, ...]
    peak: Mapping[str, float]
    source: str
    memory: float | None = None
    clock: float | None = None
    compiler: "str | GpuTarget | None" = None


class GpuTarget(NamedTuple):
    """What XLA's compiler asks of a GPU that is not there (`GpuTargetConfigProto`).

    Figures: `xla/backends/gpu/target_config/specs` of OpenXLA, as a device of that name reports them.

    Attributes:
      name: of the device.
      capability: CUDA compute capability.
      features: "ACCELERATED_FEATURES" where kernels for this architecture alone may be used, else "NONE".
      cores: streaming multiprocessors.
      units: float32 units of each.
      clock: GHz.
      bandwidth: of the memory, bytes a second.
      cache: of level two, bytes.
      memory: bytes.
      shared: shared memory of a core, bytes.
      shared_block: of it, what one block may ask for.
    """

    name: str
    capability: int
    features: str
    cores: int
    units: int
    clock: float
    bandwidth: int
    cache: int
    memory: int
    shared: int
    shared_block: int


_GIB = 2.0**30
_LIMIT = "HBM limit of one device: the compiler's own refusal (libtpu 0.0.42)"
_HOPPER = {"bfloat16": 989.4e12, "float16": 989.4e12, "tensorfloat32": 494.7e12, "float32": 66.9e12}
_AMPERE = {"bfloat16": 312e12, "float16": 312e12, "tensorfloat32": 156e12, "float32": 19.5e12}
_BLACKWELL = {"bfloat16": 2250e12, "float16": 2250e12, "tensorfloat32": 1125e12}
_SPARSE = "(SXM; halves of the figures with sparsity)"

ACCELERATORS: dict[str, Accelerator] = {
    "v4": Accelerator("tpu", ("tpu v4",), {"bfloat16": 275e12}, "Google Cloud TPU documentation, TPU v4"),
    "v5e": Accelerator(
        "tpu",
        ("tpu v5 lite", "tpu v5e"),
        {"bfloat16": 197e12},
        f"Google Cloud TPU documentation, TPU v5e; {_LIMIT}",
        15.75 * _GIB,
        1.5e9,
        "v5e",
    ),
    "v5p": Accelerator(
        "tpu",
        ("tpu v5", "tpu v5p"),
        {"bfloat16": 459e12},
        f"Google Cloud TPU documentation, TPU v5p; {_LIMIT}",
        95.74 * _GIB,
        1.75e9,
        "v5p",
    ),
    "v6e": Accelerator(
        "tpu",
        ("tpu v6 lite", "tpu v6e"),
        {"bfloat16": 918e12},
        f"Google Cloud TPU documentation, TPU v6e; {_LIMIT}",
        31.25 * _GIB,
        1.75e9,
        "v6e",
    ),
    "a100": Accelerator(
        "gpu",
        ("nvidia a100-sxm4-80gb", "nvidia a100 80gb pcie"),
        _AMPERE,
        "NVIDIA A100 Tensor Core GPU datasheet",
        85_100_068_864,
        None,
        GpuTarget(
            "NVIDIA A100-SXM4-80GB",
            8,
            "NONE",
            108,
            64,
            1.41,
            2_039_040_000_000,
            41_943_040,
            85_100_068_864,
            167_936,
            166_912,
        ),
    ),
    "a100-40gb": Accelerator(
        "gpu",
        ("nvidia a100-sxm4-40gb", "nvidia a100-pcie-40gb"),
        _AMPERE,
        "NVIDIA A100 Tensor Core GPU datasheet",
    ),
    "h100": Accelerator(
        "gpu",
        ("nvidia h100 80gb hbm3",),
        _HOPPER,
        f"NVIDIA H100 Tensor Core GPU datasheet {_SPARSE}",
        84_942_979_072,
        None,
        GpuTarget(
            "NVIDIA H100 80GB HBM3",
            9,
            "ACCELERATED_FEATURES",
            132,
            128,
            1.98,
            3_352_320_000_000,
            52_428_800,
            84_942_979_072,
            233_472,
            232_448,
        ),
    ),
    "h200": Accelerator(
        "gpu",
        ("nvidia h200",),
        _HOPPER,
        f"NVIDIA H200 Tensor Core GPU datasheet {_SPARSE}",
        151_397_597_184,
        None,
        GpuTarget(
            "NVIDIA H200",
            9,
            "ACCELERATED_FEATURES",
            132,
            128,
            1.98,
            4_800_000_000_000,
            52_428_800,
            151_397_597_184,
            233_472,
            232_448,
        ),
    ),
    "b200": Accelerator(
        "gpu",
        ("nvidia b200",),
        _BLACKWELL,
        "NVIDIA DGX B200 datasheet (eighths, and halves of the figures with sparsity)",
        191_514_411_008,
        None,
        GpuTarget(
            "NVIDIA B200",
            10,
            "ACCELERATED_FEATURES",
            148,
            128,
            1.965,
            7_672_320_000_000,
            132_644_864,
            191_514_411_008,
            233_472,
            232_448,
        ),
    ),
}

COMPILED = tuple(name for name, chip in ACCELERATORS.items() if chip.compiler is not None)


def by_kind(device_kind: str) -> Accelerator | None:
    """The accelerator that reports itself as `device_kind` (`jax.Device.device_kind`); None: not in the table."""
    return next((chip for chip in ACCELERATORS.values() if device_kind.lower() in chip.kinds), None)
