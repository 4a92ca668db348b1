"""From a source to a target: beam search, of which greedy decoding is that with one beam."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.encoder_decoder import EncoderDecoder
from training.types import Params


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def search(
    model: EncoderDecoder,
    params: Params,
    source: Int[Array, "batch source"],
    lengths: Int[Array, " batch"],
    new: int,
    end: int,
    beams: int = 1,
    penalty: Float[Array, ""] | float = 0.6,
) -> Int[Array, "batch {new}"]:
    """The likeliest target found for each source; a target begins after the symbol `end`, and ends with it.

    Args:
      model: the model.
      params: its parameters, unboxed.
      source: padded at the right.
      lengths: tokens of each source.
      new: the most tokens of a target.
      end: the end-of-document symbol; fills a target up.
      beams: hypotheses kept of each source; 1: greedy.
      penalty: hypotheses are compared by log probability over ((5 + length) / 6)^penalty (Wu et al. 2016, equation 14).
    """
    batch = source.shape[0]
    seen = jnp.arange(source.shape[1]) < lengths[:, None]

    def spread(x: Array, axis: int) -> Array:
        return jnp.repeat(x, beams, axis=axis)

    cache = model.begin(params, source, seen, new)
    cache |= {"layers": jax.tree.map(lambda x: spread(x, 1), cache["layers"]), "seen": spread(cache["seen"], 0)}
    scores = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) + jnp.zeros((batch, 1))
    tokens = jnp.full((batch, beams, new), end, source.dtype)
    last, ended = jnp.full((batch, beams), end, source.dtype), jnp.zeros((batch, beams), bool)

    def unfinished(state: Any) -> Array:
        place, *_, ended, _ = state
        return (place < new) & ~jnp.all(ended)

    def step(state: Any) -> Any:
        place, tokens, scores, last, ended, cache = state
        logits, cache = model.extend(params, last.reshape(-1, 1), cache)
        logp = jax.nn.log_softmax(logits[:, 0, : model.vocab_size].astype(jnp.float32)).reshape(batch, beams, -1)
        symbols = logp.shape[-1]
        # What has ended goes on with `end` alone, at no cost.
        stay = jnp.where(jnp.arange(symbols) == end, 0.0, -jnp.inf)
        total = scores[..., None] + jnp.where(ended[..., None], stay, logp)
        scores, chosen = jax.lax.top_k(total.reshape(batch, -1), beams)
        parent, last = jnp.divmod(chosen, symbols)
        last = last.astype(tokens.dtype)
        tokens = jnp.take_along_axis(tokens, parent[..., None], axis=1).at[:, :, place].set(last)
        ended = jnp.take_along_axis(ended, parent, axis=1) | (last == end)
        rows = (jnp.arange(batch)[:, None] * beams + parent).ravel()
        if beams > 1:  # what was read is the same for all beams of a source
            own = {name: jax.tree.map(lambda x: x[:, rows], layer["mixer"]) for name, layer in cache["layers"].items()}
            cache |= {"layers": {name: layer | {"mixer": own[name]} for name, layer in cache["layers"].items()}}
        return place + 1, tokens, scores, last, ended, cache

    state = (jnp.int32(0), tokens, scores, last, ended, cache)
    _, tokens, scores, *_ = jax.lax.while_loop(unfinished, step, state)
    length = jnp.minimum(jnp.sum(jnp.cumsum(tokens == end, axis=2) == 0, axis=2) + 1, new)
    best = jnp.argmax(scores / ((5 + length) / 6) ** penalty, axis=1)
    return jnp.take_along_axis(tokens, best[:, None, None], axis=1)[:, 0]
