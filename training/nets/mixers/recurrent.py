"""What recurrent mixers share: a short causal convolution, and decays within and between the chunks of a sequence."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from training.nets.mixers.mixer import Context


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


def last_taps(before: Array, x: Array) -> Array:
    """The tokens that the next call of `causal_conv` needs."""
    return jnp.concatenate([before, x.astype(before.dtype)], axis=1)[:, -before.shape[1] :]


def starts(context: Context) -> Bool[Array, "batch length"] | None:
    """Where a document begins, and a state with it; None: nowhere."""
    return None if context.segments is None else context.positions == 0


def chunked(arrays: Sequence[Array], size: int) -> list[Array]:
    """Arrays [batch, length, ...] as [batch, chunks, size, ...], filled up with zeros at the end."""
    length = arrays[0].shape[1]
    count = -(-length // size)

    def cut(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0) for _ in x.shape[2:])))
        return padded.reshape(x.shape[0], count, size, *x.shape[2:])

    return [cut(x) for x in arrays]


class Decays(NamedTuple):
    """Products of a recurrence's decays, zero across the start of a document.

    Attributes:
      within: from behind token j to behind token i of a chunk.
      into: from before the chunk to behind token i.
      out: from behind token j to the end of the chunk.
      whole: over the chunk.
    """

    within: Float[Array, "batch chunks heads i j"]
    into: Float[Array, "batch chunks size heads"]
    out: Float[Array, "batch chunks size heads"]
    whole: Float[Array, "batch chunks heads"]


def decays(
    log_decay: Float[Array, "batch chunks size heads"], starts: Int[Array, "batch chunks size"] | None
) -> Decays:
    """`Decays` of the logs of every token's decay, which are not positive; `starts` is one where a document begins."""
    total = jnp.cumsum(log_decay, axis=2)
    by_head = jnp.moveaxis(total, 3, 2)
    size = log_decay.shape[2]
    within = by_head[..., :, None] - by_head[..., None, :]
    into, out, whole = total, total[:, :, -1:] - total, total[:, :, -1]
    visible = jnp.tril(jnp.ones((size, size), bool))
    if starts is not None:
        count = jnp.cumsum(starts, axis=2)
        visible &= (count[..., :, None] == count[..., None, :])[:, :, None]
        into = jnp.where(count[..., None] == 0, into, -jnp.inf)
        out = jnp.where(count[..., None] == count[:, :, -1:, None], out, -jnp.inf)
        whole = jnp.where(count[:, :, -1:] == 0, whole, -jnp.inf)
    return Decays(*map(jnp.exp, (jnp.where(visible, within, -jnp.inf), into, out, whole)))
