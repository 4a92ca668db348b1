"""The loss against its definition in float64."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lm import loss
from lm.loss import z_penalty
from training import hlo, mesh as meshes

cross_entropy = jax.jit(loss.cross_entropy, static_argnums=3)
KEY = jax.random.key(0)
STATES = jax.random.normal(KEY, (2, 5, 8))
HEAD = jax.random.normal(jax.random.key(1), (11, 8))
TARGETS = jax.random.randint(jax.random.key(2), (2, 5), 0, 11)


def definition(states, head, targets):
    logits = np.asarray(states, np.float64) @ np.asarray(head, np.float64).T
    normaliser = np.log(np.exp(logits).sum(-1))
    return normaliser - np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0], normaliser


def test_equals_the_definition():
    for ours, expected in zip(cross_entropy(STATES, HEAD, TARGETS), definition(STATES, HEAD, TARGETS), strict=True):
        assert ours.shape == TARGETS.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_softmax_minus_the_target():
    grads = jax.grad(lambda s: cross_entropy(s, HEAD, TARGETS)[0].sum())(STATES)
    residual = jax.nn.softmax(STATES @ HEAD.T) - jax.nn.one_hot(TARGETS, 11)
    np.testing.assert_allclose(grads, residual @ HEAD, atol=1e-5)
    by_head = jax.grad(lambda h: cross_entropy(STATES, h, TARGETS)[0].sum())(HEAD)
    np.testing.assert_allclose(by_head, jnp.einsum("btv,btd->vd", residual, STATES), atol=1e-5)


def test_half_precision_states_give_a_float32_loss():
    states, head = STATES.astype(jnp.bfloat16), HEAD.astype(jnp.bfloat16)
    nats, normaliser = cross_entropy(states, head, TARGETS)
    assert nats.dtype == normaliser.dtype == jnp.float32
    # The inputs are rounded, the arithmetic is not.
    np.testing.assert_allclose(
        nats, definition(states.astype(jnp.float32), head.astype(jnp.float32), TARGETS)[0], atol=1e-4
    )
    rounded, _ = cross_entropy(states, head, TARGETS, "bfloat16")
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, nats, atol=0.1)


def test_far_logits_stay_finite():
    nats, _ = cross_entropy(200 * STATES, HEAD, TARGETS)
    assert jnp.isfinite(nats).all() and (nats >= 0).all()


def test_z_penalty_pulls_normalisers_to_one_and_takes_a_traced_weight():
    penalty = jax.jit(z_penalty)
    np.testing.assert_allclose(penalty(jnp.array([[3.0, -2.0]]), 0.5), [[4.5, 2.0]])
    np.testing.assert_allclose(penalty(jnp.array([[3.0, -2.0]]), 1.0), [[9.0, 4.0]])
    assert penalty._cache_size() == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_target_and_normaliser_are_of_the_same_logits(dtype):
    """The nats of all symbols are those of one distribution, however coarse the logits are."""
    states, head = (20 * STATES).astype(jnp.bfloat16), HEAD.astype(jnp.bfloat16)
    # Without jit, for a compiler may leave out the rounding of what it fuses.
    every = [loss.cross_entropy(states, head, jnp.full_like(TARGETS, symbol), dtype)[0] for symbol in range(11)]
    assert min(map(jnp.min, every)) >= 0
    np.testing.assert_allclose(sum(jnp.exp(-nats) for nats in every), 1.0, rtol=1e-5)


def test_gradients_of_all_arguments_against_finite_differences_in_float64():
    with jax.enable_x64(True):
        states, head, bias = (np.asarray(x, np.float64) for x in (STATES, HEAD, HEAD[:, 0]))

        def total(states, head, bias):
            nats, normaliser = loss.cross_entropy(states, head, TARGETS, "float64", bias)
            return jnp.sum(jnp.sin(nats)) + jnp.sum(jnp.cos(normaliser))

        check_grads(total, (states, head, bias), order=1, modes=["rev"])


def test_gradient_of_a_float32_head_is_summed_in_float32():
    """16,384 positions that predict one of four symbols: a sum in bfloat16 would stop at 256 addends of a size."""
    states = jax.random.normal(KEY, (64, 256, 8)).astype(jnp.bfloat16)
    targets = jnp.zeros((64, 256), jnp.int32)
    head = HEAD[:4]
    found = jax.grad(lambda h: cross_entropy(states, h, targets)[0].sum())(head)
    assert found.dtype == jnp.float32
    rows = np.asarray(states, np.float64).reshape(-1, 8)
    scores = rows @ np.asarray(head.astype(jnp.bfloat16), np.float64).T
    softmax = np.exp(scores - scores.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    expected = (softmax - np.eye(4)[0]).T @ rows
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("count", [2, 5])
def test_parts_of_the_positions_give_the_loss_and_gradients_of_the_whole(count):
    bias = jax.random.normal(jax.random.key(3), (11,))
    states = jax.random.normal(KEY, (2, 10, 8))
    targets = jax.random.randint(jax.random.key(2), (2, 10), 0, 11)
    weight = jnp.arange(20.0).reshape(2, 10)

    def total(function, *inputs):
        nats, normaliser = function(*inputs)
        return jnp.sum(weight * nats) + jnp.sum(normaliser**2), (nats, normaliser)

    whole = lambda s, h, b: loss.cross_entropy(s, h, targets, "float32", b)
    of_rows = functools.partial(loss._nats_of_rows, "float32")
    parts = lambda s, h, b: loss._in_parts(of_rows, count, (s,), (h, b), (targets,), ())
    ours, expected = (
        jax.jit(jax.grad(lambda *x, f=f: total(f, *x), (0, 1, 2), has_aux=True))(states, HEAD, bias)
        for f in (parts, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), ours, expected)


def test_logits_are_made_in_parts_only_where_memory_asks_for_it(monkeypatch):
    assert loss.chunks(64, 2048, 131_072) == 1  # nothing is known of this machine's devices
    monkeypatch.setattr(loss.meshes, "device_memory", lambda: 96 * 2.0**30)
    assert loss.chunks(8, 2048, 50_304) == 1  # 3.1 of 4 GiB
    assert loss.chunks(8, 2048, 131_072) == 8  # 8 GiB, in parts of 1
    assert loss.chunks(8, 3, 2**31) == 3
    assert loss.chunks(8, 2048, 50_304, 2 * 60 * 2048) == 1  # 3.1 of the 3.8 GiB that full rematerialisation keeps
    assert loss.chunks(8, 2048, 50_304, 2 * 24 * 2048) == 16  # of 1.5 GiB
    monkeypatch.setattr(loss.meshes, "ways", lambda axis: {"batch": 4, "length": 1, "vocab": 1}[axis])
    assert loss.chunks(8, 2048, 131_072) == 1
    monkeypatch.setattr(loss.meshes, "ways", lambda axis: {"batch": 1, "length": 4, "vocab": 1}[axis])
    assert (loss.chunks(8, 2048, 131_072), loss.chunks(8, 16_384, 131_072)) == (1, 16)  # of a device: 2 and 16 GiB


def test_parts_of_the_positions_are_those_of_each_devices_rows(monkeypatch):
    """On a mesh, with the head split over it: the same loss and gradients, and one sum over devices of the head's."""
    states = jax.random.normal(KEY, (8, 12, 16))
    head = jax.random.normal(jax.random.key(1), (24, 16))
    targets = jax.random.randint(jax.random.key(2), (8, 12), 0, 24)
    grid = meshes.build({"data": 2, "fsdp": 2, "tensor": 2})
    where = lambda *axes: jax.NamedSharding(grid, jax.P(*axes))

    def total(states, head):
        nats, normaliser = loss.cross_entropy(states, head, targets)
        return jnp.sum(nats) + jnp.sum(normaliser**2)

    expected = jax.jit(jax.value_and_grad(total, (0, 1)))(states, head)
    monkeypatch.setattr(loss, "chunks", lambda batch, length, *_: 4)
    split = jax.jit(jax.value_and_grad(total, (0, 1)), in_shardings=(where(("data", "fsdp")), where("tensor", "fsdp")))
    with jax.set_mesh(grid):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), split(states, head), expected)
        program = hlo.computations(split.lower(states, head).compile().as_text())
    rows = hlo.collectives(program, hlo.executions(program), grid)
    over_rows = [row for row in rows if set(row.axes) & {"data", "fsdp"} and row.kind != "all-gather"]
    assert sum(row.ring_bytes for row in over_rows) < 2 * head.nbytes
    assert ("reduce-scatter", ("fsdp",)) in {(row.kind, row.axes) for row in over_rows}


TEACHER = jax.random.normal(jax.random.key(4), (8, 12, 6)), jax.random.normal(jax.random.key(5), (24, 6))
STUDENT = jax.random.normal(KEY, (8, 12, 16)), jax.random.normal(jax.random.key(1), (24, 16))
WEIGHT = jax.random.normal(jax.random.key(6), (8, 12))


def apart(states, head, temperature=2.0, dtype="float32"):
    """A weighted sum of the divergence from the teacher, and the divergence."""
    nats = loss.divergence(states, head, *(x.astype(states.dtype) for x in TEACHER), temperature, dtype)
    return jnp.sum(WEIGHT * nats), nats


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_is_that_of_two_predictions_in_float64(temperature):
    found = apart(*STUDENT, temperature)[1]
    ours, theirs = (
        scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        for scores in (
            np.asarray(states, np.float64) @ np.asarray(head, np.float64).T / temperature
            for states, head in (STUDENT, TEACHER)
        )
    )
    expected = temperature**2 * (np.exp(theirs) * (theirs - ours)).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_divergence_against_finite_differences_in_float64():
    with jax.enable_x64(True):
        states, head = (np.asarray(x, np.float64) for x in STUDENT)
        total = lambda s, h: jnp.sum(jnp.sin(apart(s, h, 2.0, "float64")[1]))
        check_grads(total, (states, head), order=1, modes=["rev"])


def test_nothing_is_learnt_by_the_teacher_and_the_temperature():
    whole = lambda *x: jnp.sum(loss.divergence(*STUDENT, *x))
    grads = jax.grad(whole, (0, 1, 2))(*TEACHER, 2.0)
    assert not any(map(jnp.any, grads))


@pytest.mark.parametrize("sizes", [{}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_parts_of_the_divergence_give_the_value_and_gradients_of_the_whole(monkeypatch, sizes):
    step = jax.value_and_grad(apart, (0, 1), has_aux=True)
    expected = jax.jit(step)(*STUDENT)
    monkeypatch.setattr(loss, "chunks", lambda batch, length, *_: 4)
    grid = meshes.build(sizes, jax.devices()[: math.prod(sizes.values())])
    where = lambda *axes: jax.NamedSharding(grid, jax.P(*axes))
    with jax.set_mesh(grid):
        split = jax.jit(step, in_shardings=(where(("data", "fsdp")), where("tensor", "fsdp")))
        found = split(*STUDENT)
        program = split.lower(*STUDENT).compile().as_text()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max()), found, expected)
    if not sizes:  # the largest array of the vocabulary is that of a part
        shapes = [tuple(map(int, found.split(","))) for found in re.findall(r"f32\[([\d,]+)\]", program)]
        assert max(math.prod(shape) for shape in shapes if 24 in shape and 16 not in shape) == 8 * 3 * 24


def test_the_gradient_of_a_half_precision_head_is_summed_over_parts_in_float32(monkeypatch):
    """1,024 parts whose gradients of the head are equal: a sum in bfloat16 would stop early."""
    states = jnp.broadcast_to(STUDENT[0][:1, :1], (1, 1024, 16)).astype(jnp.bfloat16)
    taught = jnp.broadcast_to(TEACHER[0][:1, :1], (1, 1024, 6)).astype(jnp.bfloat16)
    heads = [head.astype(jnp.bfloat16) for head in (STUDENT[1], TEACHER[1])]
    total = lambda head, length: jnp.sum(loss.divergence(states[:, :length], head, taught[:, :length], heads[1], 1.0))
    one = 1024 * jax.grad(total)(heads[0], 1).astype(jnp.float32)
    monkeypatch.setattr(loss, "chunks", lambda batch, length, *_: length)
    found = jax.grad(total)(heads[0], 1024)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), one, rtol=1e-2, atol=1e-3 * np.abs(one).max())


def test_the_logits_of_a_student_and_its_teacher_are_counted_together(monkeypatch):
    held = 4.0 * 8 * 12 * 24  # bytes of the logits of one
    monkeypatch.setattr(loss.meshes, "device_memory", lambda: 1.5 * held / loss.LOGITS_SHARE)
    assert loss.chunks(8, 12, 24) == 1
    assert "scan" in str(jax.make_jaxpr(lambda *x: apart(*x)[0])(*STUDENT))
    monkeypatch.setattr(loss.meshes, "device_memory", lambda: 2.5 * held / loss.LOGITS_SHARE)
    assert "scan" not in str(jax.make_jaxpr(lambda *x: apart(*x)[0])(*STUDENT))
