"""Mamba-2: a state-space model whose decay is one number a head, computed in chunks as products of matrices (SSD).

Of a token x [heads, p], a step size s = softplus(dt) and input and output vectors B and C [n] that all heads share:

    state = exp(-s exp(a)) state + s B x',    y = state' C + D x     (state: [heads, n, p])

Parameters (d width, E = ssm_expand d inner features, in heads of as many as those of attention have, n state_width):

    {z, x}/kernel (d, E)        gate and input        conv/{x, B, C} (conv_width, channels), each channel for itself
    {B, C}/kernel (d, n)                              {dt_bias, a, D} (heads)
    dt/kernel (d, heads)                              norm/scale (E), out/kernel (E, d)

Source: Dao and Gu 2024, arXiv 2405.21060, sections 5 to 7; listing 1 for the chunks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.layers import linear, linears, projection, rms_norm
from training.nets.mixers.chunks import chunked, decays, joined
from training.nets.mixers.mixer import Context, MixerCost, Stream
from training.nets.mixers.recurrent import Cache, Memory, conv_leaf, convolved, mixer, rate_leaves, rates, starts
from training.nets.primitives import upcast_to_f32
from training.types import Params

OPTIONS = {"state_width": 64, "ssm_expand": 2, "conv_width": 4, "chunk_size": 64}


def _shape(config: BlockConfig) -> tuple[int, int, int]:
    """Inner features, heads of as many features as those of attention, and state width."""
    options = config.options(OPTIONS)
    inner = options["ssm_expand"] * config.width
    return inner, inner // config.head_width, options["state_width"]


def _memory(config: BlockConfig) -> Memory:
    inner, heads, n = _shape(config)
    taps = config.options(OPTIONS)["conv_width"]
    return Memory({"x": inner, "B": n, "C": n}, taps, (heads, n, inner // heads))


def _parameters(config: BlockConfig) -> Leaves:
    d, taps, (inner, heads, n) = config.width, _memory(config).taps, _shape(config)
    return {
        **{name: projection(d, inner, ("embed", "mlp")) for name in ("z", "x")},
        **{name: projection(d, n, ("embed", None)) for name in ("B", "C")},
        **rate_leaves(heads),
        "dt": projection(d, heads, ("embed", None)),
        "conv": {"x": conv_leaf(taps, inner, "mlp"), "B": conv_leaf(taps, n, None), "C": conv_leaf(taps, n, None)},
        "D": Leaf((heads,), (None,), offset=1.0),
        "norm": {"scale": Leaf((inner,), (None,), offset=1.0)},
        "out": projection(inner, d, ("mlp", "embed"), scale=config.residual_scale),
    }


def ssd(
    x: Float[Array, "batch length heads p"],
    log_decay: Float[Array, "batch length heads"],
    B: Float[Array, "batch length n"],
    C: Float[Array, "batch length n"],
    begins: Array | None,
    state: Float[Array, "batch heads n p"],
    chunk: int,
) -> tuple[Float[Array, "batch length heads p"], Float[Array, "batch heads n p"]]:
    """state = exp(log_decay) state + B x' and y = state' C over a sequence, in float32.

    Args:
      x: what enters.
      log_decay: of every head.
      B: how it enters.
      C: how it is read.
      begins: where the state is set to zero before a token; None: nowhere.
      state: before the first token.
      chunk: tokens that are computed together.
    Returns:
      y, and the state after the last token.
    """
    length, size = x.shape[1], min(chunk, x.shape[1])
    x_, log_decay, B, C = chunked([upcast_to_f32(part) for part in (x, log_decay, B, C)], size)
    decay = decays(log_decay, None if begins is None else chunked([begins.astype(jnp.int32)], size)[0])
    scores = jnp.einsum("bcin,bcjn->bcij", C, B)[:, :, None] * decay.within
    y = jnp.einsum("bchij,bcjhp->bcihp", scores, x_)
    entered = jnp.einsum("bcjn,bcjhp->bchnp", B, x_ * decay.out[..., None])

    def across(state: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        whole, entered = chunk
        return whole[..., None, None] * state + entered, state

    state, before = jax.lax.scan(across, state, (jnp.moveaxis(decay.whole, 1, 0), jnp.moveaxis(entered, 1, 0)))
    y += jnp.einsum("bcin,cbhnp->bcihp", C, before) * decay.into[..., None]
    return joined(y, length), state


def _run(config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache | None) -> tuple[Stream, Cache]:
    inner, heads, _ = _shape(config)
    z, dt, *parts = linears([p[name] for name in ("z", "dt", "x", "B", "C")], x)
    (entering, B, C), state, tokens = convolved(_memory(config), p["conv"], parts, context, cache)
    step, log_decay = rates(p, dt)
    values = upcast_to_f32(entering).reshape(*x.shape[:2], heads, -1)
    chunk = config.options(OPTIONS)["chunk_size"]
    y, state = ssd(values * step[..., None], log_decay, B, C, starts(context), state, chunk)
    y = (y + upcast_to_f32(p["D"])[:, None] * values).reshape(*x.shape[:2], inner).astype(x.dtype)
    y = linear(p["out"], rms_norm(y * jax.nn.silu(z), p["norm"]["scale"], config.norm_eps))
    return y, tokens | {"state": state}


def _cost(config: BlockConfig, length: int) -> MixerCost:
    d, (inner, heads, n) = config.width, _shape(config)
    size = min(config.options(OPTIONS)["chunk_size"], length)
    count = -(-length // size)
    pairs, states = 2.0 * count * size * (n + inner), 4.0 * count * size * n * inner
    projections = 2.0 * length * d * (3 * inner + 2 * n + heads)
    return MixerCost(projections, 2.0 * length * inner * d, pairs * size + states, pairs * (size + 1) / 2 + states)


MIXER = mixer("mamba2", _parameters, _memory, _run, _cost, OPTIONS)
