"""Where the laws compute: in float64, on the CPU, and without touching JAX's global settings."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Arrays made inside are float64 on the CPU; outside, nothing has changed."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
