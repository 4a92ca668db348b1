"""Devices that are not there: their names, meshes over slices and nodes, and what is read of compiled programs."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P

from benchmarks import kernel_cycles
from training import hlo, loop, mesh as meshes, topology
from training.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a slice or a node, which holds nothing."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "no such TPU"
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def slices(count, size):
    return [Device(i, slice_index=i // size, coords=(i % size, 0, 0)) for i in range(count * size)]


def nodes(count, size):
    return [Device(i, process_index=i // size, platform="gpu", device_kind="no such GPU") for i in range(count * size)]


@pytest.mark.parametrize("devices", [slices(2, 4), nodes(2, 4)], ids=["slices", "nodes"])
def test_one_axis_lies_over_the_network(devices):
    """Devices that differ along any other axis are of one slice or node."""
    part = lambda device: device.slice_index + device.process_index
    for sizes, axis in (({"data": 4, "fsdp": 2}, 2), ({"data": 1, "fsdp": 8}, 4), ({"replica": 2, "data": 4}, 1)):
        grid = meshes.build(sizes, devices)
        assert {device.id for device in grid.devices.flat} == set(range(8))
        where = np.vectorize(part)(grid.devices)
        moved = np.moveaxis(where, axis, 0).reshape(grid.devices.shape[axis], -1)
        assert (moved == moved[:, :1]).all() and len(set(moved[:, 0])) == 2
    grid = meshes.build({"data": 2, "fsdp": 4, "dcn_axis": "fsdp"}, devices)
    assert {part(device) for device in grid.devices[0, 0, 0, 0].flat} == {0, 1}


def test_a_mesh_that_fits_no_network_is_refused():
    with pytest.raises(
        BadInput,
        match="over 3 slices or nodes: mesh.replica or mesh.data or mesh.stage or mesh.fsdp must be a multiple of 3",
    ):
        meshes.build({"data": 1, "tensor": 6}, slices(3, 2))
    with pytest.raises(BadInput, match="mesh.data must be a multiple of 2"):
        meshes.build({"data": 1, "fsdp": 8, "dcn_axis": "data"}, nodes(2, 4))
    with pytest.raises(BadInput, match="mesh.dcn_axis: 'tensor' is not one of replica, data, stage, fsdp"):
        meshes.build({"data": 8, "dcn_axis": "tensor"}, slices(2, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x:4x4", "no accelerator 'v5x'; did you mean 'v5p'?"),
        ("v5p", "is no ACCELERATOR:SHAPE"),
        ("h100:8:8", "is no ACCELERATOR:SHAPE"),
    ],
)
def test_names_that_are_none_are_refused(name, message):
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        topology.resolve(name)


def box(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


def test_what_an_axis_does_not_divide_is_split_along_another_dimension():
    grid = meshes.build({"data": 1, "fsdp": 8})
    assert meshes.partition(("embed", "mlp"), (12, 64), grid) == P(None, ("tensor", "fsdp", "context"))
    assert meshes.partition(("layers", "embed", "mlp"), (16, 12, 20), grid) == P("stage", None, "tensor")
    assert meshes.partition(("embed", "mlp"), (64, 12), grid) == P(("fsdp", "context"), "tensor")
    tree = {"a": box((12, 64), "embed", "mlp"), "b": box((16, 12, 20), "layers", "embed", "mlp"), "c": box((12,), None)}
    assert meshes.left_whole(tree, grid) == {"b": 16 * 12 * 20 * 4}
    with pytest.raises(
        BadInput, match=r"fsdp=8 divides no dimension of b .* 83\.1% of the parameters .*allow_replicated"
    ):
        meshes.check_split(tree, grid, allow=False)
    with pytest.warns(UserWarning, match="divides no dimension of b"):
        meshes.check_split(tree, grid, allow=True)
    meshes.check_split({"a": tree["a"], "c": tree["c"]}, grid, allow=False)
    with pytest.raises(BadInput, match=r"mesh: fsdp=2 context=4 divides no dimension of b"):
        meshes.check_split(tree, meshes.build({"data": 1, "fsdp": 2, "context": 4}), allow=False)


def test_a_run_that_would_be_replicated_is_refused(tmp_path):
    config = toy.config(**{"model.width": 5, "mesh.data": 1, "mesh.fsdp": 8})
    with pytest.raises(BadInput, match=r"mesh: fsdp=8 divides no dimension of kernel"):
        loop.run(config, tmp_path)


PROGRAM = """HloModule step, num_partitions=8

%inside (x: f32[8,64]) -> f32[64,64] {
  %x = f32[8,64]{1,0} parameter(0)
  ROOT %gathered = f32[64,64]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
}

%condition (state: (s32[], f32[8,64])) -> pred[] {
  %state = (s32[], f32[8,64]{1,0}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %bound = s32[] constant(12)
  ROOT %more = pred[] compare(%index, %bound), direction=LT
}

%body (state: (s32[], f32[8,64])) -> (s32[], f32[8,64]) {
  %state.1 = (s32[], f32[8,64]{1,0}) parameter(0)
  %index.1 = s32[] get-tuple-element(%state.1), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%index.1, %two)
  %value = f32[8,64]{1,0} get-tuple-element(%state.1), index=1
  %whole = f32[64,64]{1,0} fusion(%value), kind=kCustom, calls=%inside, backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[], f32[8,64]{1,0}) tuple(%next, %value)
}

ENTRY %main (p: f32[8,64]) -> f32[8,64] {
  %p = f32[8,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,64]{1,0}) tuple(%zero, %p)
  %loop = (s32[], f32[8,64]{1,0}) while(%start), condition=%condition, body=%body
  %result = f32[8,64]{1,0} get-tuple-element(%loop), index=1
  %both = ((bf16[4,4], bf16[2]), (bf16[8,4], bf16[4])) all-gather-start(%p, %p), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %scatter = ((f32[8,4], f32[16]), (f32[4,4], f32[8])) reduce-scatter-start(%p, %p), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  ROOT %sum = f32[8,64] all-reduce(%result), replica_groups={{0,1,2,3,4,5,6,7}}, backend_config={"estimated_cycles":"7"}
}
"""


def test_loops_count_as_often_as_they_run():
    program = hlo.computations(PROGRAM)
    times = hlo.executions(program)
    assert times["body"] == times["inside"] == 6 and times["ENTRY"] == 1
    assert hlo.cycles(program, times) == 6 * 100 + 7
    assert hlo.cycles(hlo.computations("ENTRY %main () -> f32[] {\n  ROOT %a = f32[] constant(1)\n}"), times) is None


NOTATIONS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}": ("fsdp",),
    "replica_groups={{0,4},{1,5},{2,6},{3,7}}": ("data",),
    "replica_groups=[2,4]<=[8]": ("fsdp",),
    "replica_groups=[4,2]<=[2,4]T(1,0)": ("data",),
    "replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}": ("fsdp",),
    "replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}": ("data",),
    "replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([8]) {'axis_1'}": ("fsdp",),
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}": ("data",),
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}": ("data", "fsdp"),
    "replica_groups={}": ("data", "fsdp"),
}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_groups_of_devices_are_read_in_every_notation(notation):
    grid = meshes.build({"data": 2, "fsdp": 4})
    line = f"  ROOT %sum = f32[8]{{0}} all-reduce(%p), channel_id=1, {notation}, use_global_device_ids=true"
    program = hlo.computations(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}")
    (row,) = hlo.collectives(program, hlo.executions(program), grid)
    size = math.prod(grid.shape[axis] for axis in NOTATIONS[notation])
    assert row.axes == NOTATIONS[notation] and row.ring_bytes == 2 * 32 * (size - 1) / size


def test_a_collective_beside_several_fusions_is_one():
    """TPU compilers write an asynchronous gather into every fusion that runs beside it, under one channel."""
    gather = "all-gather(%x), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}"
    fusions = "".join(
        f"%part.{i} (x: f32[1,4]) -> f32[8,4] {{\n  ROOT %gathered.{i} = f32[8,4]{{1,0}} {gather}\n}}\n\n"
        for i in range(3)
    )
    calls = "".join(f"  %c.{i} = f32[8,4]{{1,0}} fusion(%p), kind=kCustom, calls=%part.{i}\n" for i in range(3))
    text = f"{fusions}ENTRY %main (p: f32[1,4]) -> f32[8,4] {{\n{calls}}}"
    program = hlo.computations(text)
    (row,) = hlo.collectives(program, hlo.executions(program), meshes.build({"data": 8}))
    assert (row.count, row.ring_bytes) == (1, 8 * 4 * 4 * 7 / 8)


def test_groups_in_a_notation_not_known_are_an_error():
    line = "  ROOT %sum = f32[8]{0} all-reduce(%p), replica_groups=torus['x'=8] {'x'}"
    program = hlo.computations(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}")
    with pytest.raises(ValueError, match="unknown notation"):
        hlo.collectives(program, hlo.executions(program), meshes.build({"data": 8}))


def test_collectives_are_told_by_kind_axis_and_bytes_on_the_ring():
    grid = meshes.build({"data": 2, "fsdp": 4})
    program = hlo.computations(PROGRAM)
    rows = {(row.kind, row.axes): row for row in hlo.collectives(program, hlo.executions(program), grid)}
    found = {("all-gather", ("fsdp",)), ("all-gather", ("data",)), ("all-reduce", ("data", "fsdp"))}
    assert rows.keys() == found | {("reduce-scatter", ("data",))}
    gathered = rows["all-gather", ("fsdp",)]
    assert gathered.count == 6 and gathered.ring_bytes == 6 * 64 * 64 * 4 * 3 / 4
    assert rows["all-gather", ("data",)].ring_bytes == (32 + 4) * 2 / 2
    assert rows["reduce-scatter", ("data",)].ring_bytes == (32 + 16) * 4 / 2
    assert rows["all-reduce", ("data", "fsdp")].ring_bytes == 2 * 8 * 64 * 4 * 7 / 8


def test_a_compiled_program_of_this_machine_is_read():
    """An FSDP product over eight devices in a scan: the gathers of its weights, by the compiler's own text."""
    grid = meshes.build({"data": 1, "fsdp": 8})
    where = lambda *axes: jax.NamedSharding(grid, P(*axes))

    def step(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    function = jax.jit(step, in_shardings=(where(None, "fsdp"), where("fsdp")))
    compiled = function.lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, 64, 64), (16, 64)))).compile()
    program = hlo.computations(compiled.as_text())
    rows = hlo.collectives(program, hlo.executions(program), grid)
    sent = {row.kind: row.ring_bytes for row in rows if row.axes == ("fsdp",)}
    assert math.isclose(sent["all-gather"], 5 * 64 * 64 * 4 * 7 / 8)


KERNEL = """LB: loop header
PF: predicated region fallthrough

     0   :  { %1 = inst } /* Start region 5 */
   0x4 LB: > { %2 = inst } /* Start region 90 */
   0x6   : > { %3 = sbr.rel (%p1) target = $region40 }
   0xb   : > { %4 = inst } /* Start region 39 */
   0xc   : > { %5 = sbr.rel (%p2) target = $region56 }
  0x11   : > { %6 = inst } /* Start region 55 */
  0x14 PF: > { %7 = inst } /* Start/End empty region 56 :: Start region 57 */
  0x15   : > { %8 = sbr.rel (!%p3) target = $region60 }
  0x41 PF: > { %9 = inst } /* Start/End empty region 60 */
  0x42   : > { %10 = sbr.rel (%p4) target = $region64 }
  0x4c PF: > { %11 = inst } /* Start/End empty region 64 */
  0x50 PF: > { %12 = inst } /* Start/End empty region 40 */
  0x5f   : > { %13 = sbr.rel (!%p5) target = $region90 }
  0x63   :  { %14 = inst } /* End region 5 */
"""


def test_the_bundles_of_a_kernel_count_as_often_as_they_run():
    """A body of 96 bundles, of which 3, 39 and 5 are skipped; four steps of the grid for each of 16 heads on two cores."""
    bundles = kernel_cycles.read(KERNEL)
    assert bundles == (96, (3, 39, 5))
    assert kernel_cycles.cycles(bundles, 2, 2) == 8 * (2 * (3 + 5) + 3 * 39 + 4 * (96 - 3 - 39 - 5))
    inner = KERNEL.replace("0x41 PF", "0x41 LB")
    with pytest.raises(ValueError, match="2 loops"):
        kernel_cycles.read(inner)
