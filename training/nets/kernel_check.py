"""Kernels of attention are compared with its definition, on a device that is there, before a run trusts them.

A kernel is compiled for one kind of device by other people's code, and what it gets wrong no loss would show at once. A
process compares each kernel that its programs use once: in the values and gradients of two sequences of 256 tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.errors import RunFailed
from training.nets import attention
from training.nets.attention import PLATFORMS, Kernel
from training.nets.primitives import upcast_to_f32

LENGTH, KEY_HEADS, BATCH = 256, 2, 2
TOLERANCE = (
    0.05  # of the largest value: bfloat16 rounds by 0.004, and a key that is seen or not changes the first rows by more
)
NAMES = ("values", "gradients of the queries", "gradients of the keys", "gradients of the values")
_checked: set[Kernel] = set()


def check_used(attend: Callable[..., jax.Array] = attention.attend, platform: str | None = None) -> None:
    """Check what this process has traced and not checked yet, as far as its devices can run it.

    Args:
      attend: as `training.nets.attention.attend`.
      platform: of the devices; None: of this process's.
    Raises:
      RunFailed: a kernel fails or is wrong; the key that avoids it is named.
    """
    platform = jax.default_backend() if platform is None else platform
    for kernel in sorted(attention.kernels_used - _checked):
        if PLATFORMS[kernel.name] == platform:
            check(kernel, attend)
            _checked.add(kernel)


def check(kernel: Kernel, attend: Callable[..., jax.Array] = attention.attend) -> None:
    """Raise RunFailed where a kernel fails, or is off by more than `TOLERANCE`."""
    device = jax.local_devices()[0].device_kind
    named = f"attention: {kernel.name} with heads of {kernel.head_width} features in {kernel.dtype} on {device}"
    try:
        found = deviations(kernel, attend)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunFailed(f"{named} fails ({reason}): model.attention=xla") from error
    name = max(found, key=lambda each: np.nan_to_num(found[each], nan=np.inf))
    if not found[name] <= TOLERANCE:
        raise RunFailed(f"{named} is off by {found[name]:.0%} in its {name}: model.attention=xla")


def deviations(kernel: Kernel, attend: Callable[..., jax.Array] = attention.attend) -> dict[str, float]:
    """The largest differences between a kernel and the definition, each over the largest value, by what they are of."""
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, kernel.head_width) for heads in (kernel.group * KEY_HEADS, KEY_HEADS, KEY_HEADS)]
    inputs = [jnp.asarray(rng.normal(size=shape), kernel.dtype) for shape in shapes]
    weight = jnp.asarray(rng.normal(size=shapes[0]), jnp.float32)
    segments = np.sort(rng.integers(0, 3, (BATCH, LENGTH)), axis=1).astype(np.int32) if kernel.segmented else None

    def run(attend: Callable[..., jax.Array], name: str, arrays: list[jax.Array]) -> list[np.ndarray]:
        def total(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = upcast_to_f32(attend(*arrays, segments, name, kernel.causal, window=kernel.window))
            return jnp.sum(weight * out), out

        step: Any = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
        (_, out), grads = step(*arrays)
        return [np.asarray(x, np.float32) for x in (out, *grads)]

    found = run(attend, kernel.name, inputs)
    with jax.default_matmul_precision("highest"):
        expected = run(attention.attend, "xla", [upcast_to_f32(x) for x in inputs])
    return {
        name: float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
        for name, ours, theirs in zip(NAMES, found, expected, strict=True)
    }
