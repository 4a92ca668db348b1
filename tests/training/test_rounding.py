"""Fake quantization holds what the format can hold, and passes gradients on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from training.errors import BadInput
from training.nets.rounding import FLOATS, parsed, rounded

X = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)


@given(st.integers(2, 10), st.integers(0, 10_000))
def test_integers_stand_on_a_grid_from_the_largest_value_down(bits, seed):
    x = np.random.default_rng(seed).normal(size=(4, 33)).astype(np.float32)
    held = np.asarray(rounded(x, parsed(f"int{bits}", "k"), -1))
    top = 2 ** (bits - 1) - 1
    step = np.abs(x).max(axis=-1, keepdims=True) / top
    np.testing.assert_allclose(held / step, np.round(held / step), atol=top * 1e-6)
    assert (np.abs(held - x) <= 0.5001 * step).all()
    np.testing.assert_allclose(np.abs(held).max(axis=-1), np.abs(x).max(axis=-1), rtol=1e-6)


@pytest.mark.parametrize("name", [*FLOATS, "int8", "int4"])
def test_a_library_of_others_rounds_alike(name):
    qwix = pytest.importorskip("qwix", reason="needs the extra `parity`")
    kind = FLOATS.get(name, name)
    theirs = np.asarray(qwix.dequantize(qwix.quantize(jnp.asarray(X), getattr(jnp, kind), channelwise_axes=[0])))
    ours = np.asarray(rounded(X, parsed(name, "k"), -1))
    if name in FLOATS:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    else:  # its largest value is half a step below the end of the grid, ours at the end
        step = np.abs(X).max(axis=-1, keepdims=True) / (2.0 ** (parsed(name, "k").bits - 1) - 1)
        assert (np.abs(ours - theirs) <= 1.01 * step).all()
        assert abs(np.mean((ours - X) ** 2) / np.mean((theirs - X) ** 2) - 1) < 0.25


def test_gradients_pass_and_bits_never_recompile():
    traced = []

    @jax.jit
    def total(x, rounding):
        traced.append(rounding)
        return jnp.sum(rounded(x, rounding, -1) * X)

    for name in ("int2", "int4", "int8"):
        np.testing.assert_allclose(jax.grad(total)(X, parsed(name, "k")), X, rtol=1e-6)
    assert len(traced) == 1
    assert float(rounded(jnp.zeros((2, 3)), parsed("int4", "k"), -1).sum()) == 0.0


@pytest.mark.parametrize("name", ["int1", "int17", "int", "float4", "8"])
def test_an_unknown_format_is_named(name):
    with pytest.raises(BadInput, match=rf"quantize.weights: no format '{name}' \(known: int2 to int16, fp8"):
        parsed(name, "quantize.weights")
