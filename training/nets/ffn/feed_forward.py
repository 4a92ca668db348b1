"""The interface of what follows the sequence mixer in a block."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from training.nets.block_config import BlockConfig
from training.nets.initial import Leaves
from training.nets.mixers.mixer import Context, Stream
from training.types import Params

Metrics = dict[str, Float[Array, ""]]


class FeedForwardCost(NamedTuple):
    """FLOPs of the forward products of one feed-forward part over an example, in training.

    Attributes:
      products: by component.
      last: of these, the product whose result only enters the residual stream.
    """

    products: dict[str, float]
    last: float


class FeedForward(NamedTuple):
    """What a block computes of each token.

    Attributes:
      parameters: config -> tree of leaves of one block.
      apply: (config, parameters, x, context) -> what is added to the stream, and in training metrics of the block.
      cost: (config, length) -> FLOPs.
      idle: config -> parameters of one block that a token does not use.
    """

    parameters: Callable[[BlockConfig], Leaves]
    apply: Callable[[BlockConfig, Params, Stream, Context], tuple[Stream, Metrics]]
    cost: Callable[[BlockConfig, int], FeedForwardCost]
    idle: Callable[[BlockConfig], int] = lambda config: 0
