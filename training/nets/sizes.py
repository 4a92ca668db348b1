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
