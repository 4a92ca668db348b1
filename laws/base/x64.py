"""Where JAX computes for laws: in float64, on the CPU, and without touching its global settings."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """JAX arrays made inside are float64 on the CPU; outside, nothing has changed.

    Where JAX has not been imported nothing is done: numpy computes in float64 anyway, and a law that is written with
    ``jax.numpy`` has imported it.
    """
    if "jax" not in sys.modules:
        yield
        return
    import jax

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@dataclass(frozen=True)
class InFloat64:
    """A function of numpy arrays that may be written with ``jax.numpy``, evaluated in float64 by whoever calls it.

    Without this, ``jax.numpy`` would round to float32 wherever a caller forgets to ask for more. Two of one function are
    equal.

    Args:
        function: returns an array or a tuple of arrays.
    """

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """The function's results; arrays of JAX become arrays of numpy, unless JAX is tracing them."""
        if "jax" not in sys.modules:
            results = self.function(*arguments)
            if "jax" not in sys.modules:
                return results
        with float64():  # again, if the function has just imported JAX itself
            results = self.function(*arguments)
        return tuple(map(_as_numpy, results)) if isinstance(results, tuple) else _as_numpy(results)


def _as_numpy(array: Any) -> Any:
    """A JAX array that has values as a numpy array; whatever else as it is."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        return array
    return np.asarray(array)
