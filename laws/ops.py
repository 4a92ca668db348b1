"""Exponential, logarithm and power that follow their arguments: numpy in, numpy out; traced by JAX where JAX asks."""

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


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent`` for positive x, through the logarithm: its derivatives in the exponent are cheap and exact."""
    return exp(exponent * log(x))
