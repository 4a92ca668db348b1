"""The loss against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from lm import loss
from lm.loss import z_penalty

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
    assert jnp.isfinite(nats).all() and (nats >= -1e-3).all()


def test_z_penalty_pulls_normalisers_to_one_and_takes_a_traced_weight():
    penalty = jax.jit(z_penalty)
    np.testing.assert_allclose(penalty(jnp.array([[3.0, -2.0]]), 0.5), [[4.5, 2.0]])
    np.testing.assert_allclose(penalty(jnp.array([[3.0, -2.0]]), 1.0), [[9.0, 4.0]])
    assert penalty._cache_size() == 1
