"""Text from a language model, one token at a time, with a cache of what it keeps of those before."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm.decoder import Decoder
from lm.models import Model
from training.errors import BadInput
from training.types import Params


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    new: int,
    *,
    key: Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    window: int | None = None,
    end: int | None = None,
    symbols: int | None = None,
) -> list[np.ndarray]:
    """Continue every prompt; each row is drawn from its own key, so that what stands beside it changes nothing.

    Args:
      model: a decoder or a recurrent model.
      params: its parameters, unboxed.
      prompts: at least one token each; lengths may differ.
      new: tokens to add to each.
      key: a random key; unused at temperature 0.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: draw among that many likeliest tokens; 0: all.
      top_p: draw among the fewest likeliest tokens whose probabilities, after `top_k`, reach it (Holtzman et al. 2020).
      window: attend only to the last `window` tokens; None: to all. A recurrence, which attends to nothing, has read all.
      end: a token that ends a row.
      symbols: of the tokenizer; later rows of the model's table are never drawn. None: all are symbols.

    Returns:
      Each prompt with its continuation, which stops after `end`.

    Raises:
      BadInput: an empty prompt, a token outside the vocabulary, a setting out of range, or too few learned positions.
    """
    _check(model, prompts, new, temperature, top_k, top_p)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    total = int(lengths.max()) + new
    if isinstance(model, Decoder) and model.positions == "learned" and total > model.max_length:
        raise BadInput(f"generate: {total} tokens are more than the model's {model.max_length} learned positions")
    tokens = np.zeros((len(prompts), total), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    settings = {"temperature": np.float32(temperature), "top_k": np.int32(top_k), "top_p": np.float32(top_p)}
    stop = np.int32(-1 if end is None else end)
    span = np.int32(window or total)
    drawable = np.int32(model.vocab_size if symbols is None else symbols)
    rows = np.asarray(
        _generate(model, int(lengths.min()), params, tokens, lengths, key, settings, span, stop, drawable)
    )
    return [_cut(row, int(length), new, end) for row, length in zip(rows, lengths, strict=True)]


def pick(
    logits: Float[Array, "batch vocab"],
    keys: Array,
    temperature: Float[Array, ""] | float,
    top_k: Int[Array, ""] | int,
    top_p: Float[Array, ""] | float,
) -> Int[Array, " batch"]:
    """One token a row, drawn from `keys` [batch]; every setting may be traced. Meaning as in `generate`."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1).astype(jnp.float32) / jnp.maximum(temperature, 1e-6)
    rank = jnp.arange(logits.shape[-1])
    ranked = jnp.where((rank < top_k) | (top_k == 0), ranked, -jnp.inf)
    weights = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(weights, axis=-1) - weights
    ranked = jnp.where((before < top_p) | (rank == 0), ranked, -jnp.inf)
    drawn = jax.vmap(jax.random.categorical)(keys, ranked)
    chosen = jnp.where(temperature == 0, 0, drawn)
    return jnp.take_along_axis(order, chosen[:, None], axis=-1)[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    model: Model,
    known: int,
    params: Params,
    tokens: Array,
    lengths: Array,
    key: Array,
    settings: Any,
    window: Any,
    end: Any,
    symbols: Any,
) -> Array:
    """Tokens [batch, total] filled in; the first `known` columns hold prompts in every row."""
    batch, total = tokens.shape
    extend = functools.partial(model.extend, params)
    cache = model.empty_cache(batch, total, window)
    logits, cache = extend(tokens[:, :known], cache)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))

    def unfinished(state: Any) -> Array:
        position, _, _, _, ended = state
        return (position < total) & ~jnp.all(ended)

    def step(state: Any) -> Any:
        position, tokens, logits, cache, ended = state
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, position)
        drawn = pick(jnp.where(jnp.arange(logits.shape[-1]) < symbols, logits, -jnp.inf), keys, **settings)
        in_prompt = position < lengths
        now = jnp.where(in_prompt, tokens[:, position], drawn).astype(tokens.dtype)
        ended |= ~in_prompt & (now == end)
        logits, cache = extend(now[:, None], cache)
        return position + 1, tokens.at[:, position].set(now), logits[:, -1], cache, ended

    state = (jnp.int32(known), tokens, logits[:, -1], cache, jnp.zeros(batch, bool))
    return jax.lax.while_loop(unfinished, step, state)[1]


def _cut(row: np.ndarray, length: int, new: int, end: int | None) -> np.ndarray:
    row = row[: length + new]
    ends = np.flatnonzero(row[length:] == end)
    return row[: length + ends[0] + 1] if len(ends) else row


def _check(model: Model, prompts: Any, new: int, temperature: float, top_k: int, top_p: float) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise BadInput("generate: a prompt needs at least one token")
    if any(min(prompt) < 0 or max(prompt) >= model.vocab_size for prompt in prompts):
        raise BadInput(f"generate: a prompt holds a token outside the vocabulary of {model.vocab_size}")
    if new < 1:
        raise BadInput(f"generate: the number of new tokens must be positive, got {new}")
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise BadInput(
            f"generate: want temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k} and {top_p}"
        )
