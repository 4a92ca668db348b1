"""The encoder-decoder: one stack reads a source both ways, the other continues a target and attends to what was read.

With the defaults it is T5's (Raffel et al. 2019): norms before the branches, relative positions, no biases. With
`norm_position="post"`, layer norms with biases and `positions="sinusoidal"` it is the original one (Vaswani et al. 2017).

Parameters (L layers, d width, h heads; the blocks are those of `training/nets/stack.py`):

    embed/embedding                      (V, d)       of both sides; V with the sentinels
    position/embedding                   (length, d)  learned positions only
    {encoder,decoder}_relative/embedding (buckets, h) relative positions only; of all blocks of a stack
    {encoder,decoder}_norm/{scale,bias}  (d,)         norms before the branches only: the final ones
    encoder_blocks/...                   (L, ...)
    decoder_blocks/...                   (L, ...)     with cross/{query,key,value,out} and cross_norm beside the others
    head/embedding                       (V, d)       untied only

Initial values: as in `lm.decoder`; relative positions begin at zero.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm import decoder
from lm.decoder import Cache, embed, logits
from training.cost import Cost
from training.errors import BadInput
from training.nets import costs, initial, layers, stack
from training.nets.attention import Choice, choose
from training.nets.block_config import BlockConfig, replace
from training.nets.initial import Leaf, Leaves, count
from training.nets.layers import Dropout, norm, norm_leaves
from training.nets.mixers import cross_attention
from training.nets.mixers.mixer import Context
from training.types import Params

POSITIONS = ("relative", *decoder.POSITIONS)
Seen = Bool[Array, "batch source"]


class EncoderDecoder(nn.Module):
    """An encoder-decoder; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols of the tokenizer.
      blocks: shape and kind of the decoder's blocks; the encoder's differ in their number, and attend to no memory.
      encoder_depth: blocks of the encoder.
      sentinels: symbols behind the tokenizer's, which stand for what was cut out (`lm.objectives.spans`).
      positions: "relative" (Raffel et al. 2019, 2.1), or as in `lm.decoder.Decoder`.
      rope_theta, max_length, tied: as in `lm.decoder.Decoder`.
      relative_attention_num_buckets, relative_attention_max_distance: of relative positions.
      dropout: whether embeddings and block outputs are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    vocab_size: int
    blocks: BlockConfig
    encoder_depth: int
    sentinels: int = 0
    positions: str = "relative"
    rope_theta: float = 10_000.0
    max_length: int = 0
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    tied: bool = True
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.blocks.width

    @property
    def symbols(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size + self.sentinels

    @property
    def encoder_blocks(self) -> BlockConfig:
        """The blocks that read the source."""
        return replace(self.blocks, depth=self.encoder_depth, cross_attention=False)

    @property
    def decoder_blocks(self) -> BlockConfig:
        """The blocks that continue the target."""
        return replace(self.blocks, cross_attention=True)

    @property
    def attention_choice(self) -> Choice:
        """The implementation of self-attention that this model uses here, and why."""
        if self.positions == "relative" and self.blocks.attention == "auto":
            return Choice("xla", "relative positions are added to the scores")
        return choose(self.blocks.attention, self.blocks.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `lm.decoder.Decoder.parameters`."""
        check(self)
        stacks = stack.stacks(self.encoder_blocks, "encoder_") | stack.stacks(self.decoder_blocks, "decoder_")
        return initial.parameters(self, _top(self), stacks, init_scale, self.param_dtype)

    def encode(
        self,
        params: Params,
        source: Int[Array, "batch source"],
        seen: Seen | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch source width"]:
        """What the encoder makes of a source.

        Args:
          params: the parameters, unboxed.
          source: ids below `symbols`.
          seen: which tokens are no pads; None: all.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        positions = jnp.arange(source.shape[1], dtype=jnp.int32)
        drop = layers.dropper(dropout if self.dropout else None)
        segments = None if seen is None else jnp.where(seen, 0, -1)
        bias = self._bias(params, "encoder", positions, positions)
        fields = {"segments": segments, "causal": False, "bias": bias, "drop": drop}
        x = drop(embed(self, params, source, positions), -1, 0)
        x = self._run("encoder", params, x, self._context(self.encoder_blocks, positions, **fields))
        return self._final(params, "encoder", x)

    def hidden(
        self,
        params: Params,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"],
        seen: Seen | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch target width"], Float[Array, "vocab width"]]:
        """The final states of the target, and the head, whose product are the logits of each next token.

        Args:
          params, source, seen: as in `encode`.
          target: what the decoder reads; pads at its end reach nothing before them.
          dropout: as in `encode`.
        """
        positions = jnp.arange(target.shape[1], dtype=jnp.int32)
        read, written = (None, None) if dropout is None else [(key, dropout[1]) for key in jax.random.split(dropout[0])]
        memory = self.encode(params, source, seen, read)
        drop = layers.dropper(written if self.dropout else None)
        bias = self._bias(params, "decoder", positions, positions)
        fields = {"bias": bias, "drop": drop, "memory": memory, "visible_memory": seen}
        x = drop(embed(self, params, target, positions), -1, 0)
        x = self._run("decoder", params, x, self._context(self.decoder_blocks, positions, **fields))
        return self._final(params, "decoder", x), self._head(params)

    def begin(self, params: Params, source: Int[Array, "batch source"], seen: Seen, length: int) -> Cache:
        """A cache of what was read, with room for a target of `length` tokens; arguments as of `encode`."""
        config = self.decoder_blocks
        memory = self.encode(params, source, seen)
        caches = stack.empty_caches(config, source.shape[0], length, self.compute_dtype)
        for name, p in stack.parameters_of(config, params, "decoder_").items():
            remembered = jax.vmap(lambda p: cross_attention.remember(config, p, memory))(p["cross"])
            caches[name] |= {"memory": remembered}
        return {"layers": caches, "seen": seen, "length": jnp.zeros((), jnp.int32), "span": jnp.int32(length)}

    def extend(
        self, params: Params, tokens: Int[Array, "batch new"], cache: Cache
    ) -> tuple[Float[Array, "batch new vocab"], Cache]:
        """Logits of target tokens that continue those in a cache from `begin`, and the longer cache."""
        new = tokens.shape[1]
        positions = cache["length"] + jnp.arange(new, dtype=jnp.int32)
        room = jax.tree.leaves(cache["layers"][next(iter(cache["layers"]))]["mixer"])[0].shape[2]
        bias = self._bias(params, "decoder", positions, jnp.arange(room))
        # One compiled block, whatever `scan` says: a sampler compiles for a few short steps.
        quick = replace(self.decoder_blocks, scan=True, remat="none")
        fields = {"bias": bias, "visible_memory": cache["seen"], "cached": cache["length"], "span": cache["span"]}
        context, x = self._context(quick, positions, **fields), embed(self, params, tokens, positions)
        x, longer = stack.extend(quick, stack.parameters_of(quick, params, "decoder_"), x, context, cache["layers"])
        after = cache | {"layers": longer, "length": cache["length"] + new}
        return logits(self._final(params, "decoder", x), self._head(params), self.logit_dtype), after

    def _context(self, config: BlockConfig, positions: Int[Array, " length"], **fields: Any) -> Context:
        rotary = self.rope_theta if self.positions == "rotary" else None
        return stack.context(config, positions, rotary, attention=self.attention_choice.name, **fields)

    def _run(self, side: str, params: Params, x: Array, context: Context) -> Float[Array, "batch length width"]:
        config = self.encoder_blocks if side == "encoder" else self.decoder_blocks
        return stack.apply(config, stack.parameters_of(config, params, f"{side}_"), x, context)[0]

    def _bias(
        self, params: Params, side: str, queries: Array, keys: Array
    ) -> Float[Array, "1 heads new length"] | None:
        if self.positions != "relative":
            return None
        buckets = layers.relative_buckets(
            queries,
            keys,
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
            side == "decoder",
        )
        added = layers.embedded(params[f"{side}_relative"]["embedding"], buckets, self.compute_dtype)
        return jnp.moveaxis(added, -1, 0)[None]

    def _final(self, params: Params, side: str, x: Array) -> Array:
        return norm(self.blocks, params[f"{side}_norm"], x) if self.blocks.norm_position == "pre" else x

    def _head(self, params: Params) -> Float[Array, "vocab width"]:
        return params["embed" if self.tied else "head"]["embedding"]


def check(model: EncoderDecoder) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    stack.check(model.blocks)
    if model.sentinels < 0:
        raise BadInput(f"model.sentinels: must not be negative, got {model.sentinels}")
    if model.positions not in POSITIONS:
        raise BadInput(f"model.positions: {model.positions!r} is not one of {', '.join(POSITIONS)}")
    if model.encoder_depth < 1:
        raise BadInput(f"model.encoder_depth: must be at least 1, got {model.encoder_depth}")
    if model.positions == "relative" and model.attention_choice.name != "xla":
        raise BadInput(f"model.attention: {model.blocks.attention} adds nothing to scores, as relative positions want")
    buckets, distance = model.relative_attention_num_buckets, model.relative_attention_max_distance
    if model.positions == "relative" and not 4 <= buckets // 2 * 2 <= distance:
        raise BadInput(
            f"model.relative_attention_num_buckets: want at least 4, and at most {distance} "
            f"(relative_attention_max_distance), got {buckets}"
        )
    if model.positions == "rotary" and model.blocks.head_width % 2:
        raise BadInput(f"model.heads: rotary positions need an even head width, got {model.blocks.head_width}")


def cost(model: EncoderDecoder, source: int, target: int) -> Cost:
    """The cost of a model over examples of `source` tokens read and `target` tokens predicted."""
    shallow, deep, top = model.encoder_blocks, model.decoder_blocks, _top(model)
    read, written = costs.forward(shallow, source), costs.forward(deep, target, source)
    kept = costs.forward(deep, target, source, causal=True)
    head = {"head": 2.0 * target * model.width * model.symbols}
    reading = {f"encoder_{name}": flops for name, flops in read.items()}
    params = {"embedding": count(top["embed"]), "position": count(top.get("position", {}))}
    params["relative"] = count([part for name, part in top.items() if name.endswith("_relative")])
    for side, config in (("encoder", shallow), ("decoder", deep)):
        params |= {f"{side}_{name}": number for name, number in costs.parameters(config).items()}
        params[f"{side}_norm"] += count(top.get(f"{side}_norm", {}))
    params["head"] = count(top.get("head", {}))
    return Cost(
        params=params,
        embedding=("embedding", "position"),
        forward=reading | {f"decoder_{name}": flops for name, flops in written.items()} | head,
        forward_causal=reading | {f"decoder_{name}": flops for name, flops in kept.items()} | head,
        tokens_per_example=source + target,
        recompute=costs.recompute(shallow, source) + costs.recompute(deep, target, source),
    )


def _top(model: EncoderDecoder) -> Leaves:
    table = Leaf((model.symbols, model.width), ("vocab", "embed"), model.width**-0.5)
    tree: Leaves = {"embed": {"embedding": table}}
    if model.positions == "learned":
        tree["position"] = {"embedding": Leaf((model.max_length, model.width), ("position", "embed"), table.std)}
    buckets = model.relative_attention_num_buckets
    for side in ("encoder", "decoder"):
        if model.positions == "relative":
            tree[f"{side}_relative"] = {"embedding": Leaf((buckets, model.blocks.heads), ("position", "heads"))}
        if model.blocks.norm_position == "pre":
            tree[f"{side}_norm"] = norm_leaves(model.blocks, model.width)
    return tree if model.tied else tree | {"head": {"embedding": table}}
