"""Softmax attention over all tokens before, or over the last few of them (sliding window; Beltagy et al. 2020).

Parameters (d width, h head width): {query, out}/{kernel, bias} (d, heads h) and back, {key, value}/{kernel, bias}
(d, kv_heads h), and with `qk_norm` {query_norm, key_norm}/scale (h).
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets.attention import attend, attend_cache
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.layers import from_heads, projection, rms_norm, rotate, to_heads
from training.nets.mixers.mixer import Context, Logits, MixerCost, SequenceMixer, Stream
from training.types import Params

WINDOW = {"window": 128}
Heads = Float[Array, "batch length heads head_width"]
KVHeads = Float[Array, "batch length kv_heads head_width"]
CachedHeads = Float[Array, "batch cached kv_heads head_width"]
Cache = tuple[CachedHeads, CachedHeads]


def parameters(config: BlockConfig) -> Leaves:
    """The leaves of one block."""
    d, q, kv = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
    tree = {
        "query": projection(d, q, ("embed", "heads"), config.bias),
        "key": projection(d, kv, ("embed", "kv"), config.bias),
        "value": projection(d, kv, ("embed", "kv"), config.bias),
        "out": projection(q, d, ("heads", "embed"), config.bias, config.residual_scale),
    }
    if config.qk_norm:
        scale = Leaf((config.head_width,), (None,), offset=1.0)
        tree |= {"query_norm": {"scale": scale}, "key_norm": {"scale": scale}}
    return tree


def project(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Heads, KVHeads, KVHeads]:
    """Queries, keys and values by head, normalised and rotated as the config and the context say."""
    q, k, v = to_heads([p[name] for name in ("query", "key", "value")], x, config.head_width)
    if config.qk_norm:
        q = rms_norm(q, p["query_norm"]["scale"], config.norm_eps)
        k = rms_norm(k, p["key_norm"]["scale"], config.norm_eps)
    if config.query_multiplier != 1.0:
        q = q * config.query_multiplier
    q, k, v = (checkpoint_name(part, "qkv") for part in (rotate_at(q, context), rotate_at(k, context), v))
    return q, k, v


def rotate_at(
    x: Float[Array, "batch length heads width"], context: Context
) -> Float[Array, "batch length heads width"]:
    """Features turned by the rotary positions of the context, where it has some for their width."""
    width = x.shape[-1]
    return rotate(x, *context.angles[width]) if width in context.angles else x


def maps(config: BlockConfig, p: Params, x: Stream, context: Context) -> Float[Array, "batch heads length length"]:
    """The softmax of full attention both ways: how much each token (last axis but one) takes from each."""
    q, k, _ = project(config, p, x, context)
    return jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * config.head_width**-0.5)


def _apply(local: bool, config: BlockConfig, p: Params, x: Stream, context: Context) -> Stream:
    q, k, v = project(config, p, x, context)
    window = _window(local, config)
    y = attend(q, k, v, context.segments, context.attention, context.causal, context.bias, window)
    return from_heads(p["out"], y)


def _extend(
    local: bool, config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache
) -> tuple[Stream, Cache]:
    q, *new = project(config, p, x, context)
    keys, values = (append(old, rows, context) for old, rows in zip(cache, new, strict=True))
    visible = visible_keys(context, keys.shape[1], _window(local, config))
    y = attend_cache(q, keys, values, visible, context.bias)
    return from_heads(p["out"], y), (keys, values)


def append(old: Array, new: Array, context: Context) -> Array:
    """A cache [batch, length, ...] with the rows of new tokens behind those that it has."""
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), context.cached, axis=1)


def visible_keys(context: Context, length: int, window: int = 0) -> Array:
    """Which of the `length` keys in a cache each new token attends to [new, length]."""
    index, position = jnp.arange(length), context.positions[:, None]
    span = jnp.minimum(context.span, window) if window else context.span
    return (index <= position) & (index > position - span)


def _empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> Cache:
    rows = jnp.zeros((batch, length, config.kv_heads, config.head_width), dtype)
    return rows, rows


def _cost(local: bool, config: BlockConfig, length: int) -> MixerCost:
    d, kv, out = config.width, config.kv_heads * config.head_width, 2.0 * length * config.width**2
    pairs = causal_pairs(length, _window(local, config))
    return MixerCost(2 * out + 4.0 * length * d * kv, out, 4.0 * length * length * d, 4.0 * pairs * d)


def causal_pairs(length: int, window: int = 0) -> int:
    """Pairs of a query and a key that it sees, of the last `window` or of all."""
    full = min(window or length, length)
    return full * (full + 1) // 2 + (length - full) * full


def _scaled(config: BlockConfig, p: Params, factors: Float[Array, " heads"]) -> Params:
    """Parameters whose logits are so many times as large: queries and keys by the root of it each, or, where query heads
    share a key head, queries by all of it, so that no head's clipping reaches another."""
    if config.kv_heads == config.heads:
        factors = jnp.sqrt(factors)
    wide = jnp.repeat(factors, config.head_width)
    scale = lambda tree: jax.tree.map(lambda leaf: (leaf * wide).astype(leaf.dtype), tree)
    own = ("query", "key") if config.kv_heads == config.heads else ("query",)
    return {**p, **{name: scale(p[name]) for name in own}}


def _window(local: bool, config: BlockConfig) -> int:
    return config.options(WINDOW)["window"] if local else 0


def _check_window(config: BlockConfig) -> None:
    if _window(True, config) < 1:
        raise BadInput(f"model.window: must be at least 1, got {_window(True, config)}")


def _mixer(local: bool) -> SequenceMixer:
    return SequenceMixer(
        parameters=parameters,
        apply=functools.partial(_apply, local),
        extend=functools.partial(_extend, local),
        empty_cache=_empty_cache,
        cost=functools.partial(_cost, local),
        options=WINDOW if local else {},
        rope_width=lambda config: config.head_width,
        check=_check_window if local else lambda config: None,
        splits_length=True,
        logits=Logits(lambda *given: project(*given)[:2], _scaled, functools.partial(_window, local)),
    )


FULL, LOCAL = _mixer(False), _mixer(True)
