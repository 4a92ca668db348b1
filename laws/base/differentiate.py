"""First and second derivatives of elementwise functions: by hyper-dual numbers, or by JAX for functions that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from laws.base.hyperdual import HyperDual, variables
from laws.base.x64 import float64

BLOCKS = (8, 128)  # numbers of points for which JAX compiles; fewer are filled up, more are cut

# (variables, arrays of the same points by name, what is shared by all points) -> array
Function = Callable[[Sequence[Any], Mapping[str, Any], Mapping[str, Any]], Any]


def second_order(function: Function) -> Callable[..., HyperDual]:
    """The function together with its first and second derivatives in its variables.

    One that is written with arithmetic, numpy's ufuncs and ``laws.base.array_math`` is evaluated on hyper-dual numbers.
    One that does not take them (of ``jax.numpy``) is differentiated and compiled by JAX, which is then imported.

    Args:
        function: elementwise, of variables whose first axis counts points, other arrays along the same axis, and arrays
            that all points share.

    Returns:
        the same function of numpy arrays, whose result is a hyper-dual number.
    """
    compiled: Callable[..., HyperDual] | None = None

    def differentiated(values, points=None, shared=None) -> HyperDual:
        nonlocal compiled
        if compiled is None:
            try:
                return function(variables(values), points or {}, shared or {})
            except TypeError:
                compiled = _by_jax(function)
        return compiled(values, points or {}, shared or {})

    return differentiated


def _by_jax(function: Function) -> Callable[..., HyperDual]:
    """The same by forward over forward mode of JAX, compiled for few shapes."""
    import jax
    import jax.numpy as jnp

    def along(function: Callable, values: list[Any], i: int) -> Any:
        """Derivative in one variable, at all points at once: each result depends on its own point alone."""
        directions = [jnp.full_like(value, float(k == i)) for k, value in enumerate(values)]
        return jax.jvp(function, (values,), (directions,))[1]

    @jax.jit
    def derivatives(values, points, shared):
        evaluate, numbers = lambda values: function(values, points, shared), range(len(values))
        slope = lambda i: lambda values: along(evaluate, values, i)
        pairs = combinations_with_replacement(numbers, 2)
        first = {i: slope(i)(values) for i in numbers}
        return evaluate(values), first, {(i, j): along(slope(i), values, j) for i, j in pairs}

    def in_blocks(values, points, shared) -> HyperDual:
        count, blocks = len(values[0]), []
        size = next((size for size in BLOCKS if size >= count), BLOCKS[-1])
        for begin in range(0, count, size):
            rows = np.minimum(np.arange(begin, begin + size), count - 1)
            mine = jax.tree.map(lambda array, rows=rows: np.asarray(array, np.float64)[rows], (list(values), points))
            with float64():
                blocks.append(jax.tree.map(np.asarray, derivatives(*mine, shared)))
        return HyperDual(*jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *blocks))

    return in_blocks
