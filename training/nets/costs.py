"""What transformer blocks cost, from their config alone: parameters and products by component."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from training.nets.block_config import BlockConfig
from training.nets.ffn import FEED_FORWARDS
from training.nets.initial import Leaves, count
from training.nets.mixers import MIXERS, cross_attention
from training.nets.stack import Kind, segments, stacks


def parameters(config: BlockConfig) -> dict[str, int]:
    """Parameters of all blocks by component: "attention" (or the branch of another mixer), "mlp", "norm", and of experts
    "router" and "shared"."""
    counts = {"norm": 0}
    for leaves, number in stacks(config).values():
        for component, part in components(leaves):
            counts[component] = counts.get(component, 0) + number * count(part)
    if config.moe is not None:
        counts.setdefault("shared", 0)
    return counts


def components(leaves: Leaves) -> Iterator[tuple[str, Any]]:
    """The parts of a block's tree with the component that each counts to."""
    for name, part in leaves.items():
        if name.endswith("_norm"):
            yield "norm", part
            continue
        for inner, leaf in part.items():
            own = inner in ("router", "shared")
            component = (
                "norm" if inner.endswith("_norm") else inner if own else "attention" if name == "cross" else name
            )
            yield component, leaf


def idle(config: BlockConfig) -> int:
    """Parameters of the blocks that a token does not use: those of the experts that it does not go through."""
    return sum(number * FEED_FORWARDS[kind.ffn].idle(config) for kind, number in kinds(config).items())


def kinds(config: BlockConfig) -> Counter[Kind]:
    """How many blocks there are of each kind."""
    blocks: Counter[Kind] = Counter()
    for part in segments(config):
        for position, kind in enumerate(part.kinds):
            blocks[kind] += part.layers(position)
    return blocks


def forward(config: BlockConfig, length: int, memory: int = 0, causal: bool = False) -> dict[str, float]:
    """FLOPs of the forward products of all blocks over one example by component.

    Args:
      config: of the stack.
      length: tokens of the example.
      memory: tokens that the blocks also attend to.
      causal: whether "scores" are the products that a causal mask keeps, in place of those of full attention maps.
    """
    products = {"scores": 0.0}

    def add(component: str, flops: float, number: int) -> None:
        products[component] = products.get(component, 0.0) + number * flops

    for kind, number in kinds(config).items():
        mixer, feed_forward = MIXERS[kind.mixer], FEED_FORWARDS[kind.ffn].cost(config, length)
        own = mixer.cost(config, length)
        add(mixer.branch, own.projections, number)
        add("scores", own.causal if causal else own.scores, number)
        if config.cross_attention:
            crossing = cross_attention.cost(config, length, memory)
            add("attention", crossing.projections, number)
            add("scores", crossing.scores, number)
        for component, flops in feed_forward.products.items():
            add(component, flops, number)
    return products


def recompute(config: BlockConfig, length: int, memory: int = 0) -> float:
    """FLOPs of the forward products that the backward pass repeats.

    "dots" keeps the products with kernels and repeats those of activations with each other; "full" repeats every product but
    those whose result only enters a sum: before norms, the last of the feed-forward and, in parallel blocks, the mixer's.
    """
    products = forward(config, length, memory)
    if config.remat == "none":
        return 0.0
    if config.remat == "dots":
        return products["scores"]
    last = 0.0
    for kind, number in kinds(config).items():
        if config.norm_position == "pre":
            last += number * FEED_FORWARDS[kind.ffn].cost(config, length).last
        if config.parallel_block:
            last += number * MIXERS[kind.mixer].cost(config, length).out
    return sum(products.values()) - last
