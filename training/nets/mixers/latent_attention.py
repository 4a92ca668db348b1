"""Multi-head latent attention: keys and values of all heads are made of one narrow latent, which alone is cached.

Parameters (d width, H heads of h features, r kv_latent_width, e rope_width; a head's queries and keys have h features of
content and e that rotary positions rotate, and all heads share these e features of the keys):

    query/kernel        (d, H (h + e)), or {query_down (d, q), query_norm (q), query_up (q, H (h + e))} of a query latent
    kv_down/kernel      (d, r + e)     the latent, and the rotated features of the keys
    kv_norm/scale       (r)
    kv_up/kernel        (r, H 2 h)     keys, then values, of each head
    out/kernel          (H h, d)

The cache holds r + e numbers a token, in place of 2 H h. New tokens attend over the latents themselves: a head's key
projection is applied to its queries instead, and its value projection to the mixed latents.

Source: DeepSeek-AI 2024, arXiv 2405.04434, section 2.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets.attention import attend, attend_latents
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.layers import linear, projection, rms_norm
from training.nets.mixers.attention import append, causal_pairs, rotate_at, visible_keys
from training.nets.mixers.mixer import Context, Logits, MixerCost, SequenceMixer, Stream
from training.types import Params

# 0 stands for four head widths (as in DeepSeek-V2), for queries without a latent, and for half a head width.
OPTIONS: dict[str, int] = {"kv_latent_width": 0, "query_latent_width": 0, "rope_width": 0}
Heads = Float[Array, "batch length heads _"]
Latent = Float[Array, "batch length _"]
CACHED = ("latent", "rotated")
Cache = dict[str, Array]  # "latent" [batch, length, r] and "rotated" [batch, length, e]


def _widths(config: BlockConfig) -> tuple[int, int, int]:
    """Features of the key-value latent, of the query latent and of the rotated part."""
    options = config.options(OPTIONS)
    kv = options["kv_latent_width"] or 4 * config.head_width
    return kv, options["query_latent_width"], options["rope_width"] or max(2, config.head_width // 4 * 2)


def _parameters(config: BlockConfig) -> Leaves:
    (kv, q, rope), d, h = _widths(config), config.width, config.heads * config.head_width
    queries = config.heads * (config.head_width + rope)
    tree: Leaves = {"query": projection(d, queries, ("embed", "heads"), config.bias)}
    if q:
        down, up = projection(d, q, ("embed", None), config.bias), projection(q, queries, (None, "heads"), config.bias)
        tree = {"query_down": down, "query_norm": {"scale": Leaf((q,), (None,), offset=1.0)}, "query_up": up}
    return tree | {
        "kv_down": projection(d, kv + rope, ("embed", None), config.bias),
        "kv_norm": {"scale": Leaf((kv,), (None,), offset=1.0)},
        "kv_up": projection(kv, 2 * h, (None, "heads")),
        "out": projection(h, d, ("heads", "embed"), config.bias, config.residual_scale),
    }


def _queries(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Heads, Heads]:
    """The content of every head's queries, and their rotated features."""
    if "query_down" in p:
        latent = rms_norm(linear(p["query_down"], x), p["query_norm"]["scale"], config.norm_eps)
        q = linear(p["query_up"], latent)
    else:
        q = linear(p["query"], x)
    content, rotated = jnp.split(q.reshape(*x.shape[:2], config.heads, -1), [config.head_width], axis=-1)
    return content, rotate_at(rotated, context)


def _latents(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Latent, Latent]:
    """The latent of keys and values, normalised, and the rotated features of the keys."""
    latent, rotated = jnp.split(linear(p["kv_down"], x), [_widths(config)[0]], axis=-1)
    latent = rms_norm(latent, p["kv_norm"]["scale"], config.norm_eps)
    return latent, rotate_at(rotated[:, :, None], context)[:, :, 0]


def _project(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Heads, Heads, Heads]:
    """Queries, keys and values of every head, the rotated features behind the content of the first two."""
    q = jnp.concatenate(_queries(config, p, x, context), axis=-1)
    latent, rotated = _latents(config, p, x, context)
    k, v = jnp.split(linear(p["kv_up"], latent).reshape(*x.shape[:2], config.heads, -1), 2, axis=-1)
    shared = jnp.broadcast_to(rotated[:, :, None], (*k.shape[:3], rotated.shape[-1]))
    return q, jnp.concatenate([k, shared], axis=-1), v


def _scaled(config: BlockConfig, p: Params, factors: Float[Array, " heads"]) -> Params:
    """Parameters whose logits are so many times as large: the content of queries and keys by the root of it each, the
    rotated features of the queries by all of it, since all heads share those of the keys."""
    h, half = config.head_width, jnp.sqrt(factors)
    queries = jnp.concatenate([_wide(half, h), _wide(factors, _widths(config)[2])], axis=1)
    keys = jnp.concatenate([_wide(half, h), _wide(jnp.ones_like(half), h)], axis=1)
    name = "query_up" if "query_up" in p else "query"

    def scale(tree: Params, wide: Array) -> Params:
        return jax.tree.map(lambda leaf: (leaf * wide.reshape(-1)).astype(leaf.dtype), tree)

    return {**p, name: scale(p[name], queries), "kv_up": scale(p["kv_up"], keys)}


def _wide(factors: Float[Array, " heads"], width: int) -> Float[Array, "heads width"]:
    return jnp.repeat(factors[:, None], width, axis=1)


def _apply(config: BlockConfig, p: Params, x: Stream, context: Context) -> Stream:
    q, k, v = _project(config, p, x, context)
    y = attend(q, k, v, context.segments, context.attention, context.causal, context.bias)
    return linear(p["out"], y.reshape(*x.shape[:2], -1))


def _extend(config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache) -> tuple[Stream, Cache]:
    (content, q), new = _queries(config, p, x, context), _latents(config, p, x, context)
    latent, rotated = (append(cache[name], rows, context) for name, rows in zip(CACHED, new, strict=True))
    kernel = p["kv_up"]["kernel"].astype(x.dtype).reshape(latent.shape[-1], config.heads, 2, config.head_width)
    y = attend_latents(content, q, latent, rotated, kernel, visible_keys(context, latent.shape[1]))
    return linear(p["out"], y.reshape(*x.shape[:2], -1)), {"latent": latent, "rotated": rotated}


def _empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> Cache:
    kv, _, rope = _widths(config)
    return {"latent": jnp.zeros((batch, length, kv), dtype), "rotated": jnp.zeros((batch, length, rope), dtype)}


def _cost(config: BlockConfig, length: int) -> MixerCost:
    (kv, q, rope), d, h = _widths(config), config.width, config.heads * config.head_width
    keys = h + config.heads * rope
    queries = q * (d + keys) if q else d * keys
    pair = 2.0 * (keys + h)
    projections = 2.0 * length * (queries + d * (kv + rope) + kv * 2 * h + h * d)
    return MixerCost(projections, 2.0 * length * h * d, length**2 * pair, causal_pairs(length) * pair)


def _check(config: BlockConfig) -> None:
    if config.qk_norm:
        raise BadInput("model.qk_norm: latent attention normalises its latents instead")
    if min(config.options(OPTIONS).values()) < 0 or _widths(config)[2] % 2:
        raise BadInput(
            "model.rope_width: widths of latent attention are positive, and that of rotary positions is even"
        )


MIXER = SequenceMixer(
    _parameters,
    _apply,
    _extend,
    _empty_cache,
    _cost,
    OPTIONS,
    rope_width=lambda config: _widths(config)[2],
    check=_check,
    splits_length=True,
    logits=Logits(lambda *given: _project(*given)[:2], _scaled),
)
