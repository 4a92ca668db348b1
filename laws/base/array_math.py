"""Elementary functions that follow their arguments: numpy in, numpy out; traced by JAX where JAX asks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Numbers = jax.Array | np.ndarray


def _following(on_host: Callable, in_jax: Callable) -> Callable:
    def function(*arguments: Any) -> Any:
        return (in_jax if any(isinstance(a, jax.Array) for a in arguments) else on_host)(*arguments)

    function.__doc__ = f"Elementwise ``{on_host.__name__}`` of numpy or JAX arrays."
    return function


exp = _following(np.exp, jnp.exp)
log = _following(np.log, jnp.log)
clip = _following(np.clip, jnp.clip)
minimum = _following(np.minimum, jnp.minimum)
maximum = _following(np.maximum, jnp.maximum)
logaddexp = _following(np.logaddexp, jnp.logaddexp)


def softplus(x: Any) -> Any:
    """``log(1 + e^x)`` without overflow."""
    return logaddexp(0.0, x)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent`` for positive x, through the logarithm: its derivatives in the exponent are cheap and exact."""
    return exp(exponent * log(x))


def polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Value at x, highest power first."""
    value = 0.0 * x
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
