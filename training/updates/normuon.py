"""NorMuon: the orthogonalised momentum of a matrix, with the columns of every output neuron brought to one size.

Source: Li, Liu, Liang, Chen and Zhao 2025, arXiv 2510.05491, algorithm 1. Kernels here are [inputs, outputs], so that a
row of the paper, a neuron, is a column.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from optax import contrib

RMS = 0.2  # of an update, as Adam's typically is (Liu et al. 2025, arXiv 2502.16982, section 2.2)


def normuon(momentum: float, b2: float, eps: float) -> optax.GradientTransformation:
    """M <- momentum M + (1 - momentum) G; O = NS(M); v <- b2 v + (1 - b2) mean over inputs of O^2; u = O / (sqrt(v) + eps),
    scaled to a root mean square of 0.2.

    Args:
      momentum: share that the mean of the gradient keeps.
      b2: share that the second moment of a neuron keeps.
      eps: is added to norms.
    Returns:
      A transformation of trees of matrices [inputs, outputs].
    """

    def dimensions(params: PyTree[Array]) -> PyTree[contrib.MuonDimensionNumbers]:
        return jax.tree.map(lambda p: contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1), params)

    muon = contrib.scale_by_muon(beta=momentum, eps=eps, nesterov=False, weight_dimension_numbers=dimensions)
    return optax.chain(muon, _by_neuron(b2, eps))


def _by_neuron(b2: float, eps: float) -> optax.GradientTransformation:
    def init(params: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda p: jnp.zeros(p.shape[1:], p.dtype), params)

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        second = jax.tree.map(lambda o, v: b2 * v + (1 - b2) * jnp.mean(jnp.square(o), axis=0), updates, state)
        return jax.tree.map(normalised, updates, second), second

    def normalised(o: Float[Array, "inputs outputs"], v: Float[Array, " outputs"]) -> Float[Array, "inputs outputs"]:
        u = o / (jnp.sqrt(v) + eps)
        return RMS * u / (jnp.sqrt(jnp.mean(jnp.square(u))) + eps)

    return optax.GradientTransformation(init, update)
