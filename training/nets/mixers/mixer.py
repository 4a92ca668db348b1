"""The interface of a sequence mixer, and what the blocks of one pass share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, PyTree

from training.nets.block_config import BlockConfig
from training.nets.initial import Leaves
from training.nets.layers import Drop, no_drop
from training.types import Params

Stream = Float[Array, "batch length width"]
LayerCache = PyTree[Array]  # what a mixer keeps of the tokens before; None: there are none
Angles = tuple[Float[Array, "*rows length 1 half"], Float[Array, "*rows length 1 half"]]  # cosines and sines


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What all blocks of one pass are given beside their parameters.

    Attributes:
      positions: of the tokens, within their segments.
      angles: of rotary positions, by the width that they rotate; empty: there are none.
      segments: ids of the document of each token, across which nothing is mixed; None: one document.
      attention: implementation of attention, the name in a `training.nets.attention.Choice`.
      causal: whether a token sees those at or before it only.
      bias: added to the scores of attention; None: nothing.
      drop: of what a block adds to the stream.
      training: whether experts have their capacity and report their routing.
      memory: states that cross attention reads; None: it reads its cache.
      visible_memory: which of them it may see; None: all.
      cached: tokens in the caches before these; 0 without caches.
      span: in generation, how many tokens up to its own position a token attends to.
      probes: what blocks report, by the names in `training.nets.probes`: a flag that says when; None: in every step.
    """

    positions: Int[Array, "*rows length"]
    angles: Mapping[int, Angles] = dataclasses.field(default_factory=dict)
    segments: Int[Array, "batch length"] | None = None
    attention: str = "xla"
    causal: bool = True
    bias: Float[Array, "1 heads length keys"] | None = None
    drop: Drop = no_drop
    training: bool = False
    memory: Float[Array, "batch memory width"] | None = None
    visible_memory: Bool[Array, "batch memory"] | None = None
    cached: Int[Array, ""] | int = 0
    span: Int[Array, ""] | int = 0
    probes: Mapping[str, Bool[Array, ""] | None] = dataclasses.field(default_factory=dict)


class MixerCost(NamedTuple):
    """FLOPs of the forward products of one mixer over an example.

    Attributes:
      projections: products with kernels.
      out: of these, the one that writes to the residual stream.
      scores: products of activations with each other, as they are computed.
      causal: of these, what a causal mask or window keeps.
    """

    projections: float
    out: float
    scores: float = 0.0
    causal: float = 0.0


class Logits(NamedTuple):
    """The logits of a mixer that is softmax attention.

    Attributes:
      of: (config, parameters, x, context) -> queries and keys, whose products over the root of their width they are.
      scaled: (config, parameters, factors [heads]) -> the parameters of one block whose logits are that many times as large.
      window: config -> how many keys up to its own position a query sees; 0: all.
    """

    of: Callable[[BlockConfig, Params, Stream, Context], tuple[Array, Array]]
    scaled: Callable[[BlockConfig, Params, Float[Array, " heads"]], Params]
    window: Callable[[BlockConfig], int] = lambda config: 0


class SequenceMixer(NamedTuple):
    """What mixes the tokens of a sequence in a block.

    Attributes:
      parameters: config -> tree of leaves of one block.
      apply: (config, parameters, x, context) -> what is added to the stream.
      extend: the same with the cache of this block as last argument; returns the longer cache too.
      empty_cache: (config, batch, length, dtype) -> the cache of one block before any token.
      cost: (config, length) -> FLOPs.
      options: keys of `BlockConfig.mixer_options` that it reads, with their defaults.
      branch: name of its parameters in the tree of a block, and of its projections among costs.
      rope_width: config -> features that rotary positions rotate; 0: it has none.
      check: raises BadInput where its options contradict the config.
      fixed_length: whether a program is compiled for one length, rather than for any.
      splits_length: whether devices may share sequences out (the mesh axis "context").
      logits: of softmax attention; None: it has none.
    """

    parameters: Callable[[BlockConfig], Leaves]
    apply: Callable[[BlockConfig, Params, Stream, Context], Stream]
    extend: Callable[[BlockConfig, Params, Stream, Context, LayerCache], tuple[Stream, LayerCache]]
    empty_cache: Callable[[BlockConfig, int, int, str], LayerCache]
    cost: Callable[[BlockConfig, int], MixerCost]
    options: Mapping[str, int]
    branch: str = "attention"
    rope_width: Callable[[BlockConfig], int] = lambda config: 0
    check: Callable[[BlockConfig], None] = lambda config: None
    fixed_length: bool = False
    splits_length: bool = False
    logits: Logits | None = None
