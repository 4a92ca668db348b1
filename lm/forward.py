"""Language models as functions of arrays alone, for export: from tokens to logits, whatever the role of the model.

What a program reads: `tokens` [b, t], and of models that look at what follows a token also `lengths` [b], behind which a
row is filled up with anything; an encoder-decoder reads `source` [b, s] with its `lengths`, and `target` [b, t].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lm import models, objectives, tokens
from lm.decoder import logits
from training.errors import BadInput
from training.nets import initial
from training.nets.block_config import clone
from training.nets.mixers import MIXERS
from training.task import Forward, Input
from training.types import Collections, Params


def forward(config: ConfigDict, batch: int | None, length: int | None) -> Forward:
    """The model of a resolved config, with what every platform runs in place of what is fastest on this one.

    Args:
      config: of the run.
      batch: rows; None: any number.
      length: tokens of a row; None: any number, up to that of learned positions.

    Raises:
      BadInput: a length that must be given because the model is compiled for it, or one that it cannot read.
    """
    model: Any = objectives.of(config).network(config)
    if hasattr(model, "blocks"):
        model = clone(model, attention="xla", **({"dispatch": "ragged"} if model.blocks.moe else {}))
        fixed = [name for name in model.blocks.pattern if MIXERS[name].fixed_length]
        if length is None and fixed:
            raise BadInput(f"--length: {fixed[0]} is compiled for one length; give it")
    apply, names, output = _ROLES[models.KINDS[config.model.name].role](model)
    b, t = "b" if batch is None else batch, "t" if length is None else length
    shapes = {"lengths": (b,), "source": (b, "s" if length is None else length)}
    inputs = tuple(Input(name, "int32", shapes.get(name, (b, t))) for name in names)
    longest = getattr(model, "max_length", 0)
    symbols = sorted({size for entry in inputs for size in entry.shape if size in ("s", "t")}, key=str)
    bounds = tuple(f"{symbol} <= {longest}" for symbol in symbols) if longest else ()
    if longest and length is not None and length > longest:
        raise BadInput(f"--length: {length} tokens are more than the {longest} learned positions")
    variables = initial.abstract(model)
    return Forward(apply, inputs, output, variables, bounds, {"symbols": _symbols(model, config)})


def _symbols(model: Any, config: ConfigDict) -> dict[str, int]:
    """Ids that mean something to the model beside those of its text."""
    own = {name: getattr(model, name) for name in ("mask", "question", "sentinels") if hasattr(model, name)}
    return {"vocabulary": tokens.vocab_size(config.data), **own}


Role = tuple[
    Callable[..., jax.Array], tuple[str, ...], tuple[str, ...]
]  # function, names of inputs, axes of the output


def _causal(model: Any) -> Role:
    def apply(params: Params, stats: Collections, read: jax.Array) -> jax.Array:
        del stats  # a carried state is that of the training batch
        return model(params, read)

    return apply, ("tokens",), ("batch", "length", "vocabulary")


def _encoder(model: Any) -> Role:
    """Logits of every token, as if it were hidden; or of the classes of a text."""

    def apply(params: Params, stats: Collections, read: jax.Array, lengths: jax.Array) -> jax.Array:
        del stats
        places = jnp.arange(read.shape[1], dtype=jnp.int32)
        segments = jnp.where(places < lengths[:, None], 0, -1)
        if model.classes:
            return model.classify(params, read, segments)
        every = jnp.broadcast_to(places, read.shape)
        states, head, bias = model.masked(params, read, every, segments)
        return logits(states, head, model.logit_dtype) + bias.astype(model.logit_dtype)

    output = ("batch", "classes") if model.classes else ("batch", "length", "vocabulary")
    return apply, ("tokens", "lengths"), output


def _encoder_decoder(model: Any) -> Role:
    def apply(
        params: Params, stats: Collections, source: jax.Array, lengths: jax.Array, target: jax.Array
    ) -> jax.Array:
        del stats
        seen = jnp.arange(source.shape[1]) < lengths[:, None]
        states, head = model.hidden(params, source, target, seen)
        return logits(states, head, model.logit_dtype)

    return apply, ("source", "lengths", "target"), ("batch", "length", "vocabulary")


_ROLES: dict[str, Callable[[Any], Role]] = {
    "causal": _causal,
    "encoder": _encoder,
    "encoder_decoder": _encoder_decoder,
}
