"""The decoder: a pre-norm transformer whose speed switches change neither its parameters nor their initial values.

Parameters (L layers, d width, h head width; biases and norm biases only with `bias`):

    embed/embedding                    (V, d)
    position/embedding                 (length, d)      learned positions only
    blocks/attention_norm/{scale,bias} (L, d)
    blocks/attention/query/kernel      (L, d, heads h)  beside key, value (L, d, kv_heads h) and out (L, heads h, d)
    blocks/attention/{query,key}_norm  (L, h)           qk_norm only
    blocks/mlp_norm/{scale,bias}       (L, d)           not in parallel blocks, which share attention_norm
    blocks/mlp/{up,gate,down}/kernel   (L, d, mlp) and (L, mlp, d); gate only where the activation is gated; with experts see
                                       `training.nets.ffn.moe`
    final_norm/{scale,bias}            (d,)
    head/embedding                     (V, d)           untied only

Initial values: every kernel is normal with standard deviation 1 / sqrt(fan in), those that write to the residual stream
(out, down) divided by sqrt(2 L) as in GPT-2 (Radford et al. 2019); embeddings and the head are normal with 1 / sqrt(d);
scales are one, biases zero. `init_scale` multiplies every standard deviation.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from training.errors import BadInput
from training.mesh import constrain
from training.nets import initial, layers, stack
from training.nets.attention import Choice, choose
from training.nets.block_config import BlockConfig, replace
from training.nets.initial import Leaf, Leaves
from training.nets.layers import Dropout, norm, norm_leaves
from training.nets.mixers.mixer import Context
from training.types import Params

POSITIONS = ("rotary", "learned", "sinusoidal", "none")
ATTENTION = ("attention", "local_attention", "latent_attention")  # mixers that the choice of an implementation concerns
Cache = dict[str, Any]  # {"layers": of every stack, "length": tokens in it, "span": see `Decoder.empty_cache`}


class Decoder(nn.Module):
    """A causal language model; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols.
      blocks: shape and kind of the blocks.
      positions: a name in `POSITIONS`; with "sinusoidal" ones, embeddings are multiplied by sqrt(width).
      rope_theta: the base of rotary frequencies.
      max_length: rows of the table of learned positions.
      tied: whether the head is the embedding.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      logit_multiplier: of the final hidden states, hence of the logits, under a parametrization.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    vocab_size: int
    blocks: BlockConfig
    positions: str = "rotary"
    rope_theta: float = 10_000.0
    max_length: int = 0
    tied: bool = True
    dropout: bool = False
    logit_multiplier: float = 1.0
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.blocks.width

    @property
    def attention_choice(self) -> Choice | None:
        """The attention implementation that this model uses here, and why; None where it has no attention."""
        pattern = set(self.blocks.pattern)
        if not pattern & set(ATTENTION):
            return None
        plain = pattern.isdisjoint(ATTENTION[1:])
        return choose(self.blocks.attention, self.blocks.head_width, self.compute_dtype, plain=plain)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, drawn; see `training.nets.initial.variables`.

        Args:
          init_scale: factor of every initial standard deviation; may be traced.
        """
        check(self)
        return initial.parameters(self, top(self), stack.stacks(self.blocks), init_scale, self.param_dtype)

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Logits of each next token; arguments as in `hidden`."""
        states, head = self.hidden(params, tokens, segments, dropout)
        return logits(states, head, self.logit_dtype)

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """The final hidden states and the head, in the compute dtype, whose product are the logits.

        Args:
          params: the parameters, unboxed.
          tokens: ids below `vocab_size`.
          segments: ids of the document of each token: attention stays within them and positions restart; None: one.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        return self._states(params, tokens, segments, dropout, training=False)[:2]

    def routed(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
        probes: Mapping[str, Bool[Array, ""] | None] = MappingProxyType({}),
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"], stack.Metrics]:
        """As `hidden`, in training, where experts have their capacity; and metrics of every layer that has them: of the
        routing of experts, see `training.nets.ffn.moe.routing_metrics`, and the `probes` of the context."""
        return self._states(params, tokens, segments, dropout, training=True, probes=probes)

    def _states(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None,
        dropout: Dropout | None,
        training: bool,
        probes: Mapping[str, Bool[Array, ""] | None] = MappingProxyType({}),
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"], stack.Metrics]:
        length = tokens.shape[1]
        drop = layers.dropper(dropout if self.dropout else None)
        positions = jnp.arange(length, dtype=jnp.int32) if segments is None else layers.positions_in_segments(segments)
        context = self._context(positions, segments=segments, drop=drop, training=training, probes=probes)
        x = drop(embed(self, params, tokens, positions), -1, 0)
        x, metrics = stack.apply(self.blocks, stack.parameters_of(self.blocks, params), x, context)
        return _final(self, params, x), _head(self, params), metrics

    def _context(self, positions: Int[Array, "*rows length"], **fields: Any) -> Context:
        choice, rotary = self.attention_choice, self.rope_theta if self.positions == "rotary" else None
        return stack.context(self.blocks, positions, rotary, attention=choice.name if choice else "", **fields)

    def extend(
        self, params: Params, tokens: Int[Array, "batch new"], cache: Cache
    ) -> tuple[Float[Array, "batch new vocab"], Cache]:
        """Logits of tokens that continue those in a cache, and the longer cache.

        Args:
          params: the parameters, unboxed.
          tokens: the next tokens; the cache must have room for them.
          cache: from `empty_cache` or an earlier call.
        """
        new = tokens.shape[1]
        positions = cache["length"] + jnp.arange(new, dtype=jnp.int32)
        context = self._context(positions, cached=cache["length"], span=cache["span"])
        # One compiled repetition, whatever `scan` says: a sampler compiles for a few short steps.
        quick = replace(self.blocks, scan=True, remat="none")
        x = embed(self, params, tokens, positions)
        x, longer = stack.extend(quick, stack.parameters_of(quick, params), x, context, cache["layers"])
        x = _final(self, params, x)
        after = {"layers": longer, "length": cache["length"] + new, "span": cache["span"]}
        return logits(x, _head(self, params), self.logit_dtype), after

    def empty_cache(self, batch: int, length: int, span: Int[Array, ""] | int | None = None) -> Cache:
        """A cache with room for `length` tokens, of which each attends to the last `span` (itself included); None: all."""
        return {
            "layers": stack.empty_caches(self.blocks, batch, length, self.compute_dtype),
            "length": jnp.zeros((), jnp.int32),
            "span": jnp.asarray(length if span is None else span, jnp.int32),
        }


def check(model: Decoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    stack.check(model.blocks)
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.vocab_size < 1:
        raise BadInput(f"model.vocab_size: must be at least 1, got {model.vocab_size}")
    if model.positions == "rotary" and model.blocks.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.blocks.head_width}")
    if model.positions == "learned" and model.max_length < 1:
        raise BadInput("model.positions: learned positions need a maximal length")


# Parameters -----------------------------------------------------------------------------------------------------------


def top(model: Decoder) -> Leaves:
    """The parameters outside the blocks."""
    d, std = model.width, model.width**-0.5
    tree: Leaves = {
        "embed": {"embedding": Leaf((model.vocab_size, d), ("vocab", "embed"), std)},
        "final_norm": norm_leaves(model.blocks, d),
    }
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, d), ("position", "embed"), std)}
    if not model.tied:
        tree["head"] = {"embedding": Leaf((model.vocab_size, d), ("vocab", "embed"), std)}
    return tree


# The forward pass -----------------------------------------------------------------------------------------------------


def logits(
    states: Float[Array, "*rows width"], head: Float[Array, "vocab width"], dtype: str
) -> Float[Array, "*rows vocab"]:
    """The product of hidden states and the head in the dtype of the states, accumulated in `dtype`."""
    return layers.product(states, head.T.astype(states.dtype), dtype)


def embed(
    model: Any, params: Params, tokens: Int[Array, "batch length"], positions: Int[Array, "*rows length"]
) -> Float[Array, "batch length width"]:
    """The embeddings of tokens, with learned or sinusoidal positions where the model has them.

    Args:
      model: has `compute_dtype`, `width`, `positions` and `max_length`.
      params: of the model.
      tokens: ids.
      positions: of the tokens.

    Raises:
      BadInput: more tokens than learned positions.
    """
    dtype = model.compute_dtype
    x = constrain(layers.embedded(params["embed"]["embedding"], tokens, dtype), "batch", None, "embed_in_context")
    if model.positions == "learned":
        if positions.shape[-1] > model.max_length:
            raise BadInput(f"{positions.shape[-1]} tokens are more than the {model.max_length} learned positions")
        x += layers.embedded(params["position"]["embedding"], positions, dtype)
    if model.positions == "sinusoidal":
        x = model.width**0.5 * x + layers.sinusoids(positions, model.width).astype(dtype)
    return constrain(x, "batch", "length", None)


def _final(model: Decoder, params: Params, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """The final hidden states of the stream behind the blocks."""
    states = norm(model.blocks, params["final_norm"], x)
    return states if model.logit_multiplier == 1.0 else states * model.logit_multiplier


def _head(model: Decoder, params: Params) -> Float[Array, "vocab width"]:
    return params["embed" if model.tied else "head"]["embedding"]
