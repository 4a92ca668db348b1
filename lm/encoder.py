"""The encoder: transformer blocks that see both ways, with a head for masked tokens or one for classes (Devlin et al. 2018).

Parameters (L layers, d width; the blocks are those of `training/nets/blocks.py`):

    embed/embedding                    (V + 2, d)       the tokenizer's symbols, then "masked" and "what is this?"
    position/embedding                 (length, d)      learned positions only
    embed_norm/{scale,bias}            (d,)             norms after the branches only
    blocks/...                         (L, ...)
    final_norm/{scale,bias}            (d,)             norms before the branches only
    masked/transform/{kernel,bias}     (d, d)           without classes, beside masked/norm and masked/bias (V + 2)
    pooler/{kernel,bias}               (d, d)           with classes, beside classifier/{kernel,bias} (d, classes)

Initial values: kernels are normal with standard deviation 1 / sqrt(fan in), embeddings with 1 / sqrt(d); the classifier is
zero, so that training starts at log(classes). BERT's embedding of token types is left out: nothing here has two of them.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.decoder import POSITIONS, embed, turner
from training.cost import Cost
from training.errors import BadInput
from training.nets import blocks, costs, initial, layers
from training.nets.attention import Choice, attend, choose
from training.nets.blocks import Dropout
from training.nets.initial import Leaf

SPECIAL = (
    2  # symbols behind those of the tokenizer: in place of a masked token, and before a text that is to be classified
)


class Encoder(nn.Module):
    """An encoder; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols of the tokenizer; the embedding has `SPECIAL` more.
      classes: of the texts; 0: masked tokens are predicted instead.
      depth, width, heads, mlp_width: shape of the blocks.
      placement: "post" (as in BERT) or "pre".
      norm, norm_eps, activation, bias, qk_norm: as in `lm.decoder.Decoder`.
      positions, rope_theta, max_length: as in `lm.decoder.Decoder`.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
      scan, remat, attention: speed switches, as in `lm.decoder.Decoder`.
    """

    vocab_size: int
    depth: int
    width: int
    heads: int
    mlp_width: int
    classes: int = 0
    placement: str = "post"
    norm: str = "layer"
    norm_eps: float = 1e-12
    positions: str = "learned"
    rope_theta: float = 10_000.0
    max_length: int = 0
    activation: str = "gelu_exact"
    bias: bool = True
    qk_norm: bool = False
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "auto"

    parallel: Literal[False] = False

    @property
    def kv_heads(self) -> int:
        """Every query head has its own key head."""
        return self.heads

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def mask(self) -> int:
        """The symbol in place of a masked token."""
        return self.vocab_size

    @property
    def question(self) -> int:
        """The symbol before a text that is to be classified."""
        return self.vocab_size + 1

    @property
    def attention_choice(self) -> Choice:
        """The attention implementation that this model uses here, and why."""
        return choose(self.attention, self.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> dict[str, Any]:
        """The parameter tree, as in `lm.decoder.Decoder.parameters`."""
        check(self)
        stacks = {"blocks": (blocks.leaves(self), self.depth)}
        return initial.parameters(self, _top(self), stacks, init_scale, self.param_dtype)

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch length width"]:
        """The final states, in the compute dtype.

        Args:
          tokens: ids below `vocab_size + SPECIAL`.
          segments: tokens see those of an equal id alone, and positions restart with it (a pad has an id of its own);
            None: one.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        params, (batch, length) = self.parameters(), tokens.shape
        drop = blocks.dropper(dropout if self.dropout else None)
        places = jnp.arange(length, dtype=jnp.int32) if segments is None else layers.positions_in_segments(segments)
        implementation = self.attention_choice.name

        def mix(q: Array, k: Array, v: Array, kept: None) -> tuple[Array, None]:
            return attend(q, k, v, segments, implementation, causal=False), kept

        x = embed(self, params, tokens, places)
        if self.placement == "post":
            x = blocks.norm(self, params["embed_norm"], x)
        how = {"batch": batch, "turn": turner(self, places), "mix": mix, "drop": drop}
        x, _ = blocks.run(self, params["blocks"], drop(x, -1, 0), None, **how)
        if self.placement == "pre":
            x = blocks.norm(self, params["final_norm"], x)
        return x.reshape(batch, length, self.width)

    def masked(
        self,
        tokens: Int[Array, "batch length"],
        places: Int[Array, "batch masked"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch masked width"], Float[Array, "symbols width"], Float[Array, " symbols"]]:
        """States of the masked tokens, the head (the embedding) and its bias, whose product and sum are the logits.

        Args:
          tokens: as in `hidden`, with what is masked already hidden.
          places: of the masked tokens.
          segments, dropout: as in `hidden`.
        """
        params, states = self.parameters(), self.hidden(tokens, segments, dropout)
        x = jnp.take_along_axis(states, places[..., None], axis=1).reshape(-1, self.width)
        head = params["masked"]
        x = layers.ACTIVATIONS[self.activation][0](blocks.linear(head["transform"], x))
        x = blocks.norm(self, head["norm"], x).reshape(*places.shape, self.width)
        return x, params["embed"]["embedding"].astype(self.compute_dtype), head["bias"]

    def classify(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of the classes of whole texts, read off the first token; arguments as in `hidden`."""
        params = self.parameters()
        drop = blocks.dropper(dropout if self.dropout else None)
        pooled = self.pooled(tokens, segments, dropout)
        x = drop(pooled, self.depth, 0).astype(self.logit_dtype)
        return blocks.linear(params["classifier"], x)

    def pooled(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch width"]:
        """One vector a text, made of the first token's state; arguments as in `hidden`."""
        states = self.hidden(tokens, segments, dropout)
        return jnp.tanh(blocks.linear(self.parameters()["pooler"], states[:, 0]))


def check(model: Encoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    blocks.check(model)
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.positions == "rotary" and model.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.head_width}")
    if model.vocab_size < 1:
        raise BadInput(f"model.vocab_size: must be at least 1, got {model.vocab_size}")
    if layers.ACTIVATIONS[model.activation][1] and not model.classes:
        raise BadInput(f"model.activation: {model.activation} is gated, and the head for masked tokens has no gate")


def cost(model: Encoder, length: int, masked: int) -> Cost:
    """The cost of a model over examples of `length` tokens, of which `masked` are predicted (0: the text has a class)."""
    d, symbols = model.width, model.vocab_size + SPECIAL
    norm = d * (1 + (model.bias and model.norm == "layer"))
    bias = int(model.bias)
    if model.classes:
        heads = {"head": d * d + d + (d + 1) * model.classes}
        products = {"head": 2.0 * d * (d + model.classes)}
    else:
        heads = {"head": d * d + bias * d + norm + symbols}
        products = {"head": 2.0 * masked * d * (d + symbols)}
    products = costs.forward(model, length) | products
    return Cost(
        params={
            "embedding": symbols * d,
            "position": model.max_length * d if model.positions == "learned" else 0,
            **costs.parameters(model),
            **heads,
        },
        embedding=("embedding", "position"),
        forward=products,
        forward_causal=products,
        tokens_per_example=length,
        recompute=costs.recompute(model, products),
    )


def _top(model: Encoder) -> dict[str, Any]:
    d, std = model.width, model.width**-0.5
    symbols = model.vocab_size + SPECIAL

    def dense(columns: int, bias: bool, spread: float) -> dict[str, Leaf]:
        kernel = {"kernel": Leaf((d, columns), ("embed", None), spread)}
        return kernel | ({"bias": Leaf((columns,), (None,))} if bias else {})

    tree: dict[str, Any] = {"embed": {"embedding": Leaf((symbols, d), ("vocab", "embed"), std)}}
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, d), ("position", "embed"), std)}
    tree["embed_norm" if model.placement == "post" else "final_norm"] = blocks.norm_leaves(model, d)
    if model.classes:
        return tree | {"pooler": dense(d, True, std), "classifier": dense(model.classes, True, 0.0)}
    transform = dense(d, model.bias, std)
    bias = Leaf((symbols,), (None,))
    return tree | {"masked": {"transform": transform, "norm": blocks.norm_leaves(model, d), "bias": bias}}
