"""What TPUs need: attention by JAX's splash kernel, which never holds the scores of all pairs.

The layers of `training.nets` call this where the devices of the mesh are TPUs. A Pallas kernel cannot be split by the
compiler, so that it runs under `shard_map`, each device on its own rows and heads.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from training import mesh as meshes

LANES = 128  # of a vector register: widths and lengths of the kernel are multiples of it
BLOCK = 1024  # queries and keys at a time
BLOCK_COMPUTE = 512  # keys of a block that are multiplied at a time


def attend(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    segments: Int[Array, "batch length"] | None,
    causal: bool,
    window: int,
    interpret: bool = False,
) -> Float[Array, "batch length heads width"]:
    """As `training.nets.attention.attend`.

    Args:
      q, k, v, segments, causal, window: as there.
      interpret: run the kernel by JAX's interpreter, for tests without a TPU.
    """
    mesh = jax.sharding.get_abstract_mesh()
    batch, length, heads, width = q.shape
    if not mesh.empty and k.shape[2] % meshes.ways("kv"):  # fewer than the axis: every device has its queries' own
        k, v = (jnp.repeat(part, heads // k.shape[2], axis=2) for part in (k, v))
    padding = -length % LANES
    if padding and segments is None and not causal:
        segments = jnp.zeros((batch, length), jnp.int32)  # no token sees what is added
    q, k, v = (_by_head(part, padding) for part in (q * width**-0.5, k, v))
    if segments is not None:
        segments = jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, padding)), constant_values=-1)
    local = functools.partial(_local, causal=causal, window=window, interpret=interpret)
    if mesh.empty or mesh.size == 1:
        out = local(q, k, v, segments)
    else:
        axes = meshes.RULES["batch"] if batch % meshes.ways("batch") == 0 else None
        split, rows = PartitionSpec(axes, "tensor", None, None), PartitionSpec(axes, None)
        # Manual over all axes: those of runs and replicas are put in front by `vmap`.
        out = jax.shard_map(local, in_specs=(split, split, split, rows), out_specs=split, check_vma=False)(
            q, k, v, segments
        )
    return jnp.swapaxes(out[:, :, :length], 1, 2)


def _by_head(x: Float[Array, "batch length heads width"], padding: int) -> Float[Array, "batch heads padded width"]:
    return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, padding), (0, 0)))


def _local(
    q: Float[Array, "batch heads length width"],
    k: Float[Array, "batch kv_heads length width"],
    v: Float[Array, "batch kv_heads length width"],
    segments: Int[Array, "batch length"] | None,
    causal: bool,
    window: int,
    interpret: bool,
) -> Float[Array, "batch heads length width"]:
    """Attention of one device's rows and heads: one call of the kernel for each key head and its queries."""
    # Pallas takes 0.3 s to import, which no other platform needs.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
        splash_attention_mask,
    )

    batch, heads, length, width = q.shape
    group = heads // k.shape[1]
    square = (length, length)
    if window:
        mask = splash_attention_mask.LocalMask(square, (window - 1, 0), 0)
    else:
        mask = (splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask)(square)
    kernel = splash.make_splash_mqa_single_device(
        splash_attention_mask.MultiHeadMask([mask] * group),
        block_sizes=splash.BlockSizes(**_blocks(length)),
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
    ids = None if segments is None else splash.SegmentIds(segments, segments)
    of_head = jax.vmap(kernel, (0, 0, 0, None))
    out: Any = jax.vmap(of_head, (0, 0, 0, None if ids is None else 0))(
        q.reshape(batch, -1, group, length, width), k, v, ids
    )
    return out.reshape(q.shape)


def _blocks(length: int) -> dict[str, Any]:
    """The largest blocks up to `BLOCK` that divide the length."""
    block = max(size for size in range(LANES, min(BLOCK, length) + 1, LANES) if length % size == 0)
    compute = block if block <= BLOCK_COMPUTE or block % BLOCK_COMPUTE else BLOCK_COMPUTE
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return dict.fromkeys(names, block) | {"block_kv_compute": compute, "block_kv_dkv_compute": compute}
