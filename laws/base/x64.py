"""Where JAX computes for laws: in float64, on the CPU, and without touching its global settings."""

import contextlib
import sys
from collections.abc import Iterator


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
