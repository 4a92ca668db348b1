"""One mesh and one rule table: which mesh axes each logical axis of a parameter or activation is split over."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from training.errors import BadInput

AXES = (
    "run",
    "replica",
    "data",
    "fsdp",
    "expert",
    "tensor",
)  # "run" is that of runs stepped together, and in no config

# logical axis -> mesh axes. A model names logical axes; an axis that is not in this table is an error.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "rows": ("replica", "data", "fsdp", "expert"),  # the batch before it is shared out among replicas
    "run": "run",
    "replica": "replica",
    "batch": ("data", "fsdp", "expert"),  # of one replica
    "group": ("data", "fsdp"),  # the batch where experts are an axis beside it
    "expert": "expert",
    "length": None,
    "layers": None,
    "gates": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv": "tensor",
    "mlp": "tensor",
    "position": None,
    "in": None,
    "out": "fsdp",
}


def build(sizes: Mapping[str, int] | ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """The mesh of `sizes` (by axis of `AXES`, 1 where there is no entry; one may be -1: all devices that are left).

    Raises:
      BadInput: the product of the sizes is not the number of devices it may use, or a size is not positive.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise BadInput(f"mesh: sizes must be positive with at most one -1, got {dict(zip(AXES, shape, strict=True))}")
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        if len(devices) % rest:
            raise BadInput(f"mesh: {len(devices)} devices are not divisible by {rest}, the product of the given axes")
        shape[shape.index(-1)] = len(devices) // rest
    wanted = math.prod(shape)
    if wanted > len(devices):
        raise BadInput(f"mesh: {dict(zip(AXES, shape, strict=True))} wants {wanted} devices, there are {len(devices)}")
    if wanted < len(devices) and jax.process_count() > 1:
        raise BadInput(f"mesh: {wanted} of {len(devices)} devices named; a run over many hosts must use all of them")
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:wanted])


def folded(mesh: Mesh) -> Mesh:
    """The same devices with the axes of runs and replicas folded into that of data: an evaluation has neither."""
    if mesh.shape["run"] * mesh.shape["replica"] == 1:
        return mesh
    devices = mesh.devices.reshape(1, 1, -1, *mesh.devices.shape[3:])
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_ways(mesh: Mesh) -> int:
    """Number of shards that the batch of a replica is split into."""
    return _ways(RULES["batch"], mesh)


def spec(*logical: str | None) -> PartitionSpec:
    """The partition of an array whose dimensions carry these logical axes (None: not split)."""
    try:
        return PartitionSpec(*(None if axis is None else RULES[axis] for axis in logical))
    except KeyError as error:
        raise BadInput(f"mesh: no rule for the logical axis {error.args[0]!r}; known: {', '.join(RULES)}") from None


def shardings(abstract: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` for every leaf of a tree of boxed abstract parameters.

    A dimension that its mesh axes do not divide stays whole (a tiny model on a wide mesh still runs).

    Raises:
      BadInput: a parameter carries no logical axes, or one that no rule covers.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise BadInput(f"mesh: parameter {jax.tree_util.keystr(path)} names no logical axes")
        shape = leaf.value.shape
        if len(leaf.names) != len(shape):
            raise BadInput(f"mesh: parameter {jax.tree_util.keystr(path)}: axes {leaf.names} for the shape {shape}")
        return NamedSharding(mesh, _divisible(spec(*leaf.names), shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def partition(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of an array of this shape whose dimensions carry these logical axes; see `shardings`."""
    return _divisible(spec(*names), shape, mesh)


def _divisible(partition: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    split = zip(partition, shape, strict=True)
    return PartitionSpec(*(entry if size % _ways(entry, mesh) == 0 else None for entry, size in split))


def _ways(entry: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pin an activation to the mesh of the surrounding `jax.set_mesh`; the identity where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, _divisible(spec(*logical), x.shape, mesh))


def ways(logical: str) -> int:
    """Into how many shards the mesh of the surrounding `jax.set_mesh` splits this axis; 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _ways(RULES[logical], mesh)  # type: ignore[arg-type]


def platform() -> str:
    """What the devices of the surrounding `jax.set_mesh` are ("cpu", "gpu" or "tpu"); without one, JAX's default backend."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def by_rows(fn: Callable[..., jax.Array], rows: tuple[jax.Array, ...], whole: Any) -> jax.Array:
    """`fn(*rows, whole)` of each device's own rows, on the mesh of the surrounding `jax.set_mesh`.

    For what the compiler would not split by rows, such as sorting them, where each row's result depends on the row alone.

    Args:
      rows: arrays whose first axis is the batch, or the batch's tokens.
      whole: a tree of arrays that every device needs all of.
    """
    mesh, axes = jax.sharding.get_abstract_mesh(), RULES["batch"]
    assert isinstance(axes, tuple)
    if mesh.empty or mesh.size == 1 or len(rows[0]) % _ways(axes, mesh):  # type: ignore[arg-type]
        return fn(*rows, whole)
    split, every = PartitionSpec(axes), PartitionSpec()
    specs = (*(split for _ in rows), every)
    # Manual over "run" and "replica" too: `vmap(spmd_axis_name=...)` puts those axes in front, and `check_vma` cannot see
    # them, so that it is off.
    names = {*axes, "run", "replica"}
    return jax.shard_map(fn, in_specs=specs, out_specs=split, axis_names=names, check_vma=False)(*rows, whole)


def place(rows: Any, shape: tuple[int, ...], mesh: Mesh, batch_axis: int = 0, axis: str = "rows") -> Any:
    """A global array split along one axis, of which this process makes only the part that its devices hold;
    on a mesh of one device, the host's array as it is.

    Args:
      rows: `rows(slice) -> array`, that part of the global array along `batch_axis`.
      shape: the global shape.
      axis: the logical axis that is split.
    """
    if mesh.size == 1:
        return np.asarray(rows(slice(None)))  # the call itself moves it, in a tenth of the time: tiny steps notice
    partition: list[Any] = [None] * len(shape)
    partition[batch_axis] = RULES[axis]
    sharding = NamedSharding(mesh, _divisible(PartitionSpec(*partition), shape, mesh))
    return jax.make_array_from_callback(shape, sharding, lambda index: np.asarray(rows((index or ())[batch_axis])))
