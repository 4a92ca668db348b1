"""What each device does with its own share of an array, under `jax.shard_map` on the mesh of the surrounding `jax.set_mesh`:
for what the compiler cannot split, or would split badly."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from training.mesh import RULES, axes_of, constrain, divisible, spec, ways


class Tokens(NamedTuple):
    """How devices share tokens out.

    Attributes:
      partition: of batch and length.
      axes: of the mesh that split them.
      along: those of `axes` that split parameters too.
      manual: keywords of `jax.shard_map`.
    """

    partition: PartitionSpec
    axes: tuple[str, ...]
    along: tuple[str, ...]
    manual: dict[str, Any]

    def divide(self, axis: int, x: Any) -> bool:
        """Whether the axes of parameters split this axis of an array."""
        shards = math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in self.along)
        return bool(self.along) and x.ndim > axis and x.shape[axis] % shards == 0


def _shared_out(tokens: tuple[Any, ...]) -> Tokens | None:
    """How trees of arrays [batch, length, ...], or [rows, ...] among them, are shared out; None: they are not."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return None
    shape = min((leaf.shape for leaf in jax.tree.leaves(tokens)), key=len)[:2]
    wanted = divisible(spec(*("batch", "length")[: len(shape)]), shape, mesh)
    split = PartitionSpec(*(tuple(name for name in axes_of(entry) if mesh.shape[name] > 1) for entry in wanted))
    axes = tuple(name for entry in split for name in axes_of(entry))
    # Manual over "run", "replica" and "stage" too: `vmap(spmd_axis_name=...)` puts those axes in front, and `check_vma`
    # cannot see them, so that it is off.
    names = {*axes, "run", "replica", "stage"}
    if math.prod(mesh.shape[name] for name in names) == 1:
        return None
    along = tuple(name for name in axes_of(RULES["embed"]) if name in axes)
    return Tokens(split, axes, along, {"axis_names": names, "check_vma": False})


def by_tokens(
    fn: Callable[..., Any], tokens: tuple[Any, ...], whole: Any, whole_split: PartitionSpec | None = None
) -> Any:
    """`fn(*tokens, whole)` of each device's own tokens.

    For what the compiler would not split by tokens, such as sorting them or merging batch and length, where each token's
    result depends on the token alone.

    Args:
      fn: returns arrays [batch, length, ...].
      tokens: trees of arrays [batch, length, ...].
      whole: a tree of arrays that every device needs all of.
      whole_split: a partition of `whole` over axes that split tokens too; None: as said.
    """
    shared = _shared_out(tokens)
    if shared is None:
        return fn(*tokens, whole)
    specs = (*(shared.partition for _ in tokens), whole_split or PartitionSpec())
    return jax.shard_map(fn, in_specs=specs, out_specs=shared.partition, **shared.manual)(*tokens, whole)


def by_tokens_gathered(fn: Callable[..., Any], tokens: tuple[Any, ...], whole: Any, axis: int) -> Any:
    """As `by_tokens`; each array of `whole` is gathered along an axis where devices split it, so that the gradient that JAX
    derives is scattered as it is summed: half as much goes over the ring."""
    shared = _shared_out(tokens)
    if shared is None:
        return fn(*tokens, whole)
    leaves, tree = jax.tree.flatten(whole)
    split = [shared.divide(axis, leaf) for leaf in leaves]
    cut = PartitionSpec(*[None] * axis, shared.along)

    def gathering(*arguments: Any) -> Any:
        *own, shards = arguments
        join = functools.partial(jax.lax.all_gather, axis_name=shared.along, axis=axis, tiled=True)
        joined = [join(shard) if is_split else shard for shard, is_split in zip(shards, split, strict=True)]
        return fn(*own, tree.unflatten(joined))

    specs = (*(shared.partition for _ in tokens), [cut if is_split else PartitionSpec() for is_split in split])
    return jax.shard_map(gathering, in_specs=specs, out_specs=shared.partition, **shared.manual)(*tokens, leaves)


def sums_by_tokens(fn: Callable[..., Any], tokens: tuple[Any, ...], whole: Any, axis: int) -> Any:
    """Results of tokens, and sums over them such as gradients of a table, which the compiler would leave whole on every
    device.

    Args:
      fn: (*tokens, whole) -> (results of a device's own tokens, sums over these).
      tokens, whole: as in `by_tokens`; also arrays [rows, ...] among tokens.
      axis: of each sum, which the axes of parameters then split where they divide it.
    """
    shared = _shared_out(tokens)
    if shared is None:
        return fn(*tokens, whole)
    _, shapes = jax.eval_shape(fn, *tokens, whole)
    scattered = jax.tree.map(functools.partial(shared.divide, axis), shapes)

    def summed(*arguments: Any) -> Any:
        results, sums = fn(*arguments)
        return results, jax.tree.map(functools.partial(_added, shared.axes, shared.along, axis), sums, scattered)

    cut = PartitionSpec(*[None] * axis, shared.along)
    of_sums = jax.tree.map(lambda is_split: cut if is_split else PartitionSpec(), scattered)
    specs = (*(shared.partition for _ in tokens), PartitionSpec())
    apply = jax.shard_map(summed, in_specs=specs, out_specs=(shared.partition, of_sums), **shared.manual)
    return apply(*tokens, whole)


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
