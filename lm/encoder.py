"""The encoder: transformer blocks that see both ways, with a head for masked tokens or one for classes (Devlin et al. 2018).

Parameters (L layers, d width; the blocks are those of `training/nets/stack.py`):

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

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.decoder import POSITIONS, embed
from training.cost import Cost
from training.errors import BadInput
from training.nets import costs, initial, layers, stack
from training.nets.attention import Choice, choose
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves, count
from training.nets.layers import Dropout, linear, norm, norm_leaves
from training.types import Params

SPECIAL = (
    2  # symbols behind those of the tokenizer: in place of a masked token, and before a text that is to be classified
)


class Encoder(nn.Module):
    """An encoder; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols of the tokenizer; the embedding has `SPECIAL` more.
      blocks: shape and kind of the blocks: BERT's are after-norm layers with biases.
      classes: of the texts; 0: masked tokens are predicted instead.
      positions, rope_theta, max_length: as in `lm.decoder.Decoder`.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    vocab_size: int
    blocks: BlockConfig
    classes: int = 0
    positions: str = "learned"
    rope_theta: float = 10_000.0
    max_length: int = 0
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.blocks.width

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
        return choose(self.blocks.attention, self.blocks.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `lm.decoder.Decoder.parameters`."""
        check(self)
        return initial.parameters(self, _top(self), stack.stacks(self.blocks), init_scale, self.param_dtype)

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch length width"]:
        """The final states, in the compute dtype.

        Args:
          params: the parameters, unboxed.
          tokens: ids below `vocab_size + SPECIAL`.
          segments: tokens see those of an equal id alone, and positions restart with it (a pad has an id of its own);
            None: one.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        config, length = self.blocks, tokens.shape[1]
        drop = layers.dropper(dropout if self.dropout else None)
        positions = jnp.arange(length, dtype=jnp.int32) if segments is None else layers.positions_in_segments(segments)
        rotary = self.rope_theta if self.positions == "rotary" else None
        fields = {"segments": segments, "attention": self.attention_choice.name, "causal": False, "drop": drop}
        context = stack.context(config, positions, rotary, **fields)
        x = embed(self, params, tokens, positions)
        if config.norm_position == "post":
            x = norm(config, params["embed_norm"], x)
        x, _ = stack.apply(config, stack.parameters_of(config, params), drop(x, -1, 0), context)
        return norm(config, params["final_norm"], x) if config.norm_position == "pre" else x

    def masked(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        places: Int[Array, "batch masked"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch masked width"], Float[Array, "symbols width"], Float[Array, " symbols"]]:
        """States of the masked tokens, the head (the embedding) and its bias, whose product and sum are the logits.

        Args:
          params: the parameters, unboxed.
          tokens: as in `hidden`, with what is masked already hidden.
          places: of the masked tokens.
          segments, dropout: as in `hidden`.
        """
        states = self.hidden(params, tokens, segments, dropout)
        x = jnp.take_along_axis(states, places[..., None], axis=1)
        head = params["masked"]
        x = layers.ACTIVATIONS[self.blocks.activation][0](linear(head["transform"], x))
        x = norm(self.blocks, head["norm"], x)
        return x, params["embed"]["embedding"], head["bias"]

    def classify(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of the classes of whole texts, read off the first token; arguments as in `hidden`."""
        drop = layers.dropper(dropout if self.dropout else None)
        pooled = self.pooled(params, tokens, segments, dropout)
        x = drop(pooled, self.blocks.depth, 0).astype(self.logit_dtype)
        return linear(params["classifier"], x)

    def pooled(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch width"]:
        """One vector a text, made of the first token's state; arguments as in `hidden`."""
        states = self.hidden(params, tokens, segments, dropout)
        return jnp.tanh(linear(params["pooler"], states[:, 0]))


def check(model: Encoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    stack.check(model.blocks)
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.positions == "rotary" and model.blocks.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.blocks.head_width}")
    if model.vocab_size < 1:
        raise BadInput(f"model.vocab_size: must be at least 1, got {model.vocab_size}")
    if layers.ACTIVATIONS[model.blocks.activation][1] and not model.classes:
        raise BadInput(
            f"model.activation: {model.blocks.activation} is gated, and the head for masked tokens has no gate"
        )


def cost(model: Encoder, length: int, masked: int) -> Cost:
    """The cost of a model over examples of `length` tokens, of which `masked` are predicted (0: the text has a class)."""
    d, symbols, top = model.width, model.vocab_size + SPECIAL, _top(model)
    head = 2.0 * d * (d + model.classes) if model.classes else 2.0 * masked * d * (d + symbols)
    products, params = costs.forward(model.blocks, length) | {"head": head}, costs.parameters(model.blocks)
    norms = [part for name, part in top.items() if name in ("embed_norm", "final_norm")]
    return Cost(
        params={
            "embedding": count(top["embed"]),
            "position": count(top.get("position", {})),
            **params,
            "norm": params["norm"] + count(norms),
            "head": count([part for name, part in top.items() if name in ("masked", "pooler", "classifier")]),
        },
        embedding=("embedding", "position"),
        forward=products,
        forward_causal=products,
        tokens_per_example=length,
        recompute=costs.recompute(model.blocks, length),
    )


def _top(model: Encoder) -> Leaves:
    d, std = model.width, model.width**-0.5
    symbols = model.vocab_size + SPECIAL

    def dense(columns: int, bias: bool, spread: float) -> dict[str, Leaf]:
        kernel = {"kernel": Leaf((d, columns), ("embed", None), spread)}
        return kernel | ({"bias": Leaf((columns,), (None,))} if bias else {})

    tree: Leaves = {"embed": {"embedding": Leaf((symbols, d), ("vocab", "embed"), std)}}
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, d), ("position", "embed"), std)}
    tree["embed_norm" if model.blocks.norm_position == "post" else "final_norm"] = norm_leaves(model.blocks, d)
    if model.classes:
        return tree | {"pooler": dense(d, True, std), "classifier": dense(model.classes, True, 0.0)}
    transform = dense(d, model.blocks.bias, std)
    bias = Leaf((symbols,), (None,))
    return tree | {"masked": {"transform": transform, "norm": norm_leaves(model.blocks, d), "bias": bias}}
