"""What recurrent mixers share: short causal convolutions, step sizes and decay rates, caches, and their registry row."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from training.errors import BadInput
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.mixers.mixer import Context, MixerCost, SequenceMixer, Stream
from training.nets.primitives import upcast_to_f32
from training.types import Params

Cache = dict[str, Array]  # "state" [batch, ...], float32, and of each convolution by name the tokens before


class Memory(NamedTuple):
    """What a recurrent mixer keeps of the tokens before.

    Attributes:
      channels: of each short convolution, by name.
      taps: of every convolution, which keeps one token less.
      state: shape of the state of one sequence.
    """

    channels: Mapping[str, int]
    taps: int
    state: tuple[int, ...]


Run = Callable[[BlockConfig, Params, Stream, Context, Cache | None], tuple[Stream, Cache]]


def mixer(
    branch: str,
    parameters: Callable[[BlockConfig], Leaves],
    memory: Callable[[BlockConfig], Memory],
    run: Run,
    cost: Callable[[BlockConfig, int], MixerCost],
    options: Mapping[str, int],
    check: Callable[[BlockConfig], None] = lambda config: None,
) -> SequenceMixer:
    """The registry row of a recurrent mixer, one function of which serves whole sequences and those that go on.

    Args:
      branch, parameters, cost, options: as in `SequenceMixer`.
      memory: config -> what it keeps.
      run: (config, parameters, x, context, cache) -> what is added to the stream, and the cache after it; without a cache
        the sequence begins here.
      check: raises BadInput where its options, of which each is at least 1 and "conv_width" 2, contradict the config.
    """

    def empty_cache(config: BlockConfig, batch: int, length: int, dtype: str) -> Cache:
        channels, taps, state = memory(config)
        tokens = {name: jnp.zeros((batch, taps - 1, width), dtype) for name, width in channels.items()}
        return tokens | {"state": jnp.zeros((batch, *state), jnp.float32)}

    def check_all(config: BlockConfig) -> None:
        for name, value in config.options(options).items():
            least = 2 if name == "conv_width" else 1
            if value < least:
                raise BadInput(f"model.{name}: must be at least {least}, got {value}")
        check(config)

    return SequenceMixer(
        parameters=parameters,
        apply=lambda config, p, x, context: run(config, p, x, context, None)[0],
        extend=run,
        empty_cache=empty_cache,
        cost=cost,
        options=options,
        branch=branch,
        check=check_all,
        fixed_length=True,
    )


# Convolutions -----------------------------------------------------------------------------------------------------------


def conv_leaf(taps: int, channels: int, axis: str | None) -> Leaf:
    """The weights of `causal_conv`."""
    return Leaf((taps, channels), ("gates", axis), (3 * taps) ** -0.5)


def causal_conv(
    x: Float[Array, "batch length channels"],
    kernel: Float[Array, "taps channels"],
    context: Context,
    before: Float[Array, "batch taps-1 channels"] | None = None,
) -> Float[Array, "batch length channels"]:
    """silu of the sum of each channel's last tokens, within their segment, by the weights of its taps.

    Args:
      x: the tokens.
      kernel: the weights, that of the token itself last.
      context: of the pass.
      before: the tokens before the first; None: there are none.
    """
    taps, length = len(kernel), x.shape[1]
    kernel = kernel.astype(x.dtype)
    padded = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0))) if before is None else jnp.concatenate([before, x], axis=1)
    out = x * kernel[-1]
    for back in range(1, taps):
        tap = padded[:, taps - 1 - back : taps - 1 - back + length]
        if context.segments is not None:
            tap = jnp.where(context.positions[..., None] >= back, tap, 0)
        out += tap * kernel[taps - 1 - back]
    return jax.nn.silu(out)


def convolved(
    memory: Memory, kernels: Params, parts: Sequence[Array], context: Context, cache: Cache | None
) -> tuple[list[Array], Array, Cache]:
    """Each part after its convolution, and what the cache holds.

    Args:
      memory: of the mixer.
      kernels: of the convolutions by name.
      parts: [batch, length, channels] each, in the order of `memory.channels`.
      context: of the pass.
      cache: of the tokens before; None: there are none.
    Returns:
      The parts, the state before the first token, and the tokens that the next call needs.
    """
    named = dict(zip(memory.channels, parts, strict=True))
    if cache is None:
        state = jnp.zeros((len(parts[0]), *memory.state), jnp.float32)
        return [causal_conv(part, kernels[name], context) for name, part in named.items()], state, {}
    mixed = [causal_conv(part, kernels[name], context, cache[name]) for name, part in named.items()]
    return mixed, cache["state"], {name: last_taps(cache[name], part) for name, part in named.items()}


def last_taps(before: Array, x: Array) -> Array:
    """The tokens that the next call of `causal_conv` needs."""
    return jnp.concatenate([before, x.astype(before.dtype)], axis=1)[:, -before.shape[1] :]


def starts(context: Context) -> Bool[Array, "batch length"] | None:
    """Where a document begins, and a state with it; None: nowhere."""
    return None if context.segments is None else context.positions == 0


# Step sizes and decays --------------------------------------------------------------------------------------------------


def rate_leaves(heads: int) -> Leaves:
    """The parameters of `rates`."""
    return {"dt_bias": Leaf((heads,), (None,)), "a": Leaf((heads,), (None,))}


def rates(p: Params, dt: Float[Array, "batch length heads"]) -> tuple[Array, Array]:
    """Step sizes softplus(dt), and logs of the decays, of every token and head in float32.

    Initial step sizes lie between 0.001 and 0.1, evenly in their logs over the heads, and decay rates exp(a) between 1 and
    16, evenly too and in another order: constants that `dt_bias` and `a` are added to, which begin at zero.

    Source: Dao and Gu 2024, arXiv 2405.21060, section 7.
    """
    place = (jnp.arange(dt.shape[-1], dtype=jnp.float32) + 0.5) / dt.shape[-1]
    initial = 0.001 * 100.0**place
    # The inverse of softplus; the multiples of the golden ratio spread evenly in another order than the steps.
    step = jax.nn.softplus(upcast_to_f32(dt) + upcast_to_f32(p["dt_bias"]) + initial + jnp.log(-jnp.expm1(-initial)))
    rate = jnp.exp(upcast_to_f32(p["a"])) * (1 + 15 * jnp.mod(place * dt.shape[-1] * 0.618034, 1.0))
    return step, -step * rate
