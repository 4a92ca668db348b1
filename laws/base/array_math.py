"""Elementary functions that follow their arguments: numpy arrays, hyper-dual numbers, or JAX arrays and tracers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from laws.base.errors import InputError
from laws.base.hyperdual import without_derivatives

if TYPE_CHECKING:
    import jax

    Numbers: TypeAlias = jax.Array | np.ndarray


def numbers_of(values: Any, what: str) -> np.ndarray:
    """Values that were given as float64.

    Args:
        values: a number, an array, a column or what else NumPy takes.
        what: they are, as messages call them.

    Raises:
        InputError: one of them is no number.

    Example:
        >>> numbers_of(["1e9", 2], "column 'n'")
        array([1.e+09, 2.e+00])
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{what} is not numbers ({reason})") from error


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
    """Exponential, elementwise."""
    return namespace(x).exp(x)


def log(x: Any) -> Any:
    """Natural logarithm, elementwise."""
    return namespace(x).log(x)


def minimum(x: Any, y: Any) -> Any:
    """Minimum of two arrays, elementwise."""
    return namespace(x, y).minimum(x, y)


def maximum(x: Any, y: Any) -> Any:
    """Maximum of two arrays, elementwise."""
    return namespace(x, y).maximum(x, y)


def clip(x: Any, low: Any, high: Any) -> Any:
    """Elements limited to an interval.

    Args:
        x: the elements.
        low: the least that is returned.
        high: the most that is returned.

    Example:
        >>> clip(np.array([-1.0, 0.5, 3.0]), 0.0, 1.0)
        array([0. , 0.5, 1. ])
    """
    return minimum(maximum(x, low), high)


def logaddexp(x: Any, y: Any) -> Any:
    """``log(e^x + e^y)``, elementwise, without overflow."""
    return namespace(x, y).logaddexp(x, y)


def softplus(x: Any) -> Any:
    """``log(1 + e^x)``, elementwise, without overflow.

    Example:
        >>> softplus(np.array([0.0, 1000.0])).tolist()
        [0.6931471805599453, 1000.0]
    """
    return logaddexp(0.0, x)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent`` for positive x, elementwise, as ``exp(exponent log x)``: cheap derivatives in the exponent.

    Example:
        >>> power(np.array([4.0, 9.0]), 0.5)
        array([2., 3.])
    """
    return exp(exponent * log(x))


def polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Value of a polynomial at x, elementwise.

    Args:
        coefficients: highest power first.
        x: where.

    Example:
        >>> polynomial((1.0, 0.0, -2.0), np.array([0.0, 3.0]))
        array([-2.,  7.])
    """
    value = 0.0 * x
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def stop_gradient(x: Any) -> Any:
    """The same value as a constant, in which no derivatives are taken."""
    if namespace(x) is np:
        return without_derivatives(x)
    from jax.lax import stop_gradient as stop

    return stop(x)


def stack(arrays: Sequence[Any]) -> Any:
    """Arrays along a new last axis."""
    return namespace(*arrays).stack(arrays, axis=-1)
