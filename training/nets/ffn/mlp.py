"""The MLP of a block: {up, down}/{kernel, bias} (d, mlp_width) and back, and gate where the activation is gated."""

from collections.abc import Callable

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from training.nets.block_config import BlockConfig
from training.nets.ffn.feed_forward import FeedForward, FeedForwardCost, Metrics
from training.nets.initial import Leaves
from training.nets.layers import ACTIVATIONS, linear, projection
from training.nets.mixers.mixer import Context, Stream
from training.types import Params


def parameters(config: BlockConfig, hidden: int | None = None) -> Leaves:
    """The leaves of an MLP of `hidden` features; None: of the config's."""
    d, hidden = config.width, config.mlp_width if hidden is None else hidden
    tree = {
        "up": projection(d, hidden, ("embed", "mlp"), config.bias),
        "down": projection(hidden, d, ("mlp", "embed"), config.bias, config.residual_scale),
    }
    if matrices(config) == 3:
        tree["gate"] = projection(d, hidden, ("embed", "mlp"), config.bias)
    return tree


def apply(config: BlockConfig, p: Params, x: Array, linear: Callable[[Params, Array], Array] = linear) -> Array:
    """The MLP of each token; `linear` is its product with a kernel."""
    activation, gated = ACTIVATIONS[config.activation]
    hidden = checkpoint_name(linear(p["up"], x), "mlp")
    y = activation(checkpoint_name(linear(p["gate"], x), "mlp")) * hidden if gated else activation(hidden)
    return linear(p["down"], y)


def matrices(config: BlockConfig) -> int:
    """Kernels of an MLP: a second projection gates it, or does not."""
    return 3 if ACTIVATIONS[config.activation][1] else 2


def flops(config: BlockConfig, tokens: float, hidden: int) -> float:
    """FLOPs of the products of an MLP of `hidden` features over so many tokens."""
    return tokens * 2 * matrices(config) * config.width * hidden


def _apply(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Stream, Metrics]:
    return apply(config, p, x), {}


def _cost(config: BlockConfig, length: int) -> FeedForwardCost:
    products = flops(config, float(length), config.mlp_width)
    return FeedForwardCost({"mlp": products}, products / matrices(config))


FEED_FORWARD = FeedForward(parameters, _apply, _cost)
