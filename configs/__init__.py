"""Every run and sweep as one Python file with `get_config(arg="")`; its docstring is the exact command."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sweeps.design import Design, axis, chain, label, product


def point(budget: float, width: int) -> Design:
    """One width at one budget of exact FLOPs, which is its label."""
    return label(product(axis("duration.flops", [budget]), axis("model.width", [width])), budget=budget)


def study(
    name: str, base: ConfigDict, widths: Mapping[float, Sequence[int]], repeated: Mapping[float, int], **keys: Any
) -> ConfigDict:
    """An iso-FLOP study whose widths make the sizes; where a best width is at an edge, `isoflop study` adds the next.

    Args:
      name: of the sweep.
      base: the run that every point varies.
      widths: by budget of exact FLOPs.
      repeated: the width of a budget that is trained with three seeds, for the noise.
      keys: more keys of the sweep; `study` adds to how it is fitted.
    """
    points = [point(budget, width) for budget, sizes in widths.items() for width in sizes]
    again = [product(point(budget, width), axis("seed", (1, 2))) for budget, width in repeated.items()]
    fitted = {"size": "model.width"} | keys.pop("study", {})
    return ConfigDict({"name": name, "base": base, "design": chain(*points, *again), "study": fitted, **keys})


def baseline(name: str, base: ConfigDict, design: Design, **expected: Any) -> ConfigDict:
    """A baseline for `isoflop reproduce`: what all runs share, their seeds or folds, and what was measured of them."""
    return ConfigDict({"name": name, "base": base, "design": design, "expected": expected})


def seeds(count: int) -> Design:
    """As many runs that differ in their seed alone."""
    return axis("seed", range(count))
