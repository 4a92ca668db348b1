"""Hyperball: every matrix keeps the Frobenius norm R that it begins with, and so does its update:
W <- R n(W - lr R n(u)), with n(x) = x / |x| and u the update of another optimizer. The learning rate is then an angle.

Source: Wen, Dang, Lyu, Ma and Liang 2026, "Fantastic pretraining optimizers and where to find them II: hyperball
optimization", arXiv 2606.16899.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

UNSET = -1.0  # the radius before the first step, whose parameters may be another run's


def radius(before: Float[Array, "*stack"], p: Float[Array, "..."], axes: Sequence[int]) -> Float[Array, "*stack"]:
    """The norm that each matrix keeps: that which it has at the first step. A matrix of zeros has none to keep: 0.

    Args:
      before: the radius, or `UNSET`.
      p: the matrices.
      axes: those of a matrix; the others are of the stack.
    """
    return jnp.where(before < 0, jnp.sqrt(jnp.sum(jnp.square(p), axis=tuple(axes))), before)


def scaled(x: Float[Array, "..."], radius: Float[Array, "*stack"], axes: Sequence[int]) -> Float[Array, "..."]:
    """Matrices scaled to norms of `radius`; as they are where that is 0, or they are."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(axes)))
    factor: jax.Array = jnp.where((radius > 0) & (norm > 0), radius / jnp.where(norm > 0, norm, 1.0), 1.0)
    return x * jnp.expand_dims(factor, tuple(axes))
