"""Convolutions, their norms and pools: pure functions of arrays (batch, height, width, channels)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.nets.initial import Leaf
from training.nets.layers import wide

NORMS = ("batch", "group", "none")
EPS = 1e-5
GROUPS = 32  # of channels, or the most that divide them (Wu and He 2018)

Images = Float[Array, "batch height width channels"]


def kernel(size: int, inputs: int, outputs: int) -> Leaf:
    """A square kernel, normal with standard deviation sqrt(2 / fan in) (He et al. 2015)."""
    return Leaf((size, size, inputs, outputs), (None, None, "in", "out"), (2 / (size * size * inputs)) ** 0.5)


def conv(x: Images, kernel: Float[Array, "size size channels outputs"], stride: int = 1) -> Images:
    """Correlation with a kernel over a zero border of half its size, as in Torch: sides are divided by the stride, up."""
    half = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), [(half, half)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(x: Images, size: int, stride: int, border: int = 0) -> Images:
    """The largest value of every window."""
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        [(0, 0), (border, border), (border, border), (0, 0)],
    )


def norm_leaves(kind: str, channels: int, scale: float = 1.0) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Parameters and running statistics of a norm."""
    if kind == "none":
        return {}, {}
    params = {"scale": Leaf((channels,), (None,), offset=scale), "bias": Leaf((channels,), (None,))}
    stats = {"mean": Leaf((channels,), (None,)), "var": Leaf((channels,), (None,), offset=1.0)}
    return params, stats if kind == "batch" else {}


def norm(kind: str, p: Any, stats: Any, x: Images, train: bool, momentum: float) -> tuple[Images, Any]:
    """Batch or group norm, computed in float32, and the running statistics after it.

    Batch norm (Ioffe and Szegedy 2015) uses the mean and variance over the whole global batch in training, which under
    a mesh is a sum over all devices, and moves its running ones towards them by a share 1 - `momentum` (the variance
    with n / (n - 1), as in Torch); otherwise it uses the running ones.
    """
    if kind == "none":
        return x, stats
    full = wide(x)
    if kind == "group":
        channels = x.shape[-1]
        groups = max(count for count in range(1, min(GROUPS, channels) + 1) if channels % count == 0)
        parts = full.reshape(*x.shape[:3], groups, channels // groups)
        mean = jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
        var = jnp.mean(jnp.square(parts - mean), axis=(1, 2, 4), keepdims=True)
        out = ((parts - mean) * jax.lax.rsqrt(var + EPS)).reshape(x.shape)
    else:
        mean, var = stats["mean"], stats["var"]
        if train:
            mean = jnp.mean(full, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(full - mean), axis=(0, 1, 2))
            count = full.size // full.shape[-1]
            found = {"mean": mean, "var": var * (count / max(count - 1, 1))}
            stats = {name: momentum * old + (1 - momentum) * found[name] for name, old in stats.items()}
        out = (full - mean) * jax.lax.rsqrt(var + EPS)
    return (out * wide(p["scale"]) + wide(p["bias"])).astype(x.dtype), stats
