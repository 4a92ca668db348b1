"""Mamba-2: a state-space model whose decay is one number a head, computed in chunks as products of matrices (SSD).

Of a token x [heads, p], a step size s = softplus(dt) and input and output vectors B and C [n] that all heads share:

    state = exp(-s exp(a)) state + s B x',    y = state' C + D x     (state: [heads, n, p])

Parameters (d width, E = ssm_expand d inner features, in heads of as many as those of attention have, n state_width):

    {z, x}/kernel (d, E)        gate and input        conv/{x, B, C} (conv_width, channels), each channel for itself
    {B, C}/kernel (d, n)                              {dt_bias, a, D} (heads)
    dt/kernel (d, heads)                              norm/scale (E), out/kernel (E, d)

Initial step sizes lie between 0.001 and 0.1, evenly in their logs over the heads, and decay rates exp(a) between 1 and 16,
evenly too and in another order: constants that `dt_bias` and `a` are added to, which begin at zero.

Source: Dao and Gu 2024, arXiv 2405.21060, sections 5 to 7; listing 1 for the chunks.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves, Params
from training.nets.layers import linear, linears, projection, rms_norm
from training.nets.mixers.mixer import Context, MixerCost, SequenceMixer, Stream
from training.nets.mixers.recurrent import causal_conv, chunked, decays, last_taps, starts
from training.nets.primitives import upcast_to_f32

OPTIONS: dict[str, Any] = {"state_width": 64, "ssm_expand": 2, "conv_width": 4, "chunk_size": 64}
Cache = dict[str, Array]  # "state" [batch, heads, n, p], float32, and "x", "B", "C": the last tokens before convolution


def _shape(config: BlockConfig) -> tuple[int, int, int, int]:
    """Inner features, heads of as many features as those of attention, state width and taps."""
    options = config.options(OPTIONS)
    inner = options["ssm_expand"] * config.width
    return inner, inner // config.head_width, options["state_width"], options["conv_width"]


def _parameters(config: BlockConfig) -> Leaves:
    d, (inner, heads, n, taps) = config.width, _shape(config)
    vector = Leaf((heads,), (None,))

    def conv(channels: int, axis: str | None) -> Leaf:
        return Leaf((taps, channels), ("gates", axis), (3 * taps) ** -0.5)

    return {
        **{name: projection(d, inner, ("embed", "mlp")) for name in ("z", "x")},
        **{name: projection(d, n, ("embed", None)) for name in ("B", "C")},
        "dt": projection(d, heads, ("embed", None)),
        "conv": {"x": conv(inner, "mlp"), "B": conv(n, None), "C": conv(n, None)},
        "dt_bias": vector,
        "a": vector,
        "D": Leaf((heads,), (None,), offset=1.0),
        "norm": {"scale": Leaf((inner,), (None,), offset=1.0)},
        "out": projection(inner, d, ("mlp", "embed"), scale=config.residual_scale),
    }


def rates(p: Params, dt: Float[Array, "batch length heads"]) -> tuple[Array, Array]:
    """Step sizes, and logs of the decays, of every token and head in float32."""
    place = (jnp.arange(dt.shape[-1], dtype=jnp.float32) + 0.5) / dt.shape[-1]
    initial = 0.001 * 100.0**place
    # The inverse of softplus; the multiples of the golden ratio spread evenly in another order than the steps.
    step = jax.nn.softplus(upcast_to_f32(dt) + upcast_to_f32(p["dt_bias"]) + initial + jnp.log(-jnp.expm1(-initial)))
    rate = jnp.exp(upcast_to_f32(p["a"])) * (1 + 15 * jnp.mod(place * dt.shape[-1] * 0.618034, 1.0))
    return step, -step * rate


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
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length], state


def _run(config: BlockConfig, p: Params, x: Stream, context: Context, cache: Cache | None) -> tuple[Stream, Cache]:
    inner, heads, n, _ = _shape(config)
    names = ("x", "B", "C")
    z, dt, *parts = linears([p[name] for name in ("z", "dt", *names)], x)
    before = {} if cache is None else cache
    mixed = [causal_conv(part, p["conv"][k], context, before.get(k)) for k, part in zip(names, parts, strict=True)]
    step, log_decay = rates(p, dt)
    values = upcast_to_f32(mixed[0]).reshape(*x.shape[:2], heads, -1)
    state = jnp.zeros((x.shape[0], heads, n, inner // heads), jnp.float32) if cache is None else cache["state"]
    chunk = config.options(OPTIONS)["chunk_size"]
    y, state = ssd(values * step[..., None], log_decay, mixed[1], mixed[2], starts(context), state, chunk)
    y = (y + upcast_to_f32(p["D"])[:, None] * values).reshape(*x.shape[:2], inner).astype(x.dtype)
    y = linear(p["out"], rms_norm(y * jax.nn.silu(z), p["norm"]["scale"], config.norm_eps))
    after = {k: last_taps(before[k], part) for k, part in zip(names, parts, strict=True)} if before else {}
    return y, after | {"state": state}


def _empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> Cache:
    inner, heads, n, taps = _shape(config)
    tokens = {name: jnp.zeros((batch, taps - 1, width), dtype) for name, width in (("x", inner), ("B", n), ("C", n))}
    return tokens | {"state": jnp.zeros((batch, heads, n, inner // heads), jnp.float32)}


def _cost(config: BlockConfig, length: int) -> MixerCost:
    d, (inner, heads, n, _) = config.width, _shape(config)
    size = min(config.options(OPTIONS)["chunk_size"], length)
    count = -(-length // size)
    pairs, states = 2.0 * count * size * (n + inner), 4.0 * count * size * n * inner
    projections = 2.0 * length * d * (3 * inner + 2 * n + heads)
    return MixerCost(projections, 2.0 * length * inner * d, pairs * size + states, pairs * (size + 1) / 2 + states)


def _check(config: BlockConfig) -> None:
    for name, value in config.options(OPTIONS).items():
        if value < (2 if name == "conv_width" else 1):
            raise BadInput(f"model.{name}: must be at least {2 if name == 'conv_width' else 1}, got {value}")


MIXER = SequenceMixer(
    parameters=_parameters,
    apply=lambda config, p, x, context: _run(config, p, x, context, None)[0],
    extend=_run,
    empty_cache=_empty_cache,
    cost=_cost,
    options=OPTIONS,
    branch="mamba2",
    check=_check,
    fixed_length=True,
)
