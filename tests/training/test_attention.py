"""Attention implementations against a plain definition, and the choice among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from training import mesh as meshes
from training.errors import BadInput
from training.nets import attention, tpu
from training.nets.attention import choose

KEY = jax.random.key(0)
attend = jax.jit(attention.attend, static_argnums=(4, 5))


def definition(q, k, v, segments=None, causal=True):
    """One query at a time, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    batch, length, heads, width = q.shape
    group = heads // k.shape[2]
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(batch, length, heads):
        seen = (np.arange(length) <= t) | (not causal)
        if segments is not None:
            seen &= np.asarray(segments[b]) == int(segments[b, t])
        scores = k[b, seen, h // group] @ q[b, t, h] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = (weights / weights.sum()) @ v[b, seen, h // group]
    return out


def arrays(length, heads=4, kv_heads=2, width=6, batch=2, scale=2.0):
    rng = np.random.default_rng(0)
    q = scale * rng.normal(size=(batch, length, heads, width))
    k, v = scale * rng.normal(size=(2, batch, length, kv_heads, width))
    ids = np.sort(rng.integers(0, 3, (batch, length)), axis=1)
    return *(jnp.asarray(a, jnp.float32) for a in (q, k, v)), jnp.asarray(ids)


@pytest.mark.parametrize("implementation", ["blocked", "xla"])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize(
    ("length", "kv_heads", "causal"),
    [(1, 4, True), (9, 1, True), (130, 2, True), (261, 4, True), (9, 1, False), (130, 2, False)],
)
def test_equals_the_definition(implementation, length, kv_heads, segmented, causal):
    q, k, v, ids = arrays(length, kv_heads=kv_heads)
    ids = ids if segmented else None
    out = attend(q, k, v, ids, implementation, causal)
    np.testing.assert_allclose(out, definition(q, k, v, ids, causal), atol=2e-5)


@pytest.mark.parametrize(
    ("segmented", "length", "kv_heads", "causal"),
    [(False, 9, 2, True), (True, 130, 4, True), (False, 261, 1, True), (True, 130, 2, False)],
)
def test_gradients_of_the_implementations_agree(segmented, length, kv_heads, causal):
    q, k, v, ids = arrays(length, kv_heads=kv_heads)
    ids = ids if segmented else None
    weight = jax.random.normal(jax.random.key(3), q.shape)

    def gradients(implementation):
        def total(q, k, v):
            return jnp.sum(weight * attention.attend(q, k, v, ids, implementation, causal))

        return jax.jit(jax.grad(total, (0, 1, 2)))(q, k, v)

    for ours, reference in zip(gradients("blocked"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4)


@pytest.mark.parametrize(
    ("length", "kv_heads", "causal", "window", "segmented"),
    tiered(
        [(128, 4, True, 0, False), (128, 2, True, 0, True), (200, 1, True, 40, True), (150, 2, False, 0, False)],
        [(200, 1, True, 40, True)],
    ),
)
def test_splash_attention_is_attention(length, kv_heads, causal, window, segmented):
    """The kernel of TPUs by JAX's interpreter: values and gradients, lengths that are no multiple of its blocks too."""
    q, k, v, ids = arrays(length, kv_heads=kv_heads, width=128, scale=0.5)
    ids = ids if segmented else None
    weight = jax.random.normal(jax.random.key(3), q.shape)

    def total(attend, *inputs):
        out = attend(*inputs)
        return jnp.sum(weight * out), out

    ours = functools.partial(total, lambda *x: tpu.attend(*x, ids, causal, window, interpret=True))
    plain = functools.partial(total, lambda *x: attention.attend(*x, ids, "xla", causal, window=window))
    found, reference = (jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))(q, k, v) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, reference)


@pytest.mark.parametrize("kv_heads", tiered([2, 1], [1]))
def test_splash_attention_is_split_over_rows_and_heads(kv_heads):
    """Fewer key heads than the axis of heads among them."""
    q, k, v, ids = arrays(128, kv_heads=kv_heads, width=128, scale=0.5)
    with jax.set_mesh(meshes.build({"data": 2, "tensor": 2})):
        out = jax.jit(lambda *x: tpu.attend(*x, True, 0, interpret=True))(q, k, v, ids)
    np.testing.assert_allclose(out, definition(q, k, v, ids), atol=1e-4)


SPLIT = [
    (implementation, *case)
    for implementation in ("splash", "xla")
    for case in (
        ({"data": 1, "context": 4}, 2, 0, True),
        ({"data": 2, "context": 2, "tensor": 2}, 1, 150, True),
        ({"data": 1, "context": 2}, 4, 0, False),
    )
]


@pytest.mark.parametrize(
    ("implementation", "sizes", "kv_heads", "window", "causal"), tiered(SPLIT, [SPLIT[0], SPLIT[4]])
)
def test_queries_of_a_split_sequence_see_the_same_keys(implementation, sizes, kv_heads, window, causal):
    """Values and gradients where devices share a sequence out, each with a part of its queries."""
    q, k, v, ids = arrays(512, kv_heads=kv_heads, width=128, scale=0.5)
    weight = jax.random.normal(jax.random.key(3), q.shape)

    def total(attend, *inputs):
        out = attend(*inputs, ids, causal, window)
        return jnp.sum(weight * out), out

    def plain(q, k, v, ids, causal, window):
        return attention.attend(q, k, v, ids, "xla", causal, window=window)

    ours = functools.partial(tpu.attend, interpret=True) if implementation == "splash" else plain
    reference = jax.jit(jax.grad(functools.partial(total, plain), (0, 1, 2), has_aux=True))(q, k, v)
    grid = meshes.build(sizes)
    where = jax.NamedSharding(grid, meshes.spec("batch", "length", None, None))
    with jax.set_mesh(grid):
        split = jax.jit(jax.grad(functools.partial(total, ours), (0, 1, 2), has_aux=True), in_shardings=where)
        found = split(q, k, v)
    assert found[1].addressable_shards[0].data.shape[1] == 512 // sizes["context"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, reference)


def test_what_cannot_be_split_is_said():
    with jax.set_mesh(meshes.build({"data": 1, "context": 4})):
        assert choose("auto", 64, "float32") == ("xla", "auto on cpu: no blocked, mesh.context splits sequences")
        with pytest.raises(BadInput, match="attention: blocked cannot run here: mesh.context splits sequences"):
            choose("blocked", 64, "float32")
        q, k, v, ids = arrays(256, width=128)
        with pytest.raises(BadInput, match="splash attention needs a multiple of 512 tokens"):
            jax.eval_shape(lambda *x: tpu.attend(*x, True, 0), q, k, v, ids)


def test_large_scores_do_not_overflow():
    q, k, v, _ = arrays(8, scale=60.0)
    for implementation in ("blocked", "xla"):
        total = jax.value_and_grad(lambda q, name: attention.attend(q, k, v, None, name).sum())
        value, grads = jax.jit(total, static_argnums=1)(q, implementation)
        assert jnp.isfinite(value) and jnp.isfinite(grads).all()


@pytest.mark.parametrize("implementation", ["blocked", "xla"])
def test_scores_and_their_softmax_are_float32_in_half_precision(implementation):
    """Scores of up to a hundred, which bfloat16 rounds by up to a quarter: weights would be wrong by tens of percent."""
    q, k, v, ids = arrays(64, width=16, scale=3.0)
    half = [a.astype(jnp.bfloat16) for a in (q, k, v)]
    out = attention.attend(*half, ids, implementation)  # without jit, for a compiler may leave out roundings
    assert out.dtype == jnp.bfloat16
    expected = definition(*(a.astype(jnp.float32) for a in half), ids)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=5e-3 * np.abs(expected).max())

    scores = jnp.einsum("bthd,bshd->bhts", half[0], jnp.repeat(half[1], 2, axis=2)) / jnp.bfloat16(4)
    seen = jnp.tri(64, dtype=bool) & (ids[:, None, :, None] == ids[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf).astype(jnp.bfloat16))
    coarse = jnp.einsum("bhts,bshd->bthd", weights, jnp.repeat(half[2], 2, axis=2))
    assert np.abs(coarse.astype(np.float32) - expected).max() > 1e-2 * np.abs(expected).max()  # what the test can see


@pytest.mark.parametrize(
    ("requested", "width", "dtype", "platform", "chosen"),
    [
        ("auto", 64, "float32", "cpu", "blocked"),
        ("auto", 64, "bfloat16", "cpu", "blocked"),
        ("auto", 64, "bfloat16", "gpu", "cudnn"),
        ("auto", 64, "float16", "gpu", "cudnn"),
        ("auto", 64, "float32", "gpu", "xla"),
        ("auto", 20, "bfloat16", "gpu", "xla"),
        ("auto", 256, "bfloat16", "gpu", "xla"),
        ("auto", 64, "bfloat16", "tpu", "xla"),
        ("auto", 128, "bfloat16", "tpu", "splash"),
        ("auto", 256, "float32", "tpu", "splash"),
        ("xla", 128, "bfloat16", "tpu", "xla"),
        ("xla", 64, "bfloat16", "gpu", "xla"),
        ("blocked", 64, "float32", "tpu", "blocked"),
        ("cudnn", 64, "bfloat16", "gpu", "cudnn"),
    ],
)
def test_the_choice_is_made_by_platform_dtype_and_width(requested, width, dtype, platform, chosen):
    assert choose(requested, width, dtype, platform).name == chosen


def test_the_choice_says_why():
    assert "float32" in choose("auto", 64, "float32", "gpu").reason
    assert "20" in choose("auto", 20, "bfloat16", "gpu").reason


@pytest.mark.parametrize(
    ("requested", "platform", "message"),
    [
        ("cudnn", "cpu", "platform is cpu"),
        ("cudnn", "gpu", "float32"),
        ("flash", "cpu", "flash"),
        ("splash", "cpu", "platform is cpu"),
        ("splash", "tpu", "not a multiple of 128"),
    ],
)
def test_what_cannot_run_is_refused(requested, platform, message):
    with pytest.raises(BadInput, match=message):
        choose(requested, 64, "float32", platform)
