"""From a target size to the shape of a transformer.

The rule, where the config leaves a value open: the width is the one dial. A model is 64 features wide a block, as GPT-2
small and its successors are, and never less than two blocks deep: one block cannot copy from its own context, and
single blocks fell off the loss curve of deeper ones. Heads are 16 features wide below a width of 128, 32 below 512, 64
below 2,048, else 128, or the nearest even divisor of the width. Every query head has its own key head. The MLP is four
widths wide, or 8/3 where it is gated, which makes the counts equal (Shazeer 2020).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from training.errors import BadInput
from training.nets import sizes
from training.nets.layers import ACTIVATIONS

SHAPE = ("depth", "width", "heads", "kv_heads", "mlp_width")
ASPECT = 64
LEAST_DEPTH = 2
MOST_DEPTH = 512
WIDEST = 65_536

# Published shapes: (depth, width, heads, kv_heads, mlp_width).
STANDARD: dict[str, tuple[int, int, int, int, int]] = {
    "gpt2-small": (12, 768, 12, 12, 3072),
    "gpt2-medium": (24, 1024, 16, 16, 4096),
    "gpt2-large": (36, 1280, 20, 20, 5120),
    "gpt2-xl": (48, 1600, 25, 25, 6400),
    "llama-7b": (32, 4096, 32, 32, 11008),
    "llama3-8b": (32, 4096, 32, 8, 14336),
}


class Given(NamedTuple):
    """What a config says of a shape; None: it is left open."""

    depth: int | None
    width: int | None
    heads: int | None
    kv_heads: int | None
    mlp_width: int | None
    activation: str


def standard(name: str) -> dict[str, int]:
    """The shape of a published model.

    Raises:
      BadInput: there is no such name.
    """
    if name not in STANDARD:
        raise BadInput(f"model: no standard shape {name!r}; known: {', '.join(STANDARD)}")
    return dict(zip(SHAPE, STANDARD[name], strict=True))


def shape_for(size: float | None, options: Mapping[str, Any], count: Callable[[dict[str, int]], int]) -> dict[str, int]:
    """The shape whose number of parameters is nearest to a size, by ratio; values that the config gives are kept.

    Args:
      size: target number of parameters; None: the shape follows from the given width.
      options: of the model; None marks an open value.
      count: parameters of a shape.

    Raises:
      BadInput: the size is below the smallest shape or beyond the largest, nothing is left open, or heads do not fit.
    """
    model = Given(**{name: options.get(name) for name in SHAPE}, activation=options["activation"])
    if size is None:
        if model.width is None:
            raise BadInput("model: give a size or a width")
        return _complete(model, model.width, model.depth or _depth(model.width))
    if model.width is not None and model.depth is not None:
        raise BadInput("model.size: width and depth are both given, so no size is left to choose")
    shapes = (_complete(model, width, depth) for width, depth in _dial(model) if _fits(model, width))
    return sizes.nearest(size, shapes, count)


def _dial(model: Given) -> Iterator[tuple[int, int]]:
    if model.width is not None:
        yield from ((model.width, depth) for depth in range(LEAST_DEPTH, MOST_DEPTH + 1))
    else:
        yield from ((width, model.depth or _depth(width)) for width in widths())


def widths() -> Iterator[int]:
    """Widths that the rules choose among."""
    width = 8
    while width <= WIDEST:
        yield width
        width += 8 if width < 256 else 16 if width < 512 else 64 if width < 2048 else 128


def _depth(width: int) -> int:
    return max(LEAST_DEPTH, round(width / ASPECT))


def _fits(model: Given, width: int) -> bool:
    return (
        bool(sizes.head_counts(width, model.kv_heads or 1)) if model.heads is None else width % (2 * model.heads) == 0
    )


def _complete(model: Given, width: int, depth: int) -> dict[str, int]:
    if not _fits(model, width):
        raise BadInput(f"model: no even head width fits width {width}, heads {model.heads}, kv_heads {model.kv_heads}")
    heads = model.heads or sizes.heads(width, model.kv_heads or 1)
    kv_heads = model.kv_heads or heads
    if heads % kv_heads:
        raise BadInput(f"model.kv_heads: {kv_heads} does not divide the {heads} heads")
    mlp_width = model.mlp_width or (_round(width * 8 / 3, 8) if ACTIVATIONS[model.activation][1] else 4 * width)
    return dict(zip(SHAPE, (depth, width, heads, kv_heads, mlp_width), strict=True))


def _round(value: float, multiple: int) -> int:
    return max(multiple, round(value / multiple) * multiple)
