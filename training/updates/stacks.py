"""Transformations of single matrices, applied to each matrix of parameters that are stacks of them."""

from collections.abc import Hashable

import jax
import optax
from jaxtyping import Array, PyTree

OTHER = -1  # depth of what is treated by another transformation


def as_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation of matrices, applied to leaves of which every axis but the last is an input."""

    def flat(tree: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), tree)

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        flat_updates, state = inner.update(flat(updates), state, flat(params))
        return jax.tree.map(lambda u, g: u.reshape(g.shape), flat_updates, updates), state

    return optax.GradientTransformation(lambda params: inner.init(flat(params)), update)


def of_each_layer(
    depths: PyTree[int], inner: optax.GradientTransformation, others: optax.GradientTransformation | None = None
) -> optax.GradientTransformation:
    """A transformation whose statistics are those of one matrix, applied to each matrix of a stack by itself.

    Args:
      depths: by parameter, how many of its leading axes are of a stack; `OTHER`: it is treated by `others`.
      inner: treats every leaf alone. Arrays in its state are stacked as the leaf is; scalars, such as a count, are shared.
      others: None: there are none.
    """

    def stacked(state: PyTree[Array | jax.ShapeDtypeStruct]) -> PyTree[int | None]:
        return jax.tree.map(lambda x: 0 if x.ndim else None, state)

    def lifted(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params: PyTree[Array]) -> PyTree[Array]:
            one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), params)
            return jax.vmap(inner.init, out_axes=stacked(jax.eval_shape(inner.init, one)))(params)

        def update(
            updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None
        ) -> tuple[PyTree[Array], PyTree[Array]]:
            state_axes = stacked(state)
            return jax.vmap(inner.update, (0, state_axes, 0), (0, state_axes))(updates, state, params)

        return optax.GradientTransformation(init, update)

    by_depth: dict[Hashable, optax.GradientTransformation] = {} if others is None else {OTHER: others}
    for depth in range(max(jax.tree.leaves(depths), default=0) + 1):
        by_depth[depth], inner = inner, lifted(inner)
    return optax.partition({depth: by_depth[depth] for depth in set(jax.tree.leaves(depths))}, depths)
