"""Maps the parameters that are trained to those of the forward pass: pruning masks, fake quantization.

A transform is a pure function of a tree of parameters, known by its structure (hashable, part of a compiled step's
recipe) and its scalars (arrays, so that a sweep over sparsity or bits compiles once).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree
from ml_collections import ConfigDict

from training.nets.rounding import Rounding, parsed
from training.optimizer import Axes, role
from training.transforms import lora, prune, quantize
from training.transforms.prune import Prune
from training.transforms.quantize import Quantize
from training.types import Batch, Collections, Loss, LossFunction, Masks, Params, Record, Scalars


class Transforms(NamedTuple):
    """The structure of all that is done to parameters; None: nothing of the kind."""

    prune: Prune | None = None
    quantize: Quantize | None = None


def of(config: ConfigDict) -> Transforms:
    """What a config asks for.

    Raises:
      BadInput: its sections `prune` or `quantize` contradict themselves.
    """
    return Transforms(prune.of(config.prune), quantize.of(config.quantize))


def unused(config: ConfigDict) -> tuple[str, ...]:
    """The sections of a config that ask for nothing."""
    found = of(config)
    asked = {"prune": found.prune is not None, "quantize": found.quantize is not None or bool(config.quantize.post)}
    asked["lora"] = "lora" in config and config.lora.rank > 0
    return tuple(name for name, wanted in asked.items() if not wanted)


def hyper(config: ConfigDict) -> dict[str, float]:
    """The scalars of what a resolved config asks for."""
    found = of(config)
    made: dict[str, float] = {}
    if found.prune:
        made |= prune.hyper(config.prune, config.derived.steps)
    if found.quantize:
        made |= quantize.hyper(config.quantize)
    if config.lora.rank:
        made["lora_alpha"] = config.lora.alpha
    return made


def masks(found: Transforms, axes: PyTree[Axes], params: Params) -> Masks:
    """Those of the parameters that may be cut, of which none is yet; None: nothing is ever cut."""
    return prune.masks(found.prune, params, axes) if found.prune else None


def within(found: Transforms, loss: LossFunction, axes: PyTree[Axes], masks: Masks, hyper: Scalars) -> LossFunction:
    """A model's loss as a function of the parameters that are trained."""

    def masked(params: Params, stats: Collections, batch: Batch, key: Key[Array, ""], scalars: Scalars) -> Loss:
        cut = params if masks is None else prune.applied(params, masks)
        return loss(forward_params(found, cut, axes, hyper), stats, batch, key, scalars)

    return masked


def forward_params(found: Transforms, params: Params, axes: PyTree[Axes], hyper: Scalars) -> Params:
    """What the model computes with, of parameters that are zero where they are cut."""
    plan = found.quantize
    if plan and plan.weights is not None:
        params = quantize.weights(params, axes, plan.roles, Rounding(hyper["bits_weights"], plan.weights or None))
    if plan and plan.activations is not None:
        rounding = Rounding(hyper["bits_activations"], plan.activations or None)
        params = quantize.activations(params, axes, plan.roles, rounding)
    return params


class Size(NamedTuple):
    """Of one parameter: its axes, its shape, and how many values are not cut, of those that may be (None: it may not)."""

    axes: Axes
    shape: tuple[int, ...]
    left: int | None

    @property
    def nonzero(self) -> int:
        """How many values are not cut."""
        return math.prod(self.shape) if self.left is None else self.left


def sizes(params: Params, axes: PyTree[Axes], masks: Masks) -> list[Size]:
    """What is left of every parameter."""
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes))
    kept = [None] * len(names) if masks is None else jax.tree.leaves(masks, is_leaf=lambda x: x is None)
    return [
        Size(axis, leaf.shape, None if mask is None else int(jnp.sum(mask)))
        for axis, leaf, mask in zip(names, jax.tree.leaves(params), kept, strict=True)
    ]


def facts(config: ConfigDict, params: Params, axes: PyTree[Axes], masks: Masks) -> Record:
    """Record entries: how many parameters are not cut, bits, bytes.

    `density` is the share that is left of the parameters that may be cut; for `size_bytes` see `bytes_of`.
    """
    found, every = of(config).quantize, sizes(lora.merged(params), lora.plain(axes), masks)
    section = config.quantize
    bits = {
        name: float(parsed(section[name], "").bits) if section[name] else quantize.OFF
        for name in ("weights", "activations")
    }
    subject = [size for size in every if size.left is not None]
    density = sum(size.nonzero for size in subject) / sum(math.prod(size.shape) for size in subject) if subject else 1.0
    return {
        "params_nonzero": sum(size.nonzero for size in every),
        "density": density,
        "bits_weights": bits["weights"],
        "bits_activations": bits["activations"],
        "size_bytes": bytes_of(every, found.roles if found else (), bits["weights"]),
    }


def bytes_of(sizes: list[Size], roles: tuple[str, ...], bits: float) -> float:
    """Bytes of what is not cut: these roles in so many bits with a float32 scale an output, others in float32; no index."""
    total = 0.0
    for size in sizes:
        if role(size.axes) in roles and bits < quantize.OFF:
            shared = quantize.summed(size.axes)
            scales = math.prod(length for i, length in enumerate(size.shape) if i not in shared)
            total += size.nonzero * bits / 8 + 4 * scales
        else:
            total += 4 * size.nonzero
    return total
