"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Source: Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson and Kakade 2024, arXiv 2409.11321, algorithms 3 and 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class Soap(NamedTuple):
    """The state of SOAP: gradients seen, and by matrix [rows, columns] the running means of G, of the squared rotated G, of
    G G^T [rows, rows] and of G^T G [columns, columns], and the orthonormal eigenvectors of the last two, as columns."""

    count: Int[Array, ""]
    mean: PyTree[Array]
    second: PyTree[Array]
    left: PyTree[Array]
    right: PyTree[Array]
    left_basis: PyTree[Array]
    right_basis: PyTree[Array]


class Matrix(NamedTuple):
    """The update of one matrix, and its part of the state."""

    update: Float[Array, "rows columns"]
    mean: Float[Array, "rows columns"]
    second: Float[Array, "rows columns"]
    left: Float[Array, "rows rows"]
    right: Float[Array, "columns columns"]
    left_basis: Float[Array, "rows rows"]
    right_basis: Float[Array, "columns columns"]


def soap(b1: float, b2: float, eps: float, precondition_every: int) -> optax.GradientTransformation:
    """u = Q_L (M' / (sqrt(V) + eps)) Q_R^T with M' = Q_L^T M Q_R, M the mean of G and V that of (Q_L^T G Q_R)^2, both
    corrected as Adam's are. The first gradient moves nothing: it makes the bases, in which it is diagonal itself.

    Args:
      b1: share that the mean of the gradient keeps.
      b2: share that the second moment and the preconditioners keep.
      eps: is added to the root.
      precondition_every: after so many updates the bases take one step of the power method and a QR decomposition.
    Returns:
      A transformation of trees of matrices [rows, columns].
    """

    def init(params: PyTree[Array]) -> Soap:
        def square(side: int) -> PyTree[Array]:
            return jax.tree.map(lambda p: jnp.zeros((p.shape[side], p.shape[side]), p.dtype), params)

        zeros = optax.tree.zeros_like(params)
        return Soap(jnp.zeros((), jnp.int32), zeros, zeros, square(0), square(1), square(0), square(1))

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        count, *parts = Soap(*state)
        leaves, tree = jax.tree.flatten(updates)
        state_of = zip(*(jax.tree.leaves(part) for part in parts), strict=True)
        with jax.default_matmul_precision("highest"):
            after = [stepped(count, g, *own) for g, own in zip(leaves, state_of, strict=True)]
        update, *parts = (
            (jax.tree.unflatten(tree, part) for part in zip(*after, strict=True)) if after else [updates] * 7
        )
        return update, Soap(count + 1, *parts)

    def stepped(
        count: Int[Array, ""],
        g: Float[Array, "rows columns"],
        mean: Float[Array, "rows columns"],
        second: Float[Array, "rows columns"],
        left: Float[Array, "rows rows"],
        right: Float[Array, "columns columns"],
        left_basis: Float[Array, "rows rows"],
        right_basis: Float[Array, "columns columns"],
    ) -> Matrix:
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g

        def first() -> Matrix:
            bases = jnp.linalg.eigh(left)[1], jnp.linalg.eigh(right)[1]
            return Matrix(jnp.zeros_like(g), mean, second, left, right, *bases)

        def later() -> Matrix:
            m = b1 * mean + (1 - b1) * g
            v = b2 * second + (1 - b2) * jnp.square(left_basis.T @ g @ right_basis)
            rotated = left_basis.T @ m @ right_basis / (1 - b1**count)
            u = left_basis @ (rotated / (jnp.sqrt(v / (1 - b2**count)) + eps)) @ right_basis.T
            bases = jax.lax.cond(
                count % precondition_every == 0,
                lambda: (jnp.linalg.qr(left @ left_basis)[0], jnp.linalg.qr(right @ right_basis)[0]),
                lambda: (left_basis, right_basis),
            )
            return Matrix(u, m, v, left, right, *bases)

        return jax.lax.cond(count == 0, first, later)

    return optax.GradientTransformation(init, update)
