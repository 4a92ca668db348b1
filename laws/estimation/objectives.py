"""Objectives of a fit: sums over rows of a loss of the residual log predicted - log measured."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def huber(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square within ``delta``, linear beyond it."""
    size = jnp.abs(residual)
    return jnp.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def squared(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square; ``delta`` plays no part."""
    return 0.5 * residual**2


def asymmetric(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Huber's for runs above the law, half the square for runs below it, however far.

    A run that was tuned badly, or stopped early, lies above what its size and data allow and never below. So a run
    above by more than ``delta`` pulls with a constant force, and one below ever harder: the law is drawn to the lower
    edge of the runs.
    """
    return jnp.where(residual > 0, squared(residual, delta), huber(residual, delta))


def relative_squared(residual: Float[Array, "..."], delta: Float[Array, ""]) -> Float[Array, "..."]:
    """Half the square of the relative error, from the difference of the logs; ``delta`` plays no part."""
    return 0.5 * jnp.expm1(residual) ** 2


# Of residuals log predicted - log measured: negative where a run lies above the law.
OBJECTIVES = {"log_huber": huber, "log_squared": squared, "log_asymmetric": asymmetric, "squared": relative_squared}


RELATIVE_OBJECTIVES = (
    "squared",
)  # of the observable itself: relative errors, each run weighed by the square of what was measured


THRESHOLD_OBJECTIVES = ("log_huber", "log_asymmetric")  # in which delta plays a part


def objective_weights(objective: str, weight: Any, log_loss: Any) -> Any:
    """The weights of the runs as the objective sums them."""
    return weight * np.exp(2 * log_loss) if objective in RELATIVE_OBJECTIVES else weight
