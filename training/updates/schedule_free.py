"""Schedule-free AdamW: gradients are taken between the iterate z and its average x, and x is what is evaluated.

y = (1 - b1) z + b1 x; z <- z - lr (g(y) / (sqrt(v̂) + eps) + weight_decay y); x <- x + c (z - x), c = lr^2 / sum of lr^2.
The parameters of a run's state are z, its running mean is x.

Source: Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024, arXiv 2405.15682, algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from training.types import Params


class ScheduleFree(NamedTuple):
    """The sum of the squared learning rates, and the second moments."""

    squared_rates: Float[Array, ""]
    second: PyTree[Array]


def schedule_free(b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """u = g / (sqrt(v̂) + eps), v the second moment with b2.

    Returns:
      A transformation whose `update` also takes `lr`, the learning rate of the step.
    """
    scale = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)

    def init(params: PyTree[Array]) -> ScheduleFree:
        return ScheduleFree(jnp.zeros(()), scale.init(params))

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None, **inputs: jax.Array
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        squared_rates, second = ScheduleFree(*state)
        updates, second = scale.update(updates, second, params)
        return updates, ScheduleFree(squared_rates + jnp.square(inputs["lr"]), second)

    return optax.GradientTransformationExtraArgs(init, update)


def point(params: Params, average: Params, b1: float) -> Params:
    """y, where the gradient is taken, in the precision of the parameters."""
    return jax.tree.map(lambda z, x: (z + b1 * (x - z)).astype(z.dtype), params, average)


def averaged(average: Params, params: Params, lr: Float[Array, ""], squared_rates: Float[Array, ""]) -> Params:
    """x after a step.

    Args:
      average: x before it.
      params: z after it.
      lr: the learning rate of the step.
      squared_rates: the sum of those up to the step.
    """
    share = jnp.where(squared_rates > 0, jnp.square(lr) / jnp.where(squared_rates > 0, squared_rates, 1.0), 1.0)
    return jax.tree.map(lambda x, z: x + share.astype(x.dtype) * (z.astype(x.dtype) - x), average, params)
