"""Convolutions against XLA's own, pools and norms against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import layers


@pytest.mark.parametrize(("size", "stride", "border"), [(3, 1, 1), (3, 2, 1), (3, 1, 0), (1, 2, 0), (7, 2, 3)])
def test_the_gradients_of_convolutions_are_xlas(size, stride, border):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 4))

    def total(apply, x, kernel):
        return jnp.sum(jnp.sin(apply(x, kernel)))

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, [(border,) * 2] * 2, dimension_numbers=numbers)

    ours = jax.value_and_grad(total, (1, 2))(lambda x, k: layers.conv(x, k, stride, border), x, kernel)
    theirs = jax.value_and_grad(total, (1, 2))(plain, x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_pools_take_the_largest_of_every_window():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    expected = x[:, :4].reshape(2, 2, 2, 2, 2, 3).max((2, 4))
    np.testing.assert_array_equal(layers.max_pool(jnp.asarray(x), 2, 2), expected)
    assert layers.max_pool(jnp.asarray(x), 3, 2, 1).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(("size", "stride", "border"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_pools_and_their_gradients_are_those_of_reduce_window(size, stride, border):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32))

    def theirs(x):
        edges = [(0, 0), (border, border), (border, border), (0, 0)]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), edges)

    ours, back = jax.vjp(lambda x: layers.max_pool(x, size, stride, border), x)
    np.testing.assert_array_equal(ours, theirs(x))
    weights = jnp.arange(ours.size, dtype=jnp.float32).reshape(ours.shape)
    np.testing.assert_array_equal(back(weights)[0], jax.vjp(theirs, x)[1](weights)[0])


def test_group_norm_is_of_each_example_and_group():
    x = np.random.default_rng(0).normal(2, 3, size=(2, 4, 4, 48)).astype(np.float32)
    p = {"scale": jnp.full(48, 2.0), "bias": jnp.ones(48)}
    out, stats = layers.norm("group", p, {}, jnp.asarray(x), train=True, momentum=0.9)
    parts = (np.asarray(out) - 1).reshape(2, 16, 24, 2) / 2  # 24 groups of 2: the most, up to 32, that divide 48
    np.testing.assert_allclose(parts.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(parts.std((1, 3)), 1, atol=1e-3)
    assert stats == {}
