"""The encoder-decoder: one stack reads a source both ways, the other continues a target and attends to what was read.

With the defaults it is T5's (Raffel et al. 2019): norms before the branches, relative positions, no biases. With
`placement="post", norm="layer", positions="sinusoidal", bias=True` it is the original one (Vaswani et al. 2017).

Parameters (L layers, d width, h heads; the blocks are those of `training/nets/blocks.py`):

    embed/embedding                      (V, d)       of both sides; V with the sentinels
    position/embedding                   (length, d)  learned positions only
    {encoder,decoder}_relative/embedding (buckets, h) relative positions only; of all blocks of a stack
    {encoder,decoder}_norm/{scale,bias}  (d,)         norms before the branches only: the final ones
    encoder_blocks/...                   (L, ...)
    decoder_blocks/...                   (L, ...)     with cross/{query,key,value,out} and cross_norm beside the others
    head/embedding                       (V, d)       untied only

Initial values: as in `lm.decoder`; relative positions begin at zero.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm import decoder
from lm.decoder import Cache, embed, logits, turner
from training.cost import Cost
from training.errors import BadInput
from training.nets import blocks, costs, initial, layers
from training.nets.attention import Choice, attend, attend_cache, attend_memory, choose
from training.nets.blocks import Dropout
from training.nets.initial import Leaf

POSITIONS = ("relative", *decoder.POSITIONS)
Seen = Bool[Array, "batch source"]


class EncoderDecoder(nn.Module):
    """An encoder-decoder; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols of the tokenizer.
      sentinels: symbols behind these, which stand for what was cut out (`lm.objectives.spans`).
      encoder_depth, depth: blocks of the encoder and of the decoder.
      width, heads, mlp_width: shape of the blocks.
      placement: "pre" or "post".
      norm, norm_eps, activation, tied, bias, qk_norm: as in `lm.decoder.Decoder`.
      positions: "relative" (Raffel et al. 2019, 2.1), or as in `lm.decoder.Decoder`.
      rope_theta, max_length: as in `lm.decoder.Decoder`.
      buckets, farthest: of relative positions.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
      scan, remat, attention: speed switches, as in `lm.decoder.Decoder`.
    """

    vocab_size: int
    encoder_depth: int
    depth: int
    width: int
    heads: int
    mlp_width: int
    placement: str = "pre"
    norm: str = "rms"
    norm_eps: float = 1e-6
    positions: str = "relative"
    rope_theta: float = 10_000.0
    max_length: int = 0
    buckets: int = 32
    farthest: int = 128
    activation: str = "relu"
    tied: bool = True
    bias: bool = False
    qk_norm: bool = False
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "auto"
    sentinels: int = 0

    parallel: Literal[False] = False

    @property
    def symbols(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size + self.sentinels

    @property
    def kv_heads(self) -> int:
        """Every query head has its own key head."""
        return self.heads

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def encoder(self) -> "EncoderDecoder":
        """The same model as deep as its encoder."""
        return self.clone(depth=self.encoder_depth)

    @property
    def attention_choice(self) -> Choice:
        """The implementation of self-attention that this model uses here, and why."""
        if self.positions == "relative" and self.attention == "auto":
            return Choice("xla", "relative positions are added to the scores")
        return choose(self.attention, self.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> dict[str, Any]:
        """The parameter tree, as in `lm.decoder.Decoder.parameters`."""
        check(self)
        stacks = {
            "encoder_blocks": (blocks.leaves(self.encoder), self.encoder_depth),
            "decoder_blocks": (blocks.leaves(self, cross=True), self.depth),
        }
        return initial.parameters(self, _top(self), stacks, init_scale, self.param_dtype)

    def encode(
        self, source: Int[Array, "batch source"], seen: Seen | None = None, dropout: Dropout | None = None
    ) -> Float[Array, "batch source width"]:
        """What the encoder makes of a source.

        Args:
          source: ids below `symbols`.
          seen: which tokens are no pads; None: all.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        params, (batch, length) = self.parameters(), source.shape
        places = jnp.arange(length, dtype=jnp.int32)
        drop, choice = blocks.dropper(dropout if self.dropout else None), self.attention_choice
        segments = None if seen is None else jnp.where(seen, 0, -1)
        bias = self._bias(params, "encoder", places, places)

        def mix(q: Array, k: Array, v: Array, kept: None) -> tuple[Array, None]:
            return attend(q, k, v, segments, choice.name, causal=False, bias=bias), kept

        how = {"batch": batch, "turn": turner(self, places), "mix": mix, "drop": drop}
        x = drop(embed(self, params, source, places), -1, 0)
        x, _ = blocks.run(self.encoder, params["encoder_blocks"], x, None, **how)
        return self._final(params, "encoder", x).reshape(batch, length, self.width)

    def hidden(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"],
        seen: Seen | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch target width"], Float[Array, "vocab width"]]:
        """The final states of the target, and the head, whose product are the logits of each next token.

        Args:
          source, seen: as in `encode`.
          target: what the decoder reads; pads at its end reach nothing before them.
          dropout: as in `encode`.
        """
        params, (batch, length) = self.parameters(), target.shape
        read, written = (None, None) if dropout is None else [(key, dropout[1]) for key in jax.random.split(dropout[0])]
        memory = self.encode(source, seen, read)
        places = jnp.arange(length, dtype=jnp.int32)
        drop, choice = blocks.dropper(written if self.dropout else None), self.attention_choice
        bias = self._bias(params, "decoder", places, places)

        def mix(q: Array, k: Array, v: Array, kept: None) -> tuple[Array, None]:
            return attend(q, k, v, None, choice.name, bias=bias), kept

        def cross(p: Any, x: Array, kept: None) -> Array:
            del kept
            return self._attend_memory(p, x, batch, self._remembered(p, memory), seen)

        how = {"batch": batch, "turn": turner(self, places), "mix": mix, "drop": drop, "cross": cross}
        x = drop(embed(self, params, target, places), -1, 0)
        x, _ = blocks.run(self, params["decoder_blocks"], x, None, **how)
        return self._final(params, "decoder", x).reshape(batch, length, self.width), self._head(params)

    def begin(self, source: Int[Array, "batch source"], seen: Seen, length: int) -> Cache:
        """A cache of what was read, with room for a target of `length` tokens; arguments as of `encode`."""
        params, batch = self.parameters(), source.shape[0]
        memory = self.encode(source, seen)
        remembered = jax.vmap(lambda p: self._remembered(p, memory))(params["decoder_blocks"]["cross"])
        empty = jnp.zeros((self.depth, batch, length, self.heads, self.head_width), self.compute_dtype)
        return {
            "kept": {"self": (empty, empty), "memory": remembered},
            "seen": seen,
            "length": jnp.zeros((), jnp.int32),
        }

    def extend(self, tokens: Int[Array, "batch new"], cache: Cache) -> tuple[Float[Array, "batch new vocab"], Cache]:
        """Logits of target tokens that continue those in a cache from `begin`, and the longer cache."""
        params, (batch, new) = self.parameters(), tokens.shape
        places = cache["length"] + jnp.arange(new, dtype=jnp.int32)
        index = jnp.arange(cache["kept"]["self"][0].shape[2])
        visible, bias = index <= places[:, None], self._bias(params, "decoder", places, index)

        def mix(q: Array, k: Array, v: Array, kept: Any) -> tuple[Array, Any]:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, rows.astype(old.dtype), cache["length"], axis=1)
                for old, rows in zip(kept["self"], (k, v), strict=True)
            )
            return attend_cache(q, keys, values, visible, bias), kept | {"self": (keys, values)}

        def cross(p: Any, x: Array, kept: Any) -> Array:
            return self._attend_memory(p, x, batch, kept["memory"], cache["seen"])

        # One compiled block, whatever `scan` says: a sampler compiles for a few short steps.
        quick = self.clone(scan=True, remat="none")
        how = {"batch": batch, "turn": turner(self, places), "mix": mix, "drop": blocks.dropper(None), "cross": cross}
        x, kept = blocks.run(quick, params["decoder_blocks"], embed(self, params, tokens, places), cache["kept"], **how)
        x = self._final(params, "decoder", x).reshape(batch, new, self.width)
        longer = cache | {"kept": kept, "length": cache["length"] + new}
        return logits(x, self._head(params), self.logit_dtype), longer

    def _remembered(self, p: Any, memory: Float[Array, "batch source width"]) -> tuple[Array, Array]:
        """Keys and values of a layer for what was read."""
        batch, length, width = memory.shape
        rows = memory.reshape(-1, width)
        both = blocks.linears([p["key"], p["value"]], rows)
        k, v = (part.reshape(batch, length, self.heads, -1) for part in both)
        return (layers.rms_norm(k, p["key_norm"]["scale"], self.norm_eps) if self.qk_norm else k), v

    def _attend_memory(self, p: Any, x: Array, batch: int, remembered: tuple[Array, Array], seen: Any) -> Array:
        q = blocks.linear(p["query"], x).reshape(batch, -1, self.heads, self.head_width)
        if self.qk_norm:
            q = layers.rms_norm(q, p["query_norm"]["scale"], self.norm_eps)
        return blocks.linear(p["out"], attend_memory(q, *remembered, seen).reshape(x.shape[0], -1))

    def _bias(self, params: Any, side: str, queries: Array, keys: Array) -> Float[Array, "1 heads new length"] | None:
        if self.positions != "relative":
            return None
        buckets = layers.relative_buckets(queries, keys, self.buckets, self.farthest, side == "decoder")
        table = params[f"{side}_relative"]["embedding"].astype(self.compute_dtype)
        return jnp.moveaxis(table[buckets], -1, 0)[None]

    def _final(self, params: Any, side: str, x: Array) -> Array:
        return blocks.norm(self, params[f"{side}_norm"], x) if self.placement == "pre" else x

    def _head(self, params: Any) -> Array:
        return params["embed" if self.tied else "head"]["embedding"].astype(self.compute_dtype)


def check(model: EncoderDecoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    blocks.check(model)
    if model.sentinels < 0:
        raise BadInput(f"model.sentinels: must not be negative, got {model.sentinels}")
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.encoder_depth < 1:
        raise BadInput(f"model.encoder_depth: must be at least 1, got {model.encoder_depth}")
    if model.positions == "relative" and model.attention_choice.name != "xla":
        raise BadInput(f"model.attention: {model.attention} adds nothing to scores, as relative positions want")
    if model.positions == "relative" and not 4 <= model.buckets // 2 * 2 <= model.farthest:
        raise BadInput(f"model.buckets: want at least 4, and at most {model.farthest} (farthest), got {model.buckets}")
    if model.positions == "rotary" and model.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.head_width}")


def cost(model: EncoderDecoder, source: int, target: int) -> Cost:
    """The cost of a model over examples of `source` tokens read and `target` tokens predicted."""
    d, shallow = model.width, model.encoder
    read, written = costs.forward(shallow, source), costs.forward(model, target, memory=source)
    own = model.depth * 4.0 * target * target * d  # of the decoder's scores, those of its own tokens
    products = {f"encoder_{name}": flops for name, flops in read.items()}
    products |= {f"decoder_{name}": flops for name, flops in written.items()}
    products["head"] = 2.0 * target * d * model.symbols
    causal = products | {"decoder_scores": products["decoder_scores"] - own * (target - 1) / (2 * target)}
    params = {"embedding": model.symbols * d}
    params["position"] = model.max_length * d if model.positions == "learned" else 0
    params["relative"] = 2 * model.buckets * model.heads if model.positions == "relative" else 0
    final = d * (1 + (model.bias and model.norm == "layer")) if model.placement == "post" else 0
    for side, found in (("encoder", costs.parameters(shallow)), ("decoder", costs.parameters(model, cross=True))):
        params |= {f"{side}_{name}": number for name, number in found.items()}
        params[f"{side}_norm"] -= final
    params["head"] = 0 if model.tied else model.symbols * d
    return Cost(
        params=params,
        embedding=("embedding", "position"),
        forward=products,
        forward_causal=causal,
        tokens_per_example=source + target,
        recompute=costs.recompute(shallow, read) + costs.recompute(model, written),
    )


def _top(model: EncoderDecoder) -> dict[str, Any]:
    table = Leaf((model.symbols, model.width), ("vocab", "embed"), model.width**-0.5)
    tree: dict[str, Any] = {"embed": {"embedding": table}}
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, model.width), ("position", "embed"), table.std)}
    for side in ("encoder", "decoder"):
        if model.positions == "relative":
            tree[f"{side}_relative"] = {"embedding": Leaf((model.buckets, model.heads), ("position", "heads"))}
        if model.placement == "pre":
            tree[f"{side}_norm"] = blocks.norm_leaves(model, model.width)
    return tree if model.tied else tree | {"head": {"embedding": table}}
