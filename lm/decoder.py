"""The decoder: a pre-norm transformer whose speed switches change neither its parameters nor their initial values.

Parameters (L layers, d width, h head width; biases and norm biases only with `bias`):

    embed/embedding                    (V, d)
    position/embedding                 (length, d)      learned positions only
    blocks/attention_norm/{scale,bias} (L, d)
    blocks/attention/query/kernel      (L, d, heads h)  beside key, value (L, d, kv_heads h) and out (L, heads h, d)
    blocks/attention/{query,key}_norm  (L, h)           qk_norm only
    blocks/mlp_norm/{scale,bias}       (L, d)           not in parallel blocks, which share attention_norm
    blocks/mlp/{up,gate,down}/kernel   (L, d, mlp) and (L, mlp, d); gate only where the activation is gated; with experts see
                                       `training.nets.experts`
    final_norm/{scale,bias}            (d,)
    head/embedding                     (V, d)           untied only

Initial values: every kernel is normal with standard deviation 1 / sqrt(fan in), those that write to the residual stream
(out, down) divided by sqrt(2 L) as in GPT-2 (Radford et al. 2019); embeddings and the head are normal with 1 / sqrt(d);
scales are one, biases zero. `init_scale` multiplies every standard deviation.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from training.errors import BadInput
from training.mesh import constrain
from training.nets import blocks, experts, initial, layers
from training.nets.attention import Choice, attend, attend_cache, choose
from training.nets.blocks import Dropout
from training.nets.initial import Leaf
from training.nets.recurrence import gated_linear

POSITIONS = ("rotary", "learned", "sinusoidal", "none")
MIXERS = ("attention", "linear")
Cache = dict[str, Any]


class Decoder(nn.Module):
    """A causal language model; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols.
      depth: blocks.
      width: features of the residual stream.
      heads: query heads; they divide the width.
      kv_heads: key and value heads; they divide the query heads.
      mlp_width: hidden features of each block's MLP.
      norm: "rms" or "layer".
      norm_eps: added to a norm's variance.
      positions: a name in `POSITIONS`; with "sinusoidal" ones, embeddings are multiplied by sqrt(width).
      rope_theta: the base of rotary frequencies.
      max_length: rows of the table of learned positions.
      activation: a name in `training.nets.layers.ACTIVATIONS`.
      tied: whether the head is the embedding.
      bias: whether projections and layer norms have biases.
      qk_norm: whether each head's queries and keys are RMS-normalised (Dehghani et al. 2023).
      mixer: "attention", or "linear": the gated linear recurrence of `training.nets.recurrence`, whose output gate, forget
        gate and values are what attention calls queries, keys and values.
      parallel: whether attention and MLP read one norm and are added together (Wang and Komatsuzaki 2021).
      experts, experts_per_token, shared_experts, capacity, normalise, dispatch: see `training.nets.experts.Mixture`.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
      scan: one compiled block run `depth` times, instead of `depth` copies of it.
      remat: a name in `training.nets.blocks.REMAT`: what the backward pass computes again.
      attention: a name in `training.nets.attention.IMPLEMENTATIONS`.
    """

    vocab_size: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    norm: str = "rms"
    norm_eps: float = 1e-5
    positions: str = "rotary"
    rope_theta: float = 10_000.0
    max_length: int = 0
    activation: str = "gelu"
    tied: bool = True
    bias: bool = False
    qk_norm: bool = False
    mixer: str = "attention"
    parallel: bool = False
    experts: int = 0
    experts_per_token: int = 1
    shared_experts: int = 0
    capacity: float = 0.0
    normalise: bool = True
    dispatch: str = "auto"
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "auto"

    placement: Literal["pre"] = "pre"

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def attention_choice(self) -> Choice | None:
        """The attention implementation that this model uses here, and why; None where it has no attention."""
        if self.mixer == "linear":
            return None
        return choose(self.attention, self.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> dict[str, Any]:
        """The parameter tree; under `init(key, init_scale, method="parameters")` it is drawn, and nothing else is run.

        Args:
          init_scale: factor of every initial standard deviation; may be traced.
        """
        check(self)
        layer = blocks.leaves(self) | ({"mlp": experts.leaves(self)} if self.experts else {})
        stacks = {"blocks": (layer, self.depth)}
        return initial.parameters(self, top(self), stacks, init_scale, self.param_dtype)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Logits of each next token; arguments as in `hidden`."""
        states, head = self.hidden(tokens, segments, dropout)
        return logits(states, head, self.logit_dtype)

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """The final hidden states and the head, in the compute dtype, whose product are the logits.

        Args:
          tokens: ids below `vocab_size`.
          segments: ids of the document of each token: attention stays within them and positions restart; None: one.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        return self._states(tokens, segments, dropout, training=False)[:2]

    def routed(
        self,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"], dict[str, Float[Array, " depth"]]]:
        """As `hidden`, in training, where experts have their capacity; and what each layer tells of its routing, see
        `training.nets.experts.told`."""
        return self._states(tokens, segments, dropout, training=True)

    def _states(
        self, tokens: Array, segments: Array | None, dropout: Dropout | None, training: bool
    ) -> tuple[Array, Array, Any]:
        params = self.parameters()
        batch, length = tokens.shape
        drop = blocks.dropper(dropout if self.dropout else None)
        places = jnp.arange(length, dtype=jnp.int32) if segments is None else layers.positions_in_segments(segments)
        choice = self.attention_choice
        starts = None if segments is None else places == 0

        def mix(q: Array, k: Array, v: Array, kept: None) -> tuple[Array, None]:
            if choice is None:
                return gated_linear(q, k, v, starts)[0], kept
            return attend(q, k, v, segments, choice.name), kept

        x = drop(embed(self, params, tokens, places), -1, 0)
        how = {"turn": turner(self, places), "mix": mix, "drop": drop, "feed": self._feed(batch, training)}
        x, told = blocks.run(self, params["blocks"], x, None, batch=batch, **how)
        x = blocks.norm(self, params["final_norm"], x)
        return x.reshape(batch, length, self.width), _head(self, params), told

    def _feed(self, batch: int, training: bool) -> Any:
        """What blocks have in place of an MLP; None: nothing."""
        return experts.feed(self, batch, training) if self.experts else None

    def extend(self, tokens: Int[Array, "batch new"], cache: Cache) -> tuple[Float[Array, "batch new vocab"], Cache]:
        """Logits of tokens that continue those in a cache, and the longer cache.

        Args:
          tokens: the next tokens; the cache must have room for them.
          cache: from `empty_cache` or an earlier call.
        """
        params = self.parameters()
        batch, new = tokens.shape
        places = cache["length"] + jnp.arange(new, dtype=jnp.int32)
        # One compiled block, whatever `scan` says: a sampler compiles for a few short steps.
        quick, mix = self.clone(scan=True, remat="none"), self._from_cache(cache, places)
        how = {"batch": batch, "turn": turner(self, places), "mix": mix, "drop": blocks.dropper(None)}
        how["feed"] = self._feed(batch, training=False)
        x = embed(self, params, tokens, places)
        x, kept = blocks.run(quick, params["blocks"], x, cache["kept"], **how)
        x = blocks.norm(self, params["final_norm"], x).reshape(batch, new, self.width)
        longer = cache | {"kept": kept, "length": cache["length"] + new}
        return logits(x, _head(self, params), self.logit_dtype), longer

    def _from_cache(self, cache: Cache, places: Array) -> Callable[..., Any]:
        """What mixes new tokens at those places with what a layer kept of the earlier ones."""
        if self.mixer == "linear":
            return lambda q, k, v, kept: gated_linear(q, k, v, None, kept)
        index = jnp.arange(cache["kept"][0].shape[2])
        visible = (index <= places[:, None]) & (index > places[:, None] - cache["window"])

        def mix(q: Array, k: Array, v: Array, kept: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, rows.astype(old.dtype), cache["length"], axis=1)
                for old, rows in zip(kept, (k, v), strict=True)
            )
            return attend_cache(q, keys, values, visible), (keys, values)

        return mix

    def empty_cache(self, batch: int, length: int, window: Any = None) -> Cache:
        """A cache with room for `length` tokens, of which each attends to the last `window` (itself included); None: all.

        What it keeps of a layer: keys and values [batch, length, kv_heads, head_width], or the recurrence's state."""
        layer = (self.depth, batch, length, self.kv_heads, self.head_width)
        if self.mixer == "linear":
            kept: Any = jnp.zeros((self.depth, batch, self.heads, self.head_width), jnp.float32)
        else:
            kept = (jnp.zeros(layer, self.compute_dtype), jnp.zeros(layer, self.compute_dtype))
        span = jnp.asarray(length if window is None else window, jnp.int32)
        return {"kept": kept, "length": jnp.zeros((), jnp.int32), "window": span}


def check(model: Decoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    blocks.check(model)
    if model.experts:
        experts.check(model)
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.mixer not in MIXERS:
        raise BadInput(f"model.mixer: {model.mixer!r} is not one of {', '.join(MIXERS)}")
    if model.mixer == "linear" and (model.positions != "none" or model.kv_heads != model.heads):
        raise BadInput("model.mixer: a linear recurrence has neither positions nor shared keys")
    if model.vocab_size < 1:
        raise BadInput(f"model.vocab_size: must be at least 1, got {model.vocab_size}")
    if model.positions == "rotary" and model.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.head_width}")
    if model.positions == "learned" and model.max_length < 1:
        raise BadInput("model.positions: learned positions need a maximal length")


# Parameters -----------------------------------------------------------------------------------------------------------


def top(model: Decoder) -> dict[str, dict[str, Leaf]]:
    """The parameters outside the blocks."""
    d, std = model.width, model.width**-0.5
    tree = {
        "embed": {"embedding": Leaf((model.vocab_size, d), ("vocab", "embed"), std)},
        "final_norm": blocks.norm_leaves(model, d),
    }
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, d), ("position", "embed"), std)}
    if not model.tied:
        tree["head"] = {"embedding": Leaf((model.vocab_size, d), ("vocab", "embed"), std)}
    return tree


# The forward pass: activations are (batch x length, width) around projections (see training/nets/blocks.py). -----------


def logits(
    states: Float[Array, "*rows width"], head: Float[Array, "vocab width"], dtype: str
) -> Float[Array, "*rows vocab"]:
    """The product of hidden states and the head, accumulated in `dtype`."""
    return layers.product(states, head.T, dtype)


def embed(model: Any, params: Any, tokens: Array, places: Array) -> Array:
    """The embeddings of tokens (batch x length, width), with learned or sinusoidal positions where the model has them.

    Args:
      model: has `compute_dtype`, `width`, `positions` and `max_length`.
      places: of the tokens, [length] or [batch, length].

    Raises:
      BadInput: more tokens than learned positions.
    """
    dtype = model.compute_dtype
    x = params["embed"]["embedding"].astype(dtype)[tokens]
    if model.positions == "learned":
        if places.shape[-1] > model.max_length:
            raise BadInput(f"{places.shape[-1]} tokens are more than the {model.max_length} learned positions")
        x += params["position"]["embedding"].astype(dtype)[places]
    if model.positions == "sinusoidal":
        x = model.width**0.5 * x + layers.sinusoids(places, model.width).astype(dtype)
    return constrain(x.reshape(-1, model.width), "batch", None)


def _head(model: Decoder, params: Any) -> Array:
    return params["embed" if model.tied else "head"]["embedding"].astype(model.compute_dtype)


def turner(model: Any, places: Array) -> Callable[[Array], Array]:
    """Applies rotary positions to queries or keys; the identity for other positions.

    Args:
      model: has `positions`, `head_width` and `rope_theta`.
      places: of the tokens, [length] or [batch, length].
    """
    if model.positions != "rotary":
        return lambda x: x
    cos, sin = layers.rotary_angles(places, model.head_width, model.rope_theta)
    return lambda x: layers.rotate(x, cos, sin)
