"""Weights and activations of few bits: trained so, or rounded after training.

Weights have one scale an output (a row of an embedding), activations one a token, found anew in every step. What is
trained are the weights in full precision (Jacob et al. 2017, arXiv 1712.05877); the model computes with rounded ones.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from training.errors import BadInput
from training.nets.rounding import Rounding, parsed, rounded
from training.optimizer import ROLES, STACKS, Axes, role
from training.types import Params

OFF = 16.0  # what a record says of the bits of what is not rounded


class Quantize(NamedTuple):
    """What is rounded: the dtypes of float formats, "" for integers, whose bits are inputs; None: nothing."""

    weights: str | None
    activations: str | None
    roles: tuple[str, ...]


def of(section: ConfigDict) -> Quantize | None:
    """What a config's section `quantize` asks for in training; None: nothing.

    Raises:
      BadInput: there is no such format or role.
    """
    for key in ("weights", "activations"):
        if section[key]:
            parsed(section[key], f"quantize.{key}")
    for name in section.post:
        parsed(name, "quantize.post")
    for name in section.roles:
        if name not in ROLES:
            raise BadInput(f"quantize.roles: no role {name!r} (known: {', '.join(ROLES)})")
    if not section.weights and not section.activations:
        return None
    weights, activations = (
        parsed(section[key], "").dtype or "" if section[key] else None for key in ("weights", "activations")
    )
    return Quantize(weights, activations, tuple(section.roles))


def hyper(section: ConfigDict) -> dict[str, float]:
    """The bits, which enter a step as arrays."""
    names = {"bits_weights": section.weights, "bits_activations": section.activations}
    return {key: float(parsed(name, "").bits) if name else OFF for key, name in names.items()}


def weights(params: Params, axes: PyTree[Axes], roles: tuple[str, ...], rounding: Rounding) -> Params:
    """The parameters of these roles rounded, each output with a scale of its own."""

    def leaf(names: Axes, p: Array) -> Array:
        if role(names) not in roles:
            return p
        return rounded(p, rounding, summed(names))

    return jax.tree.map(leaf, axes, params, is_leaf=lambda x: isinstance(x, Axes))


def summed(axes: Axes) -> tuple[int, ...]:
    """The dimensions of a parameter that share a scale: those that a product sums over, or the features of a row."""
    inner = [i for i, name in enumerate(axes.names) if name not in STACKS]
    kept = [i for i in inner if axes.names[i] in ("vocab", "position")] or inner[-1:]
    return tuple(i for i in inner if i not in kept)


def activations(params: Params, axes: PyTree[Axes], roles: tuple[str, ...], rounding: Rounding) -> Params:
    """The parameters with how the inputs of each linear map of these roles are rounded, which `nets.layers.linear` reads.

    Raises:
      BadInput: no map of the model would read it, or that of experts would not.
    """
    found = False

    def visit(tree: Any, names: Any) -> Any:
        nonlocal found
        if not isinstance(tree, dict):
            return tree
        made = {key: visit(value, names[key]) for key, value in tree.items()}
        kernel = names.get("kernel")
        stacks = [name for name in kernel.names if name in STACKS] if isinstance(kernel, Axes) else []
        if "expert" in stacks:
            raise BadInput("quantize.activations: what goes into experts is not rounded; quantize.weights is")
        if stacks == ["layers"] and role(kernel) in roles:
            found = True
            made["inputs"] = Rounding(jax.numpy.broadcast_to(rounding.bits, tree["kernel"].shape[:1]), rounding.dtype)
        return made

    made = visit(params, axes)
    if not found:
        raise BadInput("quantize.activations: this model has no linear maps in blocks, whose inputs would be rounded")
    return made
