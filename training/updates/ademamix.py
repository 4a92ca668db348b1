"""AdEMAMix: Adam whose numerator also has a slow running mean of the gradient, which remembers thousands of steps.

Source: Pagliardini, Ablin and Grangier 2024, arXiv 2409.03137, algorithm 1 and the schedulers of alpha and b3.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree
from optax import contrib


def ademamix(
    b1: float, b2: float, b3: float, alpha: float, eps: float, slow_warmup: float
) -> optax.GradientTransformationExtraArgs:
    """u = (m̂ + alpha_t m_slow) / (sqrt(v̂) + eps); the slow mean is not corrected for having begun at zero.

    Args:
      b1: share that the mean m of a step keeps; positive, as the warmup of b3 begins there.
      b2: of the second moment v.
      b3: of the slow mean, at the end of its warmup; positive.
      alpha: weight of the slow mean, at the end of its warmup.
      eps: is added to the root.
      slow_warmup: share of the run over which alpha grows from 0, and b3 from b1; 0: both are as given from the start.
    Returns:
      A transformation whose `update` also takes `steps`, the length of the run.
    """

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None, **inputs: jax.Array
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        def share(count: ArrayLike) -> jax.Array:
            return jnp.minimum((jnp.asarray(count) + 1) / (slow_warmup * inputs["steps"]), 1.0)

        def slow(count: ArrayLike) -> jax.Array:
            """b3 of the step: its half-life grows linearly."""
            first, last, done = jnp.log(b1), jnp.log(b3), share(count)
            return jnp.minimum(jnp.exp(first * last / ((1 - done) * last + done * first)), b3)

        if slow_warmup:
            mixed = contrib.scale_by_ademamix(b1, b2, slow, lambda count: alpha * share(count), eps)
        else:
            mixed = contrib.scale_by_ademamix(b1, b2, b3, alpha, eps)
        return mixed.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(contrib.scale_by_ademamix(b1, b2, b3, alpha, eps).init, update)
