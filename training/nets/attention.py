"""Self-attention behind one function that chooses an implementation and can say which and why."""

import functools
from itertools import pairwise
from typing import Any, NamedTuple

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
    causal: bool = True,
    bias: Float[Array, "1 heads length length"] | None = None,
) -> Float[Array, "batch length heads width"]:
    """softmax(q k / sqrt(width) + bias) v over the keys that a query may see, within its segment.

    Args:
      q: queries; query head h attends with key head h // (heads // kv_heads).
      k: keys.
      v: values.
      segments: tokens attend only to tokens of an equal id; None: all one segment.
      implementation: "blocked", "xla" or "cudnn", the name in a `Choice`.
      causal: whether a query sees the keys at or before it only.
      bias: added to the scores (queries before keys), by the implementation "xla" alone; None: nothing.
    """
    assert bias is None or implementation == "xla"
    if implementation == "blocked":
        return _blocked(q, k, v, segments, causal)
    mask = None if segments is None else (segments[:, None, :, None] == segments[:, None, None, :])
    return jax.nn.dot_product_attention(q, k, v, bias, mask, is_causal=causal, implementation=implementation)  # type: ignore[arg-type]


def attend_memory(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch memory heads width"],
    v: Float[Array, "batch memory heads width"],
    seen: Bool[Array, "batch memory"] | None,
) -> Float[Array, "batch length heads width"]:
    """Attention of a sequence over another, as far as `seen` says; None: all of it."""
    mask = None if seen is None else seen[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def attend_cache(
    q: Float[Array, "batch new heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    visible: Bool[Array, "new length"],
    bias: Float[Array, "1 heads new length"] | None = None,
) -> Float[Array, "batch new heads width"]:
    """Attention of new queries over a cache of keys and values, as far as `visible` says; `bias` is added to scores."""
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=visible[None, None], implementation="xla")


def _blocked(q: Array, k: Array, v: Array, segments: Array | None, causal: bool) -> Array:
    """For CPUs: products over contiguous (length, width) matrices, and rows cut into blocks to skip masked-out keys."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # The queries of one position that share a key head are neighbouring rows: (batch, kv head, length x group, width).
    rows = jnp.swapaxes(q.reshape(batch, length, kv_heads, group * width), 1, 2) * width**-0.5
    rows = rows.reshape(batch, kv_heads, length * group, width)
    out: Array = _rows(group, causal, rows, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), segments)
    out = jnp.swapaxes(out.reshape(batch, kv_heads, length, group * width), 1, 2)
    return out.reshape(batch, length, heads, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rows(group: int, causal: bool, q: Array, k: Array, v: Array, segments: Array | None) -> Array:
    """Attention of scaled queries [b, h, length x group, d] over k and v [b, h, length, d]."""
    return _forward(group, causal, q, k, v, segments)[0]


def _forward(group: int, causal: bool, q: Array, k: Array, v: Array, segments: Array | None) -> tuple[Array, Any]:
    """The attention maps are kept transposed, keys before queries: then no product, here or in the backward pass,
    contracts over a map's leading axis, which XLA does at half the speed on CPU; only the thin factors are turned."""
    outs, maps = [], []
    for start, end in _blocks(k.shape[2], causal):
        scores = _product("bhsd,bhtd->bhst", k[:, :, :end], q[:, :, start * group : end * group])
        if causal or segments is not None:
            scores = jnp.where(_mask(segments, start, end, group, causal), scores, -1e30)
        weights = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
        total = jnp.sum(weights, axis=2, keepdims=True)
        # Normalised after the product with v, where there is less to divide.
        mixed = _through(v[:, :, :end], weights.astype(v.dtype)) / total
        outs.append(jnp.swapaxes(mixed, 2, 3).astype(v.dtype))
        maps.append((weights, jnp.swapaxes(total, 2, 3)))
    out = jnp.concatenate(outs, axis=2)
    return out, (q, k, v, out, maps)


def _backward(group: int, causal: bool, kept: Any, grad: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, out, maps = kept
    length, dtype = k.shape[2], q.dtype
    dq, dk, dv = [], jnp.zeros((), dtype), jnp.zeros((), dtype)
    for (start, end), (weights, total) in zip(_blocks(length, causal), maps, strict=True):
        rows = slice(start * group, end * group)
        g = grad[:, :, rows] / total
        inner = jnp.swapaxes(jnp.sum(g * out[:, :, rows], axis=3, keepdims=True), 2, 3)
        g = g.astype(dtype)
        dscores = (weights * (_product("bhsd,bhtd->bhst", v[:, :, :end], g) - inner)).astype(dtype)
        unseen = ((0, 0), (0, 0), (0, length - end), (0, 0))
        dv += jnp.pad(_product("bhst,bhtd->bhsd", weights.astype(dtype), g), unseen)
        dk += jnp.pad(_product("bhst,bhtd->bhsd", dscores, q[:, :, rows]), unseen)
        dq.append(_turned(_through(k[:, :, :end], dscores)))
    return jnp.concatenate(dq, axis=2).astype(dtype), dk.astype(dtype), dv.astype(dtype), None


_rows.defvjp(_forward, _backward)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


def _through(thin: Array, weights: Array) -> Array:
    """A thin matrix [b, h, s, d] through a map [b, h, s, t], as [b, h, d, t]; whatever turns it back stays outside."""
    return jax.lax.optimization_barrier(_product("bhds,bhst->bhdt", _turned(thin), weights))


def _turned(x: Array) -> Array:
    """The transpose of a thin matrix, really laid out so: XLA would fold it into the product, which is slower."""
    return jax.lax.optimization_barrier(jnp.swapaxes(x, -1, -2))


def _blocks(length: int, causal: bool) -> list[tuple[int, int]]:
    """Up to four blocks of at least 64 positions: of the masked-out half of the work they skip up to three quarters.
    Where nothing is masked out, one."""
    count = min(max(length // 64, 1), 4) if causal else 1
    return list(pairwise(length * i // count for i in range(count + 1)))


def _mask(segments: Array | None, start: int, end: int, group: int, causal: bool) -> Array:
    """Which keys (axis -2) the queries of positions `start` to `end` (axis -1) may see."""
    position = start + jnp.arange((end - start) * group) // group
    before = jnp.arange(end)[:, None] <= position if causal else True
    if segments is None:
        return jnp.asarray(before)
    own = jnp.repeat(segments[:, start:end], group, axis=1)
    return before & (segments[:, None, :end, None] == own[:, None, None, :])
