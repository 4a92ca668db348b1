"""Linear recurrences in chunks: sequences cut into chunks, decays within and between them, and triangular systems."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def power_of_two(chunk: int, length: int) -> int:
    """The chunk, or the least power of two that holds the whole length."""
    return min(chunk, 1 << (length - 1).bit_length())


def chunked(arrays: Sequence[Array], size: int) -> list[Array]:
    """Arrays [batch, length, ...] as [batch, chunks, size, ...], filled up with zeros at the end."""
    length = arrays[0].shape[1]
    count = -(-length // size)

    def cut(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0) for _ in x.shape[2:])))
        return padded.reshape(x.shape[0], count, size, *x.shape[2:])

    return [cut(x) for x in arrays]


def joined(chunks: Float[Array, "batch chunks size ..."], length: int) -> Float[Array, "batch length ..."]:
    """The way back from `chunked`, without what was filled up."""
    return chunks.reshape(chunks.shape[0], -1, *chunks.shape[3:])[:, :length]


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
