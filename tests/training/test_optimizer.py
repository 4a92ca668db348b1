"""Optimizers against optax's own, roles, decay and clipping."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from training import optimizer
from training.config import resolve

AXES = {
    "embed": optimizer.Axes(("vocab", "embed")),
    "stack": optimizer.Axes(("layers", "embed", "mlp")),
    "norm": optimizer.Axes(("layers", None)),
}
KEYS = jax.random.split(jax.random.key(0), 6)
PARAMS = {
    "embed": jax.random.normal(KEYS[0], (7, 4)),
    "stack": jax.random.normal(KEYS[1], (3, 4, 8)),
    "norm": jnp.ones((3, 4)),
}
GRADS = [jax.tree.map(lambda p, key=key: jax.random.normal(key, p.shape), PARAMS) for key in KEYS[2:]]

REFERENCES = {
    "sgd": lambda lr: optax.sgd(lr),
    "momentum": lambda lr: optax.sgd(lr, momentum=0.9),
    "nesterov": lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True),
    "adam": lambda lr: optax.adam(lr),
    "adamw": lambda lr: optax.adamw(lr, b2=0.95, weight_decay=0.0),
    "lion": lambda lr: optax.lion(lr, weight_decay=0.0),
}


def ours(name, decay=0.0, roles=("matrix", "embedding"), lr=0.01):
    transform = optimizer.build(name, AXES, **optimizer.TABLE[name].options)
    params, moments = PARAMS, transform.init(PARAMS)
    for grads in GRADS:
        updates, moments = transform.update(grads, moments, params)
        params = optimizer.apply(params, updates, AXES, roles, jnp.float32(lr), jnp.float32(decay))
    return params


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_updates_are_those_of_optax(name):
    transform, params = REFERENCES[name](0.01), PARAMS
    moments = transform.init(params)
    for grads in GRADS:
        updates, moments = transform.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours(name), params)


def test_decay_is_decoupled_and_masked_by_role():
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    moved = optimizer.apply(PARAMS, still, AXES, ("matrix",), jnp.float32(0.1), jnp.float32(0.5))
    np.testing.assert_allclose(moved["stack"], PARAMS["stack"] * (1 - 0.05), rtol=1e-6)
    np.testing.assert_array_equal(moved["embed"], PARAMS["embed"])
    np.testing.assert_array_equal(moved["norm"], PARAMS["norm"])


def test_muon_orthogonalises_each_layer_of_a_stack():
    updates = jax.tree.map(lambda a, b: (a - b) / 0.01, PARAMS, ours("muon"))
    # Newton-Schulz brings every layer's singular values near one scale; Adam would not.
    transform = optimizer.build("muon", AXES, **optimizer.TABLE["muon"].options)
    first, _ = transform.update(GRADS[0], transform.init(PARAMS), PARAMS)
    singular = np.linalg.svd(np.asarray(first["stack"]), compute_uv=False)
    before = np.linalg.svd(np.asarray(GRADS[0]["stack"]), compute_uv=False)
    assert (singular.max(1) / singular.min(1) < 1.8).all() and (before.max(1) / before.min(1) > 1.8).any()
    assert np.all(np.sum(first["stack"] * GRADS[0]["stack"], axis=(1, 2)) > 0)  # u goes with the gradient
    assert np.isfinite(updates["norm"]).all()


def test_roles_follow_from_axes():
    assert {name: optimizer.role(axes) for name, axes in AXES.items()} == {
        "embed": "embedding",
        "stack": "matrix",
        "norm": "vector",
    }
    boxed = {"w": nn.LogicallyPartitioned(jnp.ones((2, 3)), ("embed", "mlp"))}
    assert optimizer.axes_of(boxed) == {"w": optimizer.Axes(("embed", "mlp"))}


def test_clipping_scales_to_the_norm_and_can_be_off():
    grads = {"a": jnp.array([3.0, 4.0])}
    clipped, norm = optimizer.clipped(grads, jnp.float32(1.0))
    np.testing.assert_allclose(norm, 5)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(optimizer.clipped(grads, jnp.float32(np.inf))[0]["a"], grads["a"])


@pytest.mark.parametrize("name", sorted(optimizer.TABLE))
def test_every_name_resolves_with_its_own_decay(name):
    resolved = resolve(toy.config(**{"optimizer.name": name, "schedule.name": "constant"}))
    assert resolved.optimizer.weight_decay == optimizer.TABLE[name].weight_decay


def test_adafactor_treats_each_layer_of_a_stack_as_a_matrix_of_its_own():
    """Both paths: factored second moments (sides of 128 and more) and whole ones."""
    axes = {
        "stack": optimizer.Axes(("layers", "embed", "mlp")),
        "experts": optimizer.Axes(("layers", "expert", "embed", "mlp")),
        "flat": optimizer.Axes(("vocab", "embed")),
        "norm": optimizer.Axes(("layers", None)),
    }
    shapes = {"stack": (3, 130, 140), "experts": (2, 3, 128, 4), "flat": (150, 128), "norm": (3, 5)}
    keys = iter(jax.random.split(jax.random.key(1), 5 * len(shapes)))
    size = {"stack": 10.0, "experts": 1.0, "flat": 1.0, "norm": 1.0}

    def drawn():  # layers of a stack differ in size, so that sharing a statistic shows
        return {
            name: size[name]
            * jax.random.normal(next(keys), shape)
            * 3.0 ** jnp.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
            for name, shape in shapes.items()
        }

    params = drawn()
    grads = [drawn() for _ in range(4)]
    transform = optimizer.build("adafactor", axes, **optimizer.TABLE["adafactor"].options)
    state, updates = transform.init(params), None
    update = jax.jit(transform.update)
    for g in grads:
        updates, state = update(g, state, params)

    @jax.jit
    def alone(params, grads):
        reference = optax.adafactor(1.0, clipping_threshold=1.0, decay_rate=0.8)
        state, found = reference.init(params), None
        for g in grads:
            found, state = reference.update(g, state, params)
        return -found

    assert updates is not None
    stacked = {"stack": 1, "experts": 2, "flat": 0, "norm": 1}
    for name, depth in stacked.items():
        lead = shapes[name][:depth]
        for index in np.ndindex(*lead):
            expected = alone(params[name][index], [g[name][index] for g in grads])
            np.testing.assert_allclose(updates[name][index], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(optimizer.TABLE))
def test_moments_of_bfloat16_parameters_are_float32(name):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    transform = optimizer.build(name, AXES, **optimizer.TABLE[name].options)
    state, inputs = transform.init(half), {key: jnp.float32(0.5) for key in optimizer.TABLE[name].inputs}
    for grads in GRADS:
        updates, state = transform.update(jax.tree.map(lambda g: g.astype(jnp.bfloat16), grads), state, half, **inputs)
    floats = {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats <= {jnp.dtype("float32")}
    # The same numbers as for these gradients and parameters in float32.
    whole, expected = transform.init(PARAMS), None
    rounded = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    for grads in GRADS:
        seen = jax.tree.map(lambda g: g.astype(jnp.bfloat16).astype(jnp.float32), grads)
        expected, whole = transform.update(seen, whole, rounded, **inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), updates, expected)


def test_the_norm_of_bfloat16_gradients_is_summed_in_float32():
    grads = {"a": jnp.full((100_000,), 0.01, jnp.bfloat16), "b": jnp.full((4,), 1.0, jnp.bfloat16)}
    expected = np.sqrt(sum(np.square(np.asarray(g, np.float64)).sum() for g in grads.values()))
    scaled, norm = optimizer.clipped(grads, jnp.float32(1.0))
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(scaled["b"], np.float32), 1 / expected, rtol=1 / 256)


def orthogonalised(matrix):
    """Five quintic Newton-Schulz steps (Jordan et al. 2024) in float64."""
    x = np.asarray(matrix, np.float64)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if turned else x


@pytest.mark.parametrize("shape", [(3, 4, 8), (2, 24, 6)])
def test_the_scale_of_muon_is_that_of_adam(shape):
    """0.2 sqrt(longer side) times the orthogonalised gradient (Liu et al. 2025, arXiv 2502.16982, equation 4)."""
    axes, grads = {"w": optimizer.Axes(("layers", "embed", "mlp"))}, {"w": jax.random.normal(KEYS[3], shape)}
    transform = optimizer.build("muon", axes, **optimizer.TABLE["muon"].options)
    updates, _ = transform.update(grads, transform.init(grads), grads)
    for update, gradient in zip(updates["w"], grads["w"], strict=True):
        expected = 0.2 * np.sqrt(max(shape[1:])) * orthogonalised(gradient)
        np.testing.assert_allclose(update, expected, atol=2e-3)


def test_the_running_mean_has_no_weight_on_its_beginning():
    decay, steps = 0.99, 7
    params = [jax.random.normal(key, (5,)) for key in jax.random.split(jax.random.key(2), steps)]
    mean = jnp.full((5,), 10.0)
    for t, p in enumerate(params, 1):
        mean = optimizer.running_mean(mean, p, jnp.float32(decay), jnp.int32(t))
    weights = decay ** np.arange(steps)[::-1]
    np.testing.assert_allclose(mean, np.average(np.stack(params), axis=0, weights=weights), rtol=1e-4, atol=1e-5)
    assert (
        optimizer.running_mean(mean, params[0].astype(jnp.bfloat16), jnp.float32(decay), jnp.int32(9)).dtype
        == jnp.float32
    )
