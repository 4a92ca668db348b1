"""Initial values: a tree of leaves that say what they are, drawn at once and boxed with their logical axes."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from training.types import Params, Variables


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter: shape, logical axes, and initial values `offset` + `std` * normal."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    std: float = 0.0
    offset: float = 0.0


Leaves = dict[str, PyTree[Leaf]]  # by name


def count(leaves: PyTree[Leaf]) -> int:
    """Parameters in a tree of `Leaf`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))


def variables(module: nn.Module, key: Array, init_scale: Float[Array, ""] | np.float32 | float = 1.0) -> Variables:
    """The initial variables of a module by collection, each leaf boxed with its logical axes.

    Args:
      module: has a compact method `parameters`, which draws them and computes nothing.
      key: random.
      init_scale: factor of every initial standard deviation; may be traced.
    """
    return module.init(key, init_scale, method="parameters")


def abstract(module: nn.Module) -> Variables:
    """As `variables`, shapes alone."""
    return jax.eval_shape(functools.partial(variables, module), jax.random.key(0))


def parameters(
    module: nn.Module,
    leaves: Leaves,
    stacks: Mapping[str, tuple[Leaves, int]],
    scale: Float[Array, ""] | float,
    dtype: str,
) -> Params:
    """The parameter tree of a module, drawn. To be called in a compact method, under `Module.init`.

    Args:
      leaves: trees of `Leaf` by name; each is drawn with a key of its own, in the order of the names.
      stacks: the tree of one layer and the number of layers by name, drawn after `leaves`; {}: none.
      scale: factor of every initial standard deviation; may be traced.
      dtype: of the values.
    """
    tree = {name: module.param(name, draw, tree, scale, dtype) for name, tree in leaves.items()}
    return tree | {
        name: module.param(name, draw_stack, layer, depth, scale, dtype) for name, (layer, depth) in stacks.items()
    }


def draw(
    key: Array, leaves: PyTree[Leaf], scale: Float[Array, ""] | float, dtype: str
) -> PyTree[nn.LogicallyPartitioned]:
    """Boxed initial values of a tree of `Leaf`; `scale` multiplies every standard deviation and may be traced."""
    return _boxed(_draw(key, leaves, scale, dtype), leaves, ())


def draw_stack(
    key: Array, leaves: PyTree[Leaf], depth: int, scale: Float[Array, ""] | float, dtype: str
) -> PyTree[nn.LogicallyPartitioned]:
    """As `draw`, with a leading axis "layers"; a layer's values depend on its index, not on how many there are."""

    def layer(index: Array) -> PyTree[Array]:
        return _draw(jax.random.fold_in(key, index), leaves, scale, dtype)

    # One layer after another, so that beside the stack only one layer's draws are in memory.
    return _boxed(jax.lax.map(layer, jnp.arange(depth, dtype=jnp.uint32)), leaves, ("layers",))


def _draw(key: Array, leaves: PyTree[Leaf], scale: Array | float, dtype: str) -> PyTree[Array]:
    """One flat normal draw, cut into the leaves: a draw for each would cost more compilation than a train step."""
    flat, tree = jax.tree.flatten(leaves)
    sizes = [math.prod(leaf.shape) if leaf.std else 0 for leaf in flat]
    normal = jax.random.normal(key, (sum(sizes),), jnp.float32)
    values, start = [], 0
    for leaf, size in zip(flat, sizes, strict=True):
        value = jnp.full(leaf.shape, leaf.offset, jnp.float32)
        if size:
            value += leaf.std * scale * normal[start : start + size].reshape(leaf.shape)
        values.append(value.astype(dtype))
        start += size
    return jax.tree.unflatten(tree, values)


def _boxed(values: PyTree[Array], leaves: PyTree[Leaf], leading: tuple[str, ...]) -> PyTree[nn.LogicallyPartitioned]:
    return jax.tree.map(lambda leaf, value: nn.LogicallyPartitioned(value, (*leading, *leaf.axes)), leaves, values)
