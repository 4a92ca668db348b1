"""What blocks report of themselves beside their outputs: how large activations and attention logits are.

Nothing here has a gradient. A probe is read in every step, or where a traced flag says so: then the others cost nothing,
except in runs that are stepped together, where XLA computes both branches.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SQUARE, MAX_LOGIT = "activations/square", "attention/max_logit"
MAXIMA = (MAX_LOGIT,)  # of whose values over micro-batches the largest counts; others are summed

KEYS = 128  # to a chunk: logits of so many keys are in memory at once


def read(flag: Bool[Array, ""] | None, probe: Callable[[], Float[Array, "..."]]) -> Float[Array, "..."]:
    """The value of a probe where the flag is set, or there is none; else zeros."""
    if flag is None:
        return probe()
    shape = jax.eval_shape(probe)
    return jax.lax.cond(flag, probe, lambda: jnp.zeros(shape.shape, shape.dtype))


def mean_square(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean of the squares of activations, in float32, without a gradient."""
    return jnp.mean(jnp.square(jax.lax.stop_gradient(x).astype(jnp.float32)))


def max_logits(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    segments: Int[Array, "batch length"] | None,
    causal: bool,
    window: int = 0,
) -> Float[Array, " heads"]:
    """The largest q k / sqrt(width) of every query head, over all rows, queries and the keys that they may see.

    Args: as of `training.nets.attention.attend`.
    Source: S_max of Kimi Team 2025, "Kimi K2", arXiv 2507.20534, section 2.1; logits that the mask hides count for nothing.
    """
    batch, length, heads, width = q.shape
    kv_heads, count = k.shape[2], math.ceil(length / KEYS)
    q, k = jax.lax.stop_gradient(q), jax.lax.stop_gradient(k)
    size = KEYS if count > 1 else length
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, width)
    k = jnp.pad(k, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
    of_keys = None if segments is None else jnp.pad(segments, ((0, 0), (0, count * size - length)))
    index = jnp.arange(length)[:, None]

    def chunk(start: Int[Array, ""] | int) -> Float[Array, " heads"]:
        keys = jax.lax.dynamic_slice_in_dim(k, start, size, axis=1)
        scores = jnp.einsum("bqkgd,bskd->bkgqs", q, keys, preferred_element_type=jnp.float32)
        at = (start + jnp.arange(size))[None, :]
        seen = at < length
        if causal:
            seen = seen & (at <= index) & (at > index - (window or length))
        if segments is not None and of_keys is not None:
            own = jax.lax.dynamic_slice_in_dim(of_keys, start, size, axis=1)
            seen = (seen & (segments[:, :, None] == own[:, None, :]))[:, None, None]
        return jnp.max(jnp.where(seen, scores, -jnp.inf), axis=(0, 3, 4)).reshape(heads)

    if count == 1:
        return chunk(0) * width**-0.5
    return jnp.max(jax.lax.map(chunk, size * jnp.arange(count)), axis=0) * width**-0.5
