"""What both the portable layers and those for CPUs are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def upcast_to_f32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x in float32, or in float64 where it is that already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def correlate(x: Array, kernel: Array, stride: int, border: int) -> Array:
    """XLA's convolution over a zero border."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(border, border)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
