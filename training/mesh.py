"""One mesh and one rule table: which mesh axes each logical axis of a parameter or activation is split over."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from training.accelerators import by_kind
from training.errors import BadInput

AXES = (
    "run",
    "replica",
    "data",
    "stage",
    "fsdp",
    "expert",
    "context",
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
    "length": "context",
    "layers": "stage",
    "stage": "stage",
    "gates": None,
    "vocab": "tensor",
    "embed": ("fsdp", "context"),  # devices that share a sequence out share its parameters out too
    "heads": "tensor",
    "kv": "tensor",
    "mlp": "tensor",
    "position": None,
    "in": None,
    "out": ("fsdp", "context"),
    "embed_in_context": "context",  # of an activation, between the partition of a table and that of the stream
}


# Axes that may lie over the network between slices or nodes, where none is named: the first whose size allows it.
OVER_NETWORK = ("replica", "data", "stage", "fsdp")


def build(sizes: Mapping[str, Any] | ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of devices.

    Args:
      sizes: by axis of `AXES`, 1 where there is no entry; one may be -1: all devices that are left. Its entry "dcn_axis" is
        the axis that lies over the network between slices of TPUs or nodes of GPUs; None: the first of `OVER_NETWORK` whose
        size their number divides.
      devices: in the order of the platform; None: all there are.

    Raises:
      BadInput: the product of the sizes is not the number of devices it may use, a size is not positive, or no axis may lie
        over the network.
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
    return Mesh(
        _arranged(shape, list(devices[:wanted]), sizes.get("dcn_axis")), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def _arranged(shape: Sequence[int], devices: list[Any], dcn_axis: str | None) -> np.ndarray:
    """The devices as an array of `shape` whose axes lie along the links between them."""
    between = "process_index" if devices[0].platform == "gpu" else "slice_index"
    parts = len({getattr(device, between, 0) for device in devices})
    if dcn_axis is not None and dcn_axis not in OVER_NETWORK:
        raise BadInput(f"mesh.dcn_axis: {dcn_axis!r} is not one of {', '.join(OVER_NETWORK)}")
    if parts == 1 or devices[0].platform == "cpu":
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    names = OVER_NETWORK if dcn_axis is None else (dcn_axis,)
    axis = next((AXES.index(name) for name in names if shape[AXES.index(name)] % parts == 0), None)
    if axis is None:
        named = " or ".join(f"mesh.{name}" for name in names)
        raise BadInput(
            f"mesh: {dict(zip(AXES, shape, strict=True))} over {parts} slices or nodes: {named} must be a multiple of "
            f"{parts}"
        )
    inner, outer = list(shape), [1] * len(shape)
    inner[axis], outer[axis] = shape[axis] // parts, parts
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, process_is_granule=between == "process_index", allow_split_physical_axes=True
    )


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

    Where its mesh axes do not divide a dimension, they split another one, see `partition`.

    Raises:
      BadInput: a parameter carries no logical axes, or one that no rule covers.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise BadInput(f"mesh: parameter {jax.tree_util.keystr(path)} names no logical axes")
        shape = leaf.value.shape
        if len(leaf.names) != len(shape):
            raise BadInput(f"mesh: parameter {jax.tree_util.keystr(path)}: axes {leaf.names} for the shape {shape}")
        return NamedSharding(mesh, partition(leaf.names, shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def partition(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The partition of a parameter whose dimensions carry these logical axes.

    Mesh axes that do not divide their dimension split the largest other one that they divide, those of layers excepted,
    which a scan takes apart. Where there is none, the array is whole along them: see `left_whole`.
    """
    wanted = spec(*names)
    kept = list(divisible(wanted, tuple(shape), mesh))
    for entry in (entry for entry, placed in zip(wanted, kept, strict=True) if entry is not None and placed is None):
        others = [i for i, name in enumerate(names) if name != "layers" and wanted[i] != entry]
        free = [i for i in others if shape[i] % (_ways(kept[i], mesh) * _ways(entry, mesh)) == 0]
        if free and _ways(entry, mesh) > 1:
            chosen = max(free, key=lambda i: shape[i])
            kept[chosen] = (*axes_of(kept[chosen]), *axes_of(entry))
    return PartitionSpec(*kept)


def left_whole(abstract: Any, mesh: Mesh) -> dict[str, int]:
    """Bytes of the parameters that mesh axes should split and do not, by name.

    Args:
      abstract: a tree of boxed abstract parameters.
      mesh: where they lie.
    """
    found = {}
    leaves = jax.tree_util.tree_leaves_with_path(abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    for path, leaf in leaves:
        used = {name for entry in partition(leaf.names, leaf.value.shape, mesh) for name in axes_of(entry)}
        wanted = {name for entry in spec(*leaf.names) for name in axes_of(entry) if mesh.shape[name] > 1}
        if wanted - used:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = math.prod(leaf.value.shape) * leaf.value.dtype.itemsize
    return found


REPLICATED = 0.02  # share of the parameters' bytes that may be whole on every device of a mesh with fsdp


def check_split(abstract: Any, mesh: Mesh, allow: bool) -> None:
    """Refuse a mesh with fsdp or context on which too many parameters stay whole, and warn of fewer.

    Args:
      abstract: the parameters, a tree of boxed abstract arrays.
      mesh: where they lie.
      allow: `mesh.allow_replicated`.

    Raises:
      BadInput: more than `REPLICATED` of their bytes are whole.
    """
    found = left_whole(abstract, mesh)
    over = " ".join(f"{axis}={mesh.shape[axis]}" for axis in axes_of(RULES["embed"]) if mesh.shape[axis] > 1)
    if not found or not over:
        return
    leaves = jax.tree.leaves(nn.meta.unbox(abstract))
    share = sum(found.values()) / sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    largest = max(found, key=lambda name: found[name])
    told = (
        f"mesh: {over} divides no dimension of {largest} ({found[largest] / 2**20:,.1f} MiB), and "
        f"{share:.1%} of the parameters are whole on every device"
    )
    if share > REPLICATED and not allow:
        raise BadInput(
            f"{told}: a smaller mesh.fsdp with mesh.data, a width that it divides, or mesh.allow_replicated=true"
        )
    warnings.warn(told, stacklevel=2)


def divisible(partition: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The partition without the entries that do not divide their dimension."""
    split = zip(partition, shape, strict=True)
    return PartitionSpec(*(entry if size % _ways(entry, mesh) == 0 else None for entry, size in split))


def _ways(entry: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[name] for name in axes_of(entry))


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a `PartitionSpec`."""
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pin an activation to the mesh of the surrounding `jax.set_mesh`; the identity where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, divisible(spec(*logical), x.shape, mesh))


def ways(logical: str) -> int:
    """Into how many shards the mesh of the surrounding `jax.set_mesh` splits this axis; 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _ways(RULES[logical], mesh)  # type: ignore[arg-type]


def platform() -> str:
    """What the devices of the surrounding `jax.set_mesh` are ("cpu", "gpu" or "tpu"); without one, JAX's default backend."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def device_memory() -> float | None:
    """Bytes of a device of the surrounding `jax.set_mesh`, as `training.accelerators` has them; None: not known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    chip = None if device is None or device.platform == "cpu" else by_kind(device.device_kind)
    return None if chip is None else chip.memory


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
    sharding = rows_sharding(shape, mesh, batch_axis, axis)
    return jax.make_array_from_callback(shape, sharding, lambda index: np.asarray(rows((index or ())[batch_axis])))


def rows_sharding(shape: tuple[int, ...], mesh: Mesh, batch_axis: int = 0, axis: str = "rows") -> NamedSharding:
    """The sharding of a batch; arguments as of `place`. A batch that the axis does not divide is whole everywhere."""
    partition: list[Any] = [None] * len(shape)
    partition[batch_axis] = RULES[axis]
    return NamedSharding(mesh, divisible(PartitionSpec(*partition), shape, mesh))
