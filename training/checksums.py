"""Checksums of arrays: the words of each summed modulo 2^32, so that no layout over devices changes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by bytes of an element


def sums(tree: PyTree[Array]) -> UInt32[Array, " leaves"]:
    """The checksum of each leaf of a tree, in the order of its leaves."""
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return _on_devices(tree)
    return jax.device_put(np.array([_on_host(leaf) for leaf in jax.tree.leaves(tree)], np.uint32))


def _on_host(leaf: Array) -> int:
    """Of the shards where they lie: it takes less than to compile the same, and no array is put together."""
    if isinstance(leaf, jax.Array):
        parts = [np.asarray(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]
    else:
        parts = [np.asarray(leaf)]
    return sum(int(_words(part)) for part in parts) % 2**32


def _words(part: np.ndarray) -> np.uint32:
    if part.dtype == np.bool_:
        return part.sum(dtype=np.uint32)
    return np.ascontiguousarray(part).reshape(-1).view(f"u{min(part.dtype.itemsize, 4)}").sum(dtype=np.uint32)


@jax.jit
def _on_devices(tree: PyTree[Array]) -> Array:
    def of(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            return jnp.sum(leaf, dtype=jnp.uint32)
        return jnp.sum(jax.lax.bitcast_convert_type(leaf, WORDS[leaf.dtype.itemsize]), dtype=jnp.uint32)

    leaves = jax.tree.leaves(tree)
    return jnp.stack([of(leaf) for leaf in leaves]) if leaves else jnp.zeros(0, jnp.uint32)
