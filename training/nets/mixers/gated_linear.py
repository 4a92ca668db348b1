"""A gated linear recurrence: the simplest whose gates read the input alone, so that all steps are one scan.

silu(o) h, where h = f h_before + (1 - f) v and f = sigmoid(g + c), of an output gate o, a forget gate g and values v, which
are projections of the input (Martin and Cundy 2018; Qin et al. 2023, HGRN). The constants c spread the time scales
1 / (1 - f) of the channels of an input of zero from 2 to 512 tokens evenly in their logs, as those of state-space models are
begun (Gu et al. 2022, S4D).

Parameters: those of attention without shared keys, whose queries are the output gate, keys the forget gate: {query, key,
value, out}/{kernel, bias} (d, d).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from training.nets.block_config import BlockConfig
from training.nets.initial import Leaves
from training.nets.layers import linear, linears, projection
from training.nets.mixers.mixer import Context, MixerCost, SequenceMixer, Stream
from training.nets.primitives import upcast_to_f32
from training.types import Params

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]  # what is kept, and what enters

State = Float[Array, "batch width"]


def parameters(config: BlockConfig) -> Leaves:
    """The leaves of one block."""
    d = config.width
    return {
        "query": projection(d, d, ("embed", "heads"), config.bias),
        "key": projection(d, d, ("embed", "kv"), config.bias),
        "value": projection(d, d, ("embed", "kv"), config.bias),
        "out": projection(d, d, ("heads", "embed"), config.bias, config.residual_scale),
    }


def recurrence(
    out_gate: Float[Array, "batch length width"],
    forget: Float[Array, "batch length width"],
    value: Float[Array, "batch length width"],
    starts: Bool[Array, "batch length"] | None,
    state: State | None = None,
) -> tuple[Float[Array, "batch length width"], State]:
    """silu(out_gate) h over a sequence, see above.

    Args:
      out_gate: before its silu.
      forget: before its sigmoid and constant.
      value: what enters h.
      starts: where h is set to zero before a token; None: nowhere.
      state: h before the first token; None: zero.
    Returns:
      The output, in value's dtype, and h after the last token, float32.
    """
    channels = forget.shape[-1]
    scales = 2.0 * 256.0 ** (jnp.arange(channels, dtype=jnp.float32) / max(channels - 1, 1))
    keep = jax.nn.sigmoid(upcast_to_f32(forget) + jnp.log(scales - 1))
    enter = (1 - keep) * upcast_to_f32(value)
    if starts is not None:
        keep = jnp.where(starts[..., None], 0.0, keep)
    if state is not None:
        enter = enter.at[:, 0].add(keep[:, 0] * state)

    def both(left: Pair, right: Pair) -> Pair:
        return left[0] * right[0], right[0] * left[1] + right[1]

    _, h = jax.lax.associative_scan(both, (keep, enter), axis=1)
    return (jax.nn.silu(upcast_to_f32(out_gate)) * h).astype(value.dtype), h[:, -1]


def _apply(config: BlockConfig, p: Params, x: Stream, context: Context) -> Stream:
    starts = None if context.segments is None else context.positions == 0
    out_gate, forget, value = linears([p[name] for name in ("query", "key", "value")], x)
    y, _ = recurrence(out_gate, forget, value, starts)
    return linear(p["out"], y)


def _extend(config: BlockConfig, p: Params, x: Stream, context: Context, cache: State) -> tuple[Stream, State]:
    out_gate, forget, value = linears([p[name] for name in ("query", "key", "value")], x)
    y, state = recurrence(out_gate, forget, value, None, cache)
    return linear(p["out"], y), state


def _empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> State:
    return jnp.zeros((batch, config.width), jnp.float32)


def _cost(config: BlockConfig, length: int) -> MixerCost:
    out = 2.0 * length * config.width**2
    return MixerCost(4 * out, out)  # the recurrence has no products of its own


MIXER = SequenceMixer(parameters, _apply, _extend, _empty_cache, _cost, {}, fixed_length=True)
