"""Norms, activations, linear maps, rotary positions and dropout against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.test_util import check_grads

from training import hlo, mesh as meshes
from training.nets import layers, tpu

KEY = jax.random.key(0)
X = 3 * jax.random.normal(KEY, (5, 24)) + 1
SCALE = jnp.linspace(0.5, 2.0, 24)
BIAS = jnp.linspace(-1.0, 1.0, 24)


def rms(x, scale):
    return x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-3) * scale


def standardised(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * scale + bias


def test_norms_equal_their_definitions():
    x, scale, bias = (np.asarray(a, np.float64) for a in (X, SCALE, BIAS))
    np.testing.assert_allclose(layers.rms_norm(X, SCALE, 1e-3), rms(x, scale), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        layers.layer_norm(X, SCALE, BIAS, 1e-3), standardised(x, scale, bias), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(layers.layer_norm(X, SCALE, None, 1e-3), standardised(x, scale, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rms", "layer", "layer without bias", "gelu"])
def test_gradients_agree_with_finite_differences(name):
    functions = {
        "rms": (lambda x, s: layers.rms_norm(x, s, 1e-3), (X, SCALE)),
        "layer": (lambda x, s, b: layers.layer_norm(x, s, b, 1e-3), (X, SCALE, BIAS)),
        "layer without bias": (lambda x, s: layers.layer_norm(x, s, None, 1e-3), (X, SCALE)),
        "gelu": (layers.gelu, (X,)),
    }
    function, args = functions[name]
    check_grads(jax.jit(function), args, order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 4, 24)])
def test_gradients_of_norms_are_those_of_their_definitions(shape):
    x, weights = 3 * jax.random.normal(KEY, (2, *shape)) + jnp.array([1.0, -2.0]).reshape(2, *(1 for _ in shape))

    def defined(x, scale, bias, centre):
        x = x - jnp.mean(x, -1, keepdims=True) if centre else x
        return x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-3) * scale + bias

    for norm, centre in ((layers.layer_norm, True), (lambda x, s, b, eps: layers.rms_norm(x, s, eps) + b, False)):
        ours = jax.jit(jax.grad(lambda *a, n=norm: jnp.sum(weights * n(*a, 1e-3)), (0, 1, 2)))(x, SCALE, BIAS)
        derived = jax.jit(jax.grad(lambda *a, c=centre: jnp.sum(weights * defined(*a, c)), (0, 1, 2)))(x, SCALE, BIAS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, derived)
        together = jax.jit(jax.vmap(jax.grad(lambda x, s, n=norm: jnp.sum(weights * n(x, s, BIAS, 1e-3))), (None, 0)))
        once, twice = together(x, jnp.stack([SCALE, 2 * SCALE]))
        np.testing.assert_allclose(once, derived[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(twice, 2 * derived[0], rtol=1e-4, atol=1e-4)


def test_gelu_is_the_tanh_form():
    x = np.linspace(-6, 6, 401)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(layers.gelu(x), x / 2 * (1 + np.tanh(inner)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_norms_compute_in_float32(dtype):
    x = (300 * X).astype(dtype)  # squares beyond float16
    scale = SCALE.astype(jnp.float32)
    for norm in (lambda x: layers.rms_norm(x, scale, 1e-3), lambda x: layers.layer_norm(x, scale, None, 1e-3)):
        assert norm(x).dtype == dtype
        np.testing.assert_allclose(norm(x).astype(jnp.float32), norm(x.astype(jnp.float32)), rtol=1e-2, atol=1e-2)


def test_rotary_scores_depend_on_distance_alone():
    q, k = jax.random.normal(KEY, (2, 1, 1, 1, 8))

    def score(i, j):
        turned = [layers.rotate(x, *layers.rotary_angles(jnp.array([[p]]), 8, 10_000.0)) for x, p in ((q, i), (k, j))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3
    assert score(5, 5) == pytest.approx(float(jnp.sum(q * k)), abs=1e-5)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_the_rotation_of_tpus_turns_pairs_as_complex_numbers(dtype, rtol):
    """Value and gradient against float64 products of complex numbers; the gradient turns the other way."""
    x, grad = (jax.random.normal(key, (2, 5, 3, 8)).astype(dtype) for key in jax.random.split(KEY))
    angles = layers.rotary_angles(jnp.arange(5), 8, 10_000.0)
    turn = np.exp(1j * np.arctan2(*(np.asarray(part, np.float64) for part in reversed(angles))))

    def turned(x, turn):
        left, right = np.split(np.asarray(x, np.float64), 2, axis=-1)
        out = (left + 1j * right) * turn
        return np.concatenate([out.real, out.imag], axis=-1)

    out, pull = jax.vjp(lambda x: tpu.rotate(x, *angles), x)
    for found, expected in ((out, turned(x, turn)), (pull(grad)[0], turned(grad, turn.conj()))):
        assert found.dtype == dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=rtol, atol=rtol)


def test_positions_restart_with_each_segment():
    ids = jnp.array([[4, 4, 4, 9, 9, 4, 4], [1, 2, 3, 3, 3, 3, 3]])
    assert layers.positions_in_segments(ids).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 2, 3, 4]]


def test_dropout_keeps_the_mean_and_takes_a_traced_rate():
    x = jnp.ones((200, 200))
    drop = jax.jit(layers.dropout)
    for rate in (0.0, 0.1, 0.5):
        y = drop(x, KEY, jnp.float32(rate))
        assert float(jnp.mean(y == 0)) == pytest.approx(rate, abs=0.01)
        assert float(y.mean()) == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(np.unique(np.asarray(y))[-1], 1 / (1 - rate), rtol=1e-6)
    assert drop._cache_size() == 1
    assert (drop(x, KEY, 0.5) == drop(x, KEY, 0.5)).all()
    assert (drop(x, KEY, 0.5) != drop(x, jax.random.key(1), 0.5)).any()


@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), [((7,), 5, 3), ((7,), 3, 5), ((2, 7), 5, 3), ((2, 3, 4), 3, 5)])
def test_a_product_and_its_gradients_are_those_of_the_plain_one(rows, fan_in, fan_out):
    x, kernel, weights = (
        jax.random.normal(jax.random.fold_in(KEY, i), shape)
        for i, shape in enumerate([(*rows, fan_in), (fan_in, fan_out), (*rows, fan_out)])
    )
    ours = jax.jit(jax.value_and_grad(lambda x, k: jnp.sum(weights * layers.product(x, k)), (0, 1)))
    plain = jax.value_and_grad(lambda x, k: jnp.sum(weights * (x @ k)), (0, 1))
    for a, b in zip(jax.tree.leaves(ours(x, kernel)), jax.tree.leaves(plain(x, kernel)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    packed = jax.jit(jax.vmap(ours, (0, None)))(jnp.stack([x, 2 * x]), kernel)
    np.testing.assert_allclose(packed[1][1][1], 2 * ours(x, kernel)[1][1], rtol=1e-5, atol=1e-5)


def test_a_product_is_accumulated_in_the_dtype_asked_for():
    x, kernel = X.astype(jnp.bfloat16), jnp.ones((24, 2), jnp.bfloat16)
    assert layers.product(x, kernel).dtype == jnp.bfloat16
    wide = layers.product(x, kernel, "float32")
    np.testing.assert_allclose(wide, x.astype(jnp.float32) @ kernel.astype(jnp.float32), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("rows", [5, 40])  # fewer than features, and more
def test_linear_maps_of_one_input_are_each_linear(rows):
    x = jax.random.normal(KEY, (rows, 24))
    keys = jax.random.split(KEY, 3)
    maps = [{"kernel": jax.random.normal(key, (24, n))} for key, n in zip(keys, (8, 4, 4), strict=True)]
    maps[1]["bias"] = jnp.arange(4.0)

    def loss(maps, x, each):
        return sum(jnp.sum(jnp.sin(y) * (i + 1)) for i, y in enumerate(each(maps, x)))

    merged = jax.value_and_grad(functools.partial(loss, each=layers.linears), (0, 1))(maps, x)
    apart = jax.value_and_grad(lambda maps, x: loss(maps, x, lambda ps, x: [layers.linear(p, x) for p in ps]), (0, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), merged, apart(maps, x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(5,), (2, 7)])
def test_rows_by_a_product_are_those_of_the_table(monkeypatch, dtype, shape):
    """As small tables are read where devices are no CPUs: equal rows, and gradients summed in float32."""
    table, ids = jax.random.normal(jax.random.key(0), (11, 6)), jax.random.randint(jax.random.key(1), shape, 0, 11)
    weight = jax.random.normal(jax.random.key(2), (*shape, 6)).astype(dtype)
    total = lambda table: jnp.sum(weight.astype(jnp.float32) * layers.embedded(table, ids, dtype))
    rows, gradient = layers.embedded(table, ids, dtype), jax.grad(total)(table)
    monkeypatch.setattr(layers.mesh, "platform", lambda: "tpu")
    assert "gather" not in str(jax.make_jaxpr(total)(table)) and "dot_general" in str(jax.make_jaxpr(total)(table))
    np.testing.assert_array_equal(layers.embedded(table, ids, dtype), rows)
    by_product = jax.grad(total)(table)
    assert by_product.dtype == jnp.float32
    np.testing.assert_allclose(by_product, gradient, atol=1e-6)


@pytest.mark.parametrize(
    "sizes, width", [({"data": 2, "fsdp": 4}, 16), ({"fsdp": 4, "tensor": 2}, 16), ({"fsdp": 8}, 12)]
)
def test_the_gradient_of_a_split_table_is_scattered(sizes, width):
    """Equal to one device's; no sum of the whole table goes over the axis that splits it."""
    grid = meshes.build({"data": 1} | sizes)
    keys = jax.random.split(jax.random.key(0), 3)
    table, weight = jax.random.normal(keys[0], (40, width)), jax.random.normal(keys[1], (16, 5, width))
    ids = jax.random.randint(keys[2], (16, 5), 0, 7)
    total = lambda table, ids, weight: jnp.sum(weight * layers.embedded(table, ids, "float32"))
    expected = jax.grad(total)(table, ids, weight)
    with jax.set_mesh(grid):
        rows = NamedSharding(grid, meshes.spec("batch"))
        placed = [jax.device_put(x, rows) for x in (ids, weight)]
        split = jax.device_put(table, NamedSharding(grid, meshes.partition(("vocab", "embed"), table.shape, grid)))
        program = jax.jit(jax.grad(total)).lower(split, *placed).compile()
        np.testing.assert_allclose(program(split, *placed), expected, rtol=1e-6, atol=1e-6)
    text = hlo.computations(program.as_text())
    kinds = {row.kind for row in hlo.collectives(text, hlo.executions(text), grid) if "fsdp" in row.axes}
    assert ("reduce-scatter" in kinds and "all-reduce" not in kinds) == (width % sizes["fsdp"] == 0)
