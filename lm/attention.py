"""Causal self-attention behind one function that chooses an implementation and can say which and why."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from training.errors import BadInput

IMPLEMENTATIONS = ("auto", "blocked", "xla", "cudnn")


class Choice(NamedTuple):
    """An implementation and the reason for it, for the record."""

    name: str
    reason: str


def choose(requested: str, head_width: int, dtype: str, platform: str | None = None) -> Choice:
    """The implementation that `attend` will use.

    Args:
      requested: one of `IMPLEMENTATIONS`; "auto" chooses by platform, any other name is taken as it is.
      head_width: features of a head.
      dtype: name of the compute dtype.
      platform: "cpu", "gpu" or "tpu"; None: JAX's default backend.

    Raises:
      BadInput: there is no such implementation, or it cannot run this platform, dtype or head width.
    """
    platform = jax.default_backend() if platform is None else platform
    obstacle = _cudnn_obstacle(head_width, dtype, platform)
    if requested not in IMPLEMENTATIONS:
        raise BadInput(f"attention: {requested!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    if requested == "cudnn" and obstacle:
        raise BadInput(f"attention: cudnn cannot run here: {obstacle}")
    if requested != "auto":
        return Choice(requested, "as configured")
    if platform == "cpu":
        return Choice("blocked", "auto on cpu")
    if platform == "gpu":
        return Choice("xla", f"auto on gpu: no cudnn, {obstacle}") if obstacle else Choice("cudnn", "auto on gpu")
    return Choice("xla", f"auto on {platform}")


def _cudnn_obstacle(head_width: int, dtype: str, platform: str) -> str:
    if platform != "gpu":
        return f"the platform is {platform}"
    if dtype not in ("bfloat16", "float16"):
        return f"the compute dtype is {dtype}"
    if head_width % 8 or head_width > 128:
        return f"the head width {head_width} is not a multiple of 8 up to 128"
    return ""


def attend(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    segments: Int[Array, "batch length"] | None,
    implementation: str,
) -> Float[Array, "batch length heads width"]:
    """softmax(q k / sqrt(width)) v over the keys at or before each query, within its segment.

    Args:
      q: queries; query head h attends with key head h // (heads // kv_heads).
      k: keys.
      v: values.
      segments: tokens attend only to tokens of an equal id; None: all one segment.
      implementation: "blocked", "xla" or "cudnn", the name in a `Choice`.
    """
    if implementation == "blocked":
        return _blocked(q, k, v, segments)
    mask = None if segments is None else (segments[:, None, :, None] == segments[:, None, None, :])
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation=implementation)  # type: ignore[arg-type]


def attend_cache(
    q: Float[Array, "batch new heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    visible: Bool[Array, "new length"],
) -> Float[Array, "batch new heads width"]:
    """Attention of new queries over a cache of keys and values, as far as `visible` says."""
    return jax.nn.dot_product_attention(q, k, v, mask=visible[None, None], implementation="xla")


def _blocked(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
    """For CPUs: contiguous batched products, and half of the masked-out work left out by splitting the rows in two."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    # (batch, kv head, group x length, width): the queries that share a key head are rows of one product.
    q = jnp.moveaxis(q.reshape(batch, length, kv_heads, heads // kv_heads, width), 1, 3) * width**-0.5
    k, v = jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2)
    half = (length + 1) // 2
    parts = [
        _rows(q[:, :, :, start:end], k[:, :, :end], v[:, :, :end], _mask(segments, start, end))
        for start, end in ((0, half), (half, length))
        if end > start
    ]
    out = jnp.concatenate(parts, axis=3)
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, width)


def _mask(segments: Array | None, start: int, end: int) -> Array:
    rows, columns = jnp.arange(start, end), jnp.arange(end)
    causal = columns <= rows[:, None]
    if segments is None:
        return causal
    return causal & (segments[:, None, None, start:end, None] == segments[:, None, None, None, :end])


def _rows(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Attention of some rows; the softmax is normalised after the product with v, where there is less to divide."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bkgqd,bksd->bkgqs", q, k, preferred_element_type=accumulate)
    scores = jnp.where(mask, scores, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bkgqs,bksd->bkgqd", weights.astype(v.dtype), v, preferred_element_type=accumulate)
    return (out / total).astype(v.dtype)
