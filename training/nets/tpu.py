"""What TPUs need: attention by JAX's splash kernel, which never holds all scores, and rotary positions by a product.

The layers of `training.nets` call this where the devices of the mesh are TPUs. A Pallas kernel cannot be split by the
compiler, so that it runs under `shard_map`, each device on its own rows, heads and queries.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from training import mesh as meshes, per_device
from training.errors import BadInput
from training.nets.primitives import upcast_to_f32

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
    batch, length, heads, width = q.shape
    shards = meshes.ways("length")
    if shards > 1 and length % (shards * LANES):
        raise BadInput(
            f"mesh.context: splash attention needs a multiple of {shards * LANES} tokens ({LANES} a device), got {length}; "
            "model.attention=xla"
        )
    k, v = per_device.with_heads_to_split(k, heads), per_device.with_heads_to_split(v, heads)
    padding = -length % LANES
    if padding and segments is None and not causal:
        segments = jnp.zeros((batch, length), jnp.int32)  # no token sees what is added
    kernel = _kernel(length + padding, heads // k.shape[2], causal, window, shards, interpret)
    mesh = jax.sharding.get_abstract_mesh()
    split = None  # the mask of queries that see all keys is the same on every device
    if causal and not mesh.empty:
        split = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, meshes.RULES["length"])))  # type: ignore[arg-type]
    local = functools.partial(_local, padding)
    return per_device.by_queries(local, q * width**-0.5, k, v, segments, kernel, split)


def _kernel(length: int, group: int, causal: bool, window: int, shards: int, interpret: bool) -> Any:
    """The kernel for one key head and the `group` queries heads that attend with it.

    Args:
      length: of a sequence, a multiple of `LANES`.
      group: query heads.
      causal, window: as in `attend`.
      shards: that queries are split into; each has its own part of the mask.
      interpret: as in `attend`.
    """
    # Pallas takes 0.3 s to import, which no other platform needs.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
        splash_attention_mask,
    )

    if window:
        mask = splash_attention_mask.LocalMask((length, length), (window - 1, 0), 0)
    elif causal:
        mask = splash_attention_mask.CausalMask((length, length))
    else:  # of one device: jax splits no full mask (0.10.2, findings/jax_splash_full_mask_in_shards.sh)
        mask, shards = splash_attention_mask.FullMask((length // shards, length)), 1
    return splash.make_splash_mqa(
        splash_attention_mask.MultiHeadMask([mask] * group),
        block_sizes=splash.BlockSizes(**_blocks(mask.shape[0] // shards)),
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def _local(
    padding: int,
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    of_queries: Int[Array, "batch queries"] | None,
    of_keys: Int[Array, "batch length"] | None,
    kernel: Any,
) -> Float[Array, "batch queries heads width"]:
    """Attention of one device's rows and heads, filled up with `padding` tokens: one call of the kernel for each key head
    and its queries."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    queries = q.shape[1]
    q, k, v = (jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, padding), (0, 0))) for x in (q, k, v))
    ids = None
    if of_queries is not None and of_keys is not None:
        filled = (
            jnp.pad(x.astype(jnp.int32), ((0, 0), (0, padding)), constant_values=-1) for x in (of_queries, of_keys)
        )
        ids = splash.SegmentIds(*filled)
    of_head = jax.vmap(kernel, (0, 0, 0, None))
    grouped = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[2:])
    out: Any = jax.vmap(of_head, (0, 0, 0, None if ids is None else 0))(grouped, k, v, ids)
    return jnp.swapaxes(out.reshape(q.shape)[:, :, :queries], 1, 2)


def _blocks(length: int) -> dict[str, Any]:
    """The largest blocks up to `BLOCK` that divide the length."""
    block = max(size for size in range(LANES, min(BLOCK, length) + 1, LANES) if length % size == 0)
    compute = block if block <= BLOCK_COMPUTE or block % BLOCK_COMPUTE else BLOCK_COMPUTE
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return dict.fromkeys(names, block) | {"block_kv_compute": compute, "block_kv_dkv_compute": compute}


@jax.custom_vjp
def rotate(
    x: Float[Array, "batch length heads width"], cos: Float[Array, "... half"], sin: Float[Array, "... half"]
) -> Float[Array, "batch length heads width"]:
    """As `training.nets.layers.rotate`, whose halves of a head do not fill the lanes of a register.

    The features that each is paired with are a product with a matrix of zeros and ones, which is exact. The gradient is the
    rotation by the opposite angle, in float32 as the rotation itself.
    """
    full_cos, full_sin = (jnp.concatenate([part, part], axis=-1) for part in (cos, sin))
    paired = jnp.matmul(x, _pairs(x.shape[-1]).astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
    return (upcast_to_f32(x) * full_cos + upcast_to_f32(paired) * full_sin).astype(x.dtype)


def _pairs(width: int) -> np.ndarray:
    """A matrix [width, width] that puts features a half of the width apart in each other's place, the first negative."""
    return np.kron([[0, 1], [-1, 0]], np.eye(width // 2))


rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda angles, grad: (rotate(grad, angles[0], -angles[1]), None, None),
)
