"""Meshes, the rule table, and where a state lies."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P

from training import mesh, per_device, state, step, step_spec
from training.config import resolve
from training.errors import BadInput


def test_one_axis_takes_what_is_left():
    found = mesh.build({"data": -1, "fsdp": 2, "tensor": 2})
    assert dict(found.shape) == {
        "run": 1,
        "replica": 1,
        "data": 2,
        "stage": 1,
        "fsdp": 2,
        "expert": 1,
        "context": 1,
        "tensor": 2,
    }
    found = mesh.build({"data": -1, "expert": 4})
    assert dict(found.shape) == {
        "run": 1,
        "replica": 1,
        "data": 2,
        "stage": 1,
        "fsdp": 1,
        "expert": 4,
        "context": 1,
        "tensor": 1,
    }
    with pytest.raises(BadInput, match="8 devices are not divisible by 3"):
        mesh.build({"data": -1, "fsdp": 3, "tensor": 1})
    with pytest.raises(BadInput, match="at most one -1"):
        mesh.build({"data": -1, "fsdp": -1, "tensor": 1})
    with pytest.raises(BadInput, match="sizes must be positive"):
        mesh.build({"data": 0, "fsdp": 1, "tensor": 1})


def test_every_parameter_must_be_covered():
    grid = mesh.build({"data": 1, "fsdp": 4, "tensor": 2})
    box = lambda *names: nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 6), jnp.float32), names)
    placed = mesh.shardings({"a": box("embed", "mlp"), "b": box("vocab", None)}, grid)
    assert placed["a"].spec == P(("fsdp", "context"), "tensor") and placed["b"].spec == P("tensor", None)
    grid = mesh.build({"data": 2, "expert": 4})
    assert mesh.batch_ways(grid) == 8
    with pytest.raises(BadInput, match="no rule for the logical axis 'colour'"):
        mesh.shardings({"a": box("colour", None)}, grid)
    with pytest.raises(BadInput, match=r"parameter \['a'\] names no logical axes"):
        mesh.shardings({"a": jax.ShapeDtypeStruct((2,), jnp.float32)}, grid)


def test_a_state_is_split_with_its_moments():
    config = resolve(toy.config(**{"optimizer.ema": 0.9}))
    task = toy.build(config)
    shapes = (
        ("x", (16, 4), np.dtype("float32")),
        ("y", (16,), np.dtype("float32")),
        ("weight", (16,), np.dtype("float32")),
    )
    grid = mesh.build({"data": 2, "fsdp": 2, "tensor": 2})
    program = step.programs(step_spec.of(task.model, config), grid, 1, shapes, tuple(step_spec.hyper(config, task)))
    drawn = program.init(np.int32(0), step_spec.hyper(config, task))
    assert isinstance(drawn, state.State)
    for tree in (drawn.params, drawn.moments.mu, drawn.moments.nu, drawn.ema):
        assert tree["kernel"].sharding.spec == P(("fsdp", "context"), "tensor")
        assert tree["kernel"].addressable_shards[0].data.shape == (2, 4)
    alone = step.programs(
        step_spec.of(task.model, config),
        mesh.build({"data": 1, "fsdp": 1, "tensor": 1}),
        1,
        shapes,
        tuple(step_spec.hyper(config, task)),
    )
    np.testing.assert_array_equal(
        alone.init(np.int32(0), step_spec.hyper(config, task)).params["kernel"], drawn.params["kernel"]
    )


def test_what_is_not_replicated_uses_the_axis_of_replicas_for_data():
    grid = mesh.build({"data": 2, "tensor": 2, "replica": 2})
    flat = mesh.folded(grid)
    assert dict(flat.shape) == {
        "run": 1,
        "replica": 1,
        "data": 4,
        "stage": 1,
        "fsdp": 1,
        "expert": 1,
        "context": 1,
        "tensor": 2,
    }
    assert list(flat.devices.flat) == list(grid.devices.flat) and mesh.folded(flat) is flat


def test_rows_are_made_only_where_they_lie():
    grid = mesh.build({"data": 4, "fsdp": 2, "tensor": 1})
    asked = []

    def rows(part):
        asked.append((part.start, part.stop))
        return np.arange(16)[part]

    array = mesh.place(rows, (16,), grid)
    np.testing.assert_array_equal(array, np.arange(16))
    assert sorted(set(asked)) == [(i, i + 2) for i in range(0, 16, 2)]


def test_each_device_handles_its_own_tokens():
    """What is sorted is the tokens of a device; where the batch cannot be split evenly, more of them."""

    def ranked(tokens, weights, whole):
        return jnp.sort(tokens.ravel()).reshape(tokens.shape) * whole["factor"] + 0 * weights

    def blocks(tokens, rows, columns):
        parts = [np.hsplit(part, columns) for part in np.vsplit(tokens, rows)]
        return np.block([[2 * np.sort(part.ravel()).reshape(part.shape) for part in row] for row in parts])

    tokens, whole = np.arange(32.0)[::-1].reshape(8, 4).copy(), {"factor": np.float32(2)}
    with jax.set_mesh(mesh.build({"data": 2, "expert": 2, "context": 2})):
        apply = jax.jit(lambda tokens: per_device.by_tokens(ranked, (tokens, tokens), whole))
        split, uneven = apply(tokens), apply(tokens[:6])
    np.testing.assert_array_equal(split, blocks(tokens, 4, 2))
    np.testing.assert_array_equal(uneven, blocks(tokens[:6], 1, 2))
    np.testing.assert_array_equal(per_device.by_tokens(ranked, (tokens, tokens), whole), blocks(tokens, 1, 1))
