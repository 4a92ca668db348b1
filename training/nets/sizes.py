"""From a target size to a shape: the nearest of a row of growing shapes."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from training.errors import BadInput

Shape = dict[str, Any]


def nearest(size: float, shapes: Iterable[Shape], count: Callable[[Shape], int]) -> Shape:
    """The shape whose number of parameters is nearest to a size, by ratio.

    Args:
      size: target number of parameters.
      shapes: in growing order; read up to the first that reaches the size.
      count: parameters of a shape.

    Raises:
      BadInput: the size is below the smallest shape or beyond the largest, or there is none.
    """
    counted: list[tuple[Shape, int]] = []
    for shape in shapes:
        counted.append((shape, count(shape)))
        if counted[-1][1] >= size:
            break
    if not counted:
        raise BadInput("model: no shape fits the keys that are given")
    smallest = min(number for _, number in counted)
    if size < 0.9 * smallest:
        raise BadInput(f"model.size: {size:.4g} parameters are below the smallest shape, which has {smallest:,}")
    shape, number = min(counted, key=lambda pair: abs(math.log(pair[1] / size)))
    if number < size / 2:
        raise BadInput(f"model.size: {size:.4g} parameters are beyond the largest shape, which has {number:,}")
    return shape


def heads(width: int, multiple: int = 1) -> int:
    """The number of heads that brings the head width nearest to 16 below a width of 128, 32 below 512, 64 below 2,048,
    else 128.

    Args:
      width: features of the residual stream.
      multiple: key heads, which divide the heads.

    Raises:
      BadInput: there is none.
    """
    target = 16 if width < 128 else 32 if width < 512 else 64 if width < 2048 else 128
    counts = head_counts(width, multiple)
    if not counts:
        raise BadInput(
            f"model.width: {width} features make no heads of an even width; another width, or give model.heads"
        )
    return min(counts, key=lambda n: (abs(math.log(width / n / target)), n))


def head_counts(width: int, multiple: int = 1) -> list[int]:
    """Numbers of heads that are multiples of the key heads and leave an even head width."""
    return [n for n in range(multiple, width // 2 + 1, multiple) if width % (2 * n) == 0]
