"""Magnitude pruning: the smallest weights are zero, at once or more and more of them, of all, of each layer, or n of m.

The share that is zero follows s(t) = s (1 - (1 - (t - begin) / (end - begin))^3) (Zhu and Gupta 2017, arXiv 1710.01878),
and a weight that has been cut stays so. Compute is counted as if nothing were cut.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree
from ml_collections import ConfigDict

from training.errors import BadInput
from training.optimizer import ROLES, STACKS, Axes, role
from training.types import ArrayOrNumpy, Masks, Params, Scalars

SCOPES = ("global", "layer")


class Prune(NamedTuple):
    """What is cut: parameters of these roles, by magnitude in this scope, or all but n of m inputs (None: any)."""

    scope: str
    pattern: tuple[int, int] | None
    roles: tuple[str, ...]


def of(section: ConfigDict) -> Prune | None:
    """What a config's section `prune` asks for; None: nothing.

    Raises:
      BadInput: its keys contradict each other.
    """
    if section.scope not in SCOPES:
        raise BadInput(f"prune.scope: {section.scope!r} is not one of {', '.join(SCOPES)}")
    for name in section.roles:
        if name not in ROLES:
            raise BadInput(f"prune.roles: no role {name!r} (known: {', '.join(ROLES)})")
    if not 0 <= section.sparsity < 1:
        raise BadInput(f"prune.sparsity: must be in [0, 1), got {section.sparsity}")
    if not 0 <= section.begin <= section.end <= 1:
        raise BadInput(f"prune: want 0 <= begin <= end <= 1 of the duration, got {section.begin} and {section.end}")
    if section.every < 1:
        raise BadInput(f"prune.every: must be at least 1 step, got {section.every}")
    pattern = None
    if section.pattern:
        found = re.fullmatch(r"(\d+):(\d+)", section.pattern)
        if not found or not 1 <= int(found[1]) < int(found[2]):
            raise BadInput(f"prune.pattern: want n:m with n below m, as 2:4, got {section.pattern!r}")
        if section.sparsity:
            raise BadInput("prune.sparsity: follows from prune.pattern; give one of the two")
        pattern = (int(found[1]), int(found[2]))
    return Prune(section.scope, pattern, tuple(section.roles)) if section.sparsity or pattern else None


def hyper(section: ConfigDict, steps: int) -> dict[str, float]:
    """The scalars, which enter a step as arrays: the final share of zeros, and when, in steps."""
    begin, end = round(section.begin * steps), round(section.end * steps)
    return {"sparsity": section.sparsity, "prune_begin": begin, "prune_end": end, "prune_every": section.every}


def masks(prune: Prune, params: Params, axes: PyTree[Axes]) -> Masks:
    """A mask of all ones for each parameter that may be cut; None for the others.

    Raises:
      BadInput: m does not divide the inputs of a parameter, or there is none to be cut.
    """

    def leaf(names: Axes, p: ArrayOrNumpy) -> jax.Array | None:
        if role(names) not in prune.roles:
            return None
        if prune.pattern and p.shape[_inputs(names)] % prune.pattern[1]:
            raise BadInput(
                f"prune.pattern: {prune.pattern[1]} does not divide the {p.shape[_inputs(names)]} inputs of a weight"
            )
        return jnp.ones(p.shape, bool)

    made = jax.tree.map(leaf, axes, params, is_leaf=lambda x: isinstance(x, Axes))
    if not jax.tree.leaves(made):
        raise BadInput(f"prune.roles: the model has no parameters of {', '.join(prune.roles)}")
    return made


def applied(params: Params, masks: Masks) -> Params:
    """The parameters, zero where they are cut."""
    return jax.tree.map(lambda mask, p: p if mask is None else jnp.where(mask, p, 0), masks, params, is_leaf=_none)


def updated(prune: Prune, masks: Masks, params: Params, axes: PyTree[Axes], step: jax.Array, hyper: Scalars) -> Masks:
    """The masks after `step` steps: cut anew where the schedule has a cut, else as they were."""
    begin, end, every = (hyper[f"prune_{name}"] for name in ("begin", "end", "every"))
    since = step - begin
    due = ((since >= 0) & (step <= end) & (jnp.mod(since, every) == 0)) | (step == end)
    share = sparsity(hyper, step)
    return jax.lax.cond(due, lambda: _cut(prune, masks, params, axes, share), lambda: masks)


def sparsity(hyper: Scalars, step: jax.Array) -> Float[Array, ""]:
    """The share of zeros after `step` steps."""
    begin, end = hyper["prune_begin"], hyper["prune_end"]
    left = 1 - jnp.clip((step - begin) / jnp.maximum(end - begin, 1), 0, 1)
    gradual = hyper["sparsity"] * (1 - left**3)
    return jnp.where(step >= end, hyper["sparsity"], gradual)


def _cut(prune: Prune, masks: Masks, params: Params, axes: PyTree[Axes], share: jax.Array) -> Masks:
    sizes = jax.tree.map(
        lambda mask, p: None if mask is None else jnp.where(mask, jnp.abs(p), -1.0), masks, params, is_leaf=_none
    )
    if prune.pattern:
        n, m = prune.pattern
        return jax.tree.map(
            lambda names, s: None if s is None else _n_of_m(s, _inputs(names), n, m), axes, sizes, is_leaf=_axes
        )
    if prune.scope == "layer":
        return jax.tree.map(
            lambda names, s: None if s is None else _largest(s, _stacked(names), share), axes, sizes, is_leaf=_axes
        )
    flat = jnp.concatenate([s.ravel() for s in jax.tree.leaves(sizes)])
    threshold = _threshold(flat, share)
    return jax.tree.map(lambda s: s > threshold, sizes)


def _threshold(sizes: Float[Array, "*groups n"], share: jax.Array) -> Float[Array, "*groups"]:
    """The size that as large a share does not exceed, along the last axis; below all sizes for a share of nothing."""
    count = sizes.shape[-1]
    rank = jnp.round(share * count).astype(jnp.int32)
    ordered = jnp.sort(sizes, axis=-1)
    return jnp.where(rank > 0, jnp.take(ordered, jnp.clip(rank - 1, 0, count - 1), axis=-1), -0.5)


def _largest(sizes: Array, stacked: int, share: jax.Array) -> Bool[Array, "..."]:
    """All but a share, in each layer."""
    groups = sizes.reshape(*sizes.shape[:stacked], -1)
    return (groups > _threshold(groups, share)[..., None]).reshape(sizes.shape)


def _n_of_m(sizes: Array, axis: int, n: int, m: int) -> Bool[Array, "..."]:
    """The n largest of every m along an axis; the first ones where some are equal."""
    moved = jnp.moveaxis(sizes, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], -1, m)
    ranks = jnp.argsort(jnp.argsort(-groups, axis=-1), axis=-1)
    return jnp.moveaxis((ranks < n).reshape(moved.shape), -1, axis)


def _stacked(axes: Axes) -> int:
    """How many leading dimensions are stacks of layers."""
    return int(np.argmin([name in STACKS for name in axes.names]))


def _inputs(axes: Axes) -> int:
    """The dimension that a product sums over: the last but one."""
    return len(axes.names) - 2


def _axes(x: object) -> bool:
    return isinstance(x, Axes)


def _none(x: object) -> bool:
    return x is None
