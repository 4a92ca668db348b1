"""Fake quantization: values as a format of few bits would hold them, in float32, with gradients that pass through.

A format is `int2` to `int16`, symmetric and without its lowest number, or a float of 8 bits. Values are divided by a
scale, so that the largest of each group is the largest number of the format, rounded, and multiplied again. Gradients pass
as if nothing had been rounded (Bengio et al. 2013, arXiv 1308.3432). The bits of an integer are an array: changing them
never recompiles.
"""

import re
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput

FLOATS = {"fp8": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
MOST = 16  # bits of an integer


@no_type_check
class Rounding(flax.struct.PyTreeNode):
    """How values are rounded: `bits` of an integer, an array, in a stack one a layer; or the `dtype` of a float."""

    bits: Float[Array, "..."] | float
    dtype: str | None = flax.struct.field(pytree_node=False, default=None)


def parsed(name: str, key: str) -> Rounding:
    """The format of a name, as `int4` or `fp8`.

    Args:
      name: of the format.
      key: of the config, for the message.
    Raises:
      BadInput: there is no such format.
    """
    if name in FLOATS:
        return Rounding(8.0, FLOATS[name])
    found = re.fullmatch(r"int(\d{1,2})", name)
    if not found or not 2 <= int(found[1]) <= MOST:
        raise BadInput(f"{key}: no format {name!r} (known: int2 to int{MOST}, {', '.join(FLOATS)})")
    return Rounding(float(found[1]))


def rounded(x: Float[Array, "*shape"], rounding: Rounding, axis: int | tuple[int, ...]) -> Float[Array, "*shape"]:
    """The values that the format can hold nearest to x, with one scale for all that lies along `axis`.

    The bits may be of any shape that broadcasts against x with `axis` kept.
    """
    values = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(values), axis=axis, keepdims=True)
    top = jnp.exp2(rounding.bits - 1.0) - 1.0 if rounding.dtype is None else float(jnp.finfo(rounding.dtype).max)
    scale = jnp.where(largest > 0, largest, 1.0) / top
    shares = values / scale
    if rounding.dtype is None:
        near = jnp.clip(jnp.round(shares), -top, top)
    else:
        near = shares.astype(rounding.dtype).astype(jnp.float32)
    held = (near * scale).astype(x.dtype)
    return x + jax.lax.stop_gradient(held - x)
