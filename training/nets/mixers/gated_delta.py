"""Gated DeltaNet: a linear recurrence that replaces what its state holds under a key, and forgets by a gate.

Of queries q, keys k (of length 1) and values v of a head, a decay a and a rate b, both in (0, 1):

    state = a (I - b k k') state + b k v',    y = state' q     (state: [heads, head width, head width])

A chunk is computed as products of matrices: with u = b (v - a state' k), state = a state + k u' is a decaying sum, and the
u of a chunk solve a triangular system, whose inverse is built of those of its blocks.

Parameters (d width, H heads of h features): {query, key, value, gate}/kernel (d, H h), conv/{query, key, value}
(conv_width, H h), {decay, rate}/kernel (d, H), {dt_bias, a} (H) as in `training.nets.mixers.mamba2`, norm/scale (h),
out/kernel (H h, d).

Source: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, sections 3.1 to 3.4.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves, Params
from training.nets.layers import linear, linears, projection, rms_norm
from training.nets.mixers.mamba2 import rates
from training.nets.mixers.mixer import Context, MixerCost, SequenceMixer, Stream
from training.nets.mixers.recurrent import causal_conv, chunked, decays, last_taps, starts
from training.nets.primitives import upcast_to_f32

OPTIONS: dict[str, Any] = {"conv_width": 4, "chunk_size": 64}
Heads = Float[Array, "batch length heads h"]
State = Float[Array, "batch heads h h"]
Cache = dict[str, Array]  # "state", and "query", "key", "value": the last tokens before convolution
NAMES = ("query", "key", "value")


def _parameters(config: BlockConfig) -> Leaves:
    d, inner, taps = config.width, config.heads * config.head_width, config.options(OPTIONS)["conv_width"]
    conv, vector = Leaf((taps, inner), ("gates", "heads"), (3 * taps) ** -0.5), Leaf((config.heads,), (None,))
    return {
        **{name: projection(d, inner, ("embed", "heads")) for name in (*NAMES, "gate")},
        **{name: projection(d, config.heads, ("embed", None)) for name in ("decay", "rate")},
        "conv": dict.fromkeys(NAMES, conv),
        "dt_bias": vector,
        "a": vector,
        "norm": {"scale": Leaf((config.head_width,), (None,), offset=1.0)},
        "out": projection(inner, d, ("heads", "embed"), scale=config.residual_scale),
    }


def delta_rule(
    q: Heads, k: Heads, v: Heads, log_decay: Array, rate: Array, begins: Array | None, state: State, chunk: int
) -> tuple[Heads, State]:
    """The recurrence above over a sequence, in float32.

    Args:
      q, k, v: queries, keys and values.
      log_decay: log a [batch, length, heads].
      rate: b [batch, length, heads].
      begins: where the state is set to zero before a token; None: nowhere.
      state: before the first token.
      chunk: tokens that are computed together, a power of two.
    Returns:
      y, and the state after the last token.
    """
    length, size = q.shape[1], _chunk(chunk, q.shape[1])
    q, k, v, rate, log_decay = chunked([upcast_to_f32(part) for part in (q, k, v, rate[..., None], log_decay)], size)
    decay = decays(log_decay, None if begins is None else chunked([begins.astype(jnp.int32)], size)[0])
    strictly = jnp.tril(jnp.ones((size, size), bool), -1)
    by_head = jnp.einsum("bcihd,bcjhd->bchij", rate * k, k) * decay.within
    inverse = unit_lower_inverse(jnp.where(strictly, by_head, 0.0))
    new = jnp.einsum("bchij,bcjhd->bcihd", inverse, rate * v)
    old = jnp.einsum("bchij,bcjhd->bcihd", inverse, rate * k * decay.into[..., None])
    scores = jnp.einsum("bcihd,bcjhd->bchij", q, k) * decay.within
    parts = (new, old, scores, q * decay.into[..., None], k * decay.out[..., None], decay.whole)

    def one(state: State, chunk: tuple[Array, ...]) -> tuple[State, Array]:
        new, old, scores, q, k, whole = chunk
        u = new - jnp.einsum("bihd,bhde->bihe", old, state)
        y = jnp.einsum("bhij,bjhe->bihe", scores, u) + jnp.einsum("bihd,bhde->bihe", q, state)
        return whole[..., None, None] * state + jnp.einsum("bjhd,bjhe->bhde", k, u), y

    state, y = jax.lax.scan(one, state, tuple(jnp.moveaxis(part, 1, 0) for part in parts))
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length], state


def unit_lower_inverse(lower: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """The inverse of I + `lower`, which is strictly lower triangular; n is a power of two.

    The inverse of [[P, 0], [R, Q]] is [[P^-1, 0], [-Q^-1 R P^-1, Q^-1]]: diagonal blocks double until one is left.
    """
    n = lower.shape[-1]
    inverses = jnp.ones((*lower.shape[:-1], 1, 1), lower.dtype)
    for size in (2**i for i in range(n.bit_length() - 1)):
        blocks = lower.reshape(*lower.shape[:-2], n // (2 * size), 2, size, n // (2 * size), 2, size)
        corner = -jnp.moveaxis(jnp.diagonal(blocks[..., 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        first, second = (inverses.reshape(*corner.shape[:-2], 2, size, size)[..., i, :, :] for i in range(2))
        corner = second @ corner @ first if size > 1 else corner
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverses = jnp.concatenate([upper, jnp.concatenate([corner, second], axis=-1)], axis=-2)
    return inverses[..., 0, :, :]


def _chunk(chunk: int, length: int) -> int:
    """The chunk, or the least power of two that holds the whole length."""
    return min(chunk, 1 << (length - 1).bit_length())


def _run(config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache | None) -> tuple[Stream, Cache]:
    heads, before = (*x.shape[:2], config.heads, config.head_width), {} if cache is None else cache
    gate, decay, rate, *parts = linears([p[name] for name in ("gate", "decay", "rate", *NAMES)], x)
    mixed = [causal_conv(part, p["conv"][k], context, before.get(k)) for k, part in zip(NAMES, parts, strict=True)]
    q, k, v = (upcast_to_f32(part).reshape(heads) for part in mixed)
    q, k = (part * jax.lax.rsqrt(jnp.sum(jnp.square(part), axis=-1, keepdims=True) + 1e-6) for part in (q, k))
    state = jnp.zeros((x.shape[0], config.heads, heads[3], heads[3]), jnp.float32) if cache is None else cache["state"]
    chunk = config.options(OPTIONS)["chunk_size"]
    rate, (_, log_decay) = jax.nn.sigmoid(upcast_to_f32(rate)), rates(p, decay)
    y, state = delta_rule(q * heads[3] ** -0.5, k, v, log_decay, rate, starts(context), state, chunk)
    y = rms_norm(y.astype(x.dtype), p["norm"]["scale"], config.norm_eps).reshape(*x.shape[:2], -1)
    after = {k: last_taps(before[k], part) for k, part in zip(NAMES, parts, strict=True)} if before else {}
    return linear(p["out"], y * jax.nn.silu(gate)), after | {"state": state}


def _empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> Cache:
    h, inner, taps = config.head_width, config.heads * config.head_width, config.options(OPTIONS)["conv_width"]
    tokens = {name: jnp.zeros((batch, taps - 1, inner), dtype) for name in NAMES}
    return tokens | {"state": jnp.zeros((batch, config.heads, h, h), jnp.float32)}


def _cost(config: BlockConfig, length: int) -> MixerCost:
    d, h, inner = config.width, config.head_width, config.heads * config.head_width
    size = _chunk(config.options(OPTIONS)["chunk_size"], length)
    chunks = -(-length // size)
    inverse = config.heads * 4.0 * (size // 2) * sum(4**i for i in range(1, size.bit_length() - 1))
    pairs, others = chunks * 10.0 * size * inner, chunks * (6.0 * size * inner * h + inverse)
    projections = 2.0 * length * d * (5 * inner + 2 * config.heads)
    return MixerCost(projections, 2.0 * length * inner * d, pairs * size + others, pairs * (size + 1) / 2 + others)


def _check(config: BlockConfig) -> None:
    options = config.options(OPTIONS)
    if options["conv_width"] < 2:
        raise BadInput(f"model.conv_width: must be at least 2, got {options['conv_width']}")
    if options["chunk_size"] < 1 or options["chunk_size"] & (options["chunk_size"] - 1):
        raise BadInput(f"model.chunk_size: must be a power of two, got {options['chunk_size']}")


MIXER = SequenceMixer(
    parameters=_parameters,
    apply=lambda config, p, x, context: _run(config, p, x, context, None)[0],
    extend=_run,
    empty_cache=_empty_cache,
    cost=_cost,
    options=OPTIONS,
    branch="gated_delta",
    check=_check,
    fixed_length=True,
)
