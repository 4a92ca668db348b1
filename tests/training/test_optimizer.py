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
    "adafactor": lambda lr: optax.adafactor(lr, clipping_threshold=1.0, decay_rate=0.8),
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
    resolved = resolve(toy.config(**{"optimizer.name": name}))
    assert resolved.optimizer.weight_decay == optimizer.TABLE[name].weight_decay
