"""Elementary functions that follow their arguments: numpy arrays, hyper-dual numbers, or JAX arrays and tracers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from laws.base.hyperdual import without_derivatives

if TYPE_CHECKING:
    import jax

    Numbers: TypeAlias = jax.Array | np.ndarray


def namespace(*arguments: Any) -> Any:
    """The module whose functions the arguments take: ``jax.numpy`` where one is JAX's, else ``numpy``.

    JAX is not imported for it: its arrays name their module themselves (``__array_namespace__`` of the array API
    standard). Hyper-dual numbers are numpy's, whose ufuncs they implement.
    """
    for argument in arguments:
        if not isinstance(argument, np.ndarray | float) and hasattr(argument, "__array_namespace__"):
            return argument.__array_namespace__()
    return np


def exp(x: Any) -> Any:
    """Exponential of every element."""
    return namespace(x).exp(x)


def log(x: Any) -> Any:
    """Natural logarithm of every element."""
    return namespace(x).log(x)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of two, element by element."""
    return namespace(x, y).minimum(x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger of two, element by element."""
    return namespace(x, y).maximum(x, y)


def clip(x: Any, low: Any, high: Any) -> Any:
    """Elements brought to within two ends."""
    return minimum(maximum(x, low), high)


def logaddexp(x: Any, y: Any) -> Any:
    """``log(e^x + e^y)`` without overflow."""
    return namespace(x, y).logaddexp(x, y)


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


def stop_gradient(x: Any) -> Any:
    """The same value, of which no derivatives are taken."""
    if namespace(x) is np:
        return without_derivatives(x)
    from jax.lax import stop_gradient as stop

    return stop(x)


def stack(arrays: Sequence[Any]) -> Any:
    """Arrays along a new last axis."""
    return namespace(*arrays).stack(arrays, axis=-1)
