"""What each device does with its own share of an array, under `jax.shard_map` on the mesh of the surrounding `jax.set_mesh`:
for what the compiler cannot split, or would split badly."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from training.mesh import RULES, axes_of, constrain, divisible, spec, ways


def by_tokens(
    fn: Callable[..., Any],
    tokens: tuple[Any, ...],
    whole: Any,
    sum_axis: int | None = None,
    whole_split: PartitionSpec | None = None,
) -> Any:
    """`fn(*tokens, whole)` of each device's own tokens.

    For what the compiler would not split by tokens, such as sorting them or merging batch and length, where each token's
    result depends on the token alone; and for sums over tokens, such as gradients of a table, which it would leave whole on
    every device.

    Args:
      fn: where `sum_axis` is given it returns (results of tokens, sums over tokens), whose sums are added over devices.
      tokens: trees of arrays [batch, length, ...], or of arrays [rows, ...] among them.
      whole: a tree of arrays that every device needs all of.
      sum_axis: of each sum, which the axes of "embed" then split where they divide it: half as much goes over the ring.
      whole_split: a partition of `whole` over axes that split tokens too; None: every device needs all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return fn(*tokens, whole)
    shape = min((leaf.shape for leaf in jax.tree.leaves(tokens)), key=len)[:2]
    wanted = divisible(spec(*("batch", "length")[: len(shape)]), shape, mesh)
    split = PartitionSpec(*(tuple(name for name in axes_of(entry) if mesh.shape[name] > 1) for entry in wanted))
    axes = tuple(name for entry in split for name in axes_of(entry))
    # Manual over "run", "replica" and "stage" too: `vmap(spmd_axis_name=...)` puts those axes in front, and `check_vma`
    # cannot see them, so that it is off.
    names = {*axes, "run", "replica", "stage"}
    if math.prod(mesh.shape[name] for name in names) == 1:
        return fn(*tokens, whole)
    specs, manual = (
        (*(split for _ in tokens), whole_split or PartitionSpec()),
        {"axis_names": names, "check_vma": False},
    )
    if sum_axis is None:
        return jax.shard_map(fn, in_specs=specs, out_specs=split, **manual)(*tokens, whole)

    _, shapes = jax.eval_shape(fn, *tokens, whole)
    along = tuple(name for name in axes_of(RULES["embed"]) if name in axes)
    count = math.prod(mesh.shape[name] for name in along)
    scattered = jax.tree.map(lambda x: bool(along) and x.ndim > sum_axis and x.shape[sum_axis] % count == 0, shapes)

    def summed(*arguments: Any) -> Any:
        results, sums = fn(*arguments)
        added = functools.partial(_added, axes, along, sum_axis)
        return results, jax.tree.map(added, sums, scattered)

    cut = PartitionSpec(*[None] * sum_axis, along)
    of_sums = jax.tree.map(lambda is_split: cut if is_split else PartitionSpec(), scattered)
    return jax.shard_map(summed, in_specs=specs, out_specs=(split, of_sums), **manual)(*tokens, whole)


def _added(axes: tuple[str, ...], along: tuple[str, ...], axis: int, total: jax.Array, is_split: bool) -> jax.Array:
    """The sum over devices along `axes`; of one that those of `along` split, the device's shard. A first axis is cut where a
    last one, whose shards do not fill the tiles of a TPU, would be summed whole."""
    if not is_split:
        return jax.lax.psum(total, axes)
    shard = jax.lax.psum_scatter(jnp.moveaxis(total, axis, 0), along, tiled=True)
    return jax.lax.psum(jnp.moveaxis(shard, 0, axis), tuple(name for name in axes if name not in along))


def by_queries(
    fn: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    whole: Any = None,
    whole_split: Any = None,
) -> jax.Array:
    """`fn(q, k, v, segments of q, segments of k, whole)` of each device's own rows, heads and queries, and all their keys.

    For attention by a kernel, which the compiler cannot split.

    Args:
      fn: returns an array of q's shape, but for the width.
      q, k, v: [batch, length, heads, width]; the axis "tensor" divides the heads of all three.
      segments: [batch, length], or None.
      whole: a tree of arrays.
      whole_split: their partitions; None: every device needs all of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return fn(q, k, v, segments, segments, whole)
    rows = divisible(spec("batch"), q.shape[:1], mesh)
    split, shared = PartitionSpec(*rows, RULES["length"], RULES["heads"], None), ways("length") > 1

    def local(q: jax.Array, k: jax.Array, v: jax.Array, own: Any, every: Any, whole: Any) -> jax.Array:
        if shared:  # the gradient of a gather is a scatter of sums
            k, v = (jax.lax.all_gather(x, RULES["length"], axis=1, tiled=True) for x in (k, v))
        return fn(q, k, v, own, every, whole)

    specs = (split, split, split, PartitionSpec(*rows, RULES["length"]), rows, whole_split or PartitionSpec())
    # Manual over all axes: those of runs, replicas and stages are put in front by `vmap`.
    apply = jax.shard_map(local, in_specs=specs, out_specs=split, check_vma=False)
    return apply(q, k, v, segments, segments, whole)


def with_heads_to_split(x: jax.Array, heads: int) -> jax.Array:
    """Keys or values [batch, length, heads, width], repeated for every query head where "tensor" does not divide them."""
    return x if x.shape[2] % ways("kv") == 0 else jnp.repeat(x, heads // x.shape[2], axis=2)


@jax.custom_vjp
def gathered(x: jax.Array) -> jax.Array:
    """Keys or values [batch, length, heads, width] of whole sequences, on every device that has a part of them; their
    gradient is scattered as it is summed."""
    # First where they are made, lest the compiler gather what they are made of and every device make all of them.
    return constrain(constrain(x, "batch", "length", "kv", None), "batch", None, "kv", None)


gathered.defvjp(
    lambda x: (gathered(x), None),
    lambda _, grad: (constrain(grad, "batch", "length", "kv", None),),
)
