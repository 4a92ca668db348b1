"""Every random draw is a function of (seed, purpose, step): keys are folded, never carried."""

import zlib

import jax

type_of_key = "threefry2x32"


def key(seed: int | jax.Array, purpose: str, *steps: int | jax.Array) -> jax.Array:
    """The key of one purpose at one step: `seed` and `steps` may be traced, the purpose is a name.

    Args:
      seed: the run's seed.
      purpose: e.g. "init" or "dropout"; folded in by its CRC-32, so that purposes never share draws.
      *steps: the step, the micro-batch, ...
    """
    folded = jax.random.fold_in(jax.random.key(seed, impl=type_of_key), zlib.crc32(purpose.encode()))
    for step in steps:
        folded = jax.random.fold_in(folded, step)
    return folded
