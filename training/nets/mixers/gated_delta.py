"""Gated DeltaNet: a linear recurrence that replaces what its state holds under a key, and forgets by a gate.

Of queries q, keys k (of length 1) and values v of a head, a decay a and a rate b, both in (0, 1):

    state = a (I - b k k') state + b k v',    y = state' q     (state: [heads, head width, head width])

A chunk is computed as products of matrices: with u = b (v - a state' k), state = a state + k u' is a decaying sum, and the
u of a chunk solve a triangular system, whose inverse is built of those of its blocks.

Parameters (d width, H heads of h features): {query, key, value, gate}/kernel (d, H h), conv/{query, key, value}
(conv_width, H h), {decay, rate}/kernel (d, H), {dt_bias, a} (H) as in `training.nets.mixers.recurrent.rates`, norm/scale
(h), out/kernel (H h, d).

Source: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, sections 3.1 to 3.4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.layers import linear, linears, projection, rms_norm
from training.nets.mixers.chunks import chunked, decays, joined, power_of_two, unit_lower_inverse
from training.nets.mixers.mixer import Context, MixerCost, Stream
from training.nets.mixers.recurrent import Cache, Memory, conv_leaf, convolved, mixer, rate_leaves, rates, starts
from training.nets.primitives import upcast_to_f32
from training.types import Params

OPTIONS = {"conv_width": 4, "chunk_size": 64}
NAMES = ("query", "key", "value")
Heads = Float[Array, "batch length heads h"]
State = Float[Array, "batch heads h h"]


def _memory(config: BlockConfig) -> Memory:
    heads, h = config.heads, config.head_width
    return Memory(dict.fromkeys(NAMES, heads * h), config.options(OPTIONS)["conv_width"], (heads, h, h))


def _parameters(config: BlockConfig) -> Leaves:
    d, inner, taps = config.width, config.heads * config.head_width, _memory(config).taps
    return {
        **{name: projection(d, inner, ("embed", "heads")) for name in (*NAMES, "gate")},
        **{name: projection(d, config.heads, ("embed", None)) for name in ("decay", "rate")},
        **rate_leaves(config.heads),
        "conv": dict.fromkeys(NAMES, conv_leaf(taps, inner, "heads")),
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
    length, size = q.shape[1], power_of_two(chunk, q.shape[1])
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
    return joined(jnp.moveaxis(y, 0, 1), length), state


def _run(config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache | None) -> tuple[Stream, Cache]:
    heads = (*x.shape[:2], config.heads, config.head_width)
    gate, decay, rate, *parts = linears([p[name] for name in ("gate", "decay", "rate", *NAMES)], x)
    mixed, state, tokens = convolved(_memory(config), p["conv"], parts, context, cache)
    q, k, v = (upcast_to_f32(part).reshape(heads) for part in mixed)
    q, k = (part * jax.lax.rsqrt(jnp.sum(jnp.square(part), axis=-1, keepdims=True) + 1e-6) for part in (q, k))
    chunk = config.options(OPTIONS)["chunk_size"]
    rate, (_, log_decay) = jax.nn.sigmoid(upcast_to_f32(rate)), rates(p, decay)
    y, state = delta_rule(q * config.head_width**-0.5, k, v, log_decay, rate, starts(context), state, chunk)
    y = rms_norm(y.astype(x.dtype), p["norm"]["scale"], config.norm_eps).reshape(*x.shape[:2], -1)
    return linear(p["out"], y * jax.nn.silu(gate)), tokens | {"state": state}


def _cost(config: BlockConfig, length: int) -> MixerCost:
    d, h, inner = config.width, config.head_width, config.heads * config.head_width
    size = power_of_two(config.options(OPTIONS)["chunk_size"], length)
    chunks = -(-length // size)
    inverse = config.heads * 4.0 * (size // 2) * sum(4**i for i in range(1, size.bit_length() - 1))
    pairs, others = chunks * 10.0 * size * inner, chunks * (6.0 * size * inner * h + inverse)
    projections = 2.0 * length * d * (5 * inner + 2 * config.heads)
    return MixerCost(projections, 2.0 * length * inner * d, pairs * size + others, pairs * (size + 1) / 2 + others)


def _check(config: BlockConfig) -> None:
    chunk = config.options(OPTIONS)["chunk_size"]
    if chunk & (chunk - 1):
        raise BadInput(f"model.chunk_size: must be a power of two, got {chunk}")


MIXER = mixer("gated_delta", _parameters, _memory, _run, _cost, OPTIONS, _check)
