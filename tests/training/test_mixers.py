"""Sequence mixers against their definitions, a token at a time in float64; patterns of them, caches, costs and meshes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from lm.cost import cost
from lm.decoder import Decoder
from training import mesh as meshes
from training.cost import count_products
from training.errors import BadInput
from training.nets import stack
from training.nets.block_config import BlockConfig, compose
from training.nets.mixers import MIXERS
from training.nets.mixers.chunks import unit_lower_inverse

KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 21)).astype(np.int32)
SEGMENTS = np.array([[0] * 6 + [1] * 9 + [2] * 6, [0] * 21], np.int32)
OPTIONS = {
    "local_attention": {"window": 5},
    "latent_attention": {"kv_latent_width": 6, "query_latent_width": 5, "rope_width": 2},
    "mamba2": {"state_width": 5, "chunk_size": 8},
    "gated_delta": {"chunk_size": 8},
}
NEW = tuple(OPTIONS)

# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config_of(name, **changes):
    shape = {"depth": 1, "width": 12, "heads": 3, "kv_heads": 3, "mlp_width": 16}
    return BlockConfig(**shape | changes, pattern=(name,), mixer_options=OPTIONS.get(name, {}).items())


@functools.lru_cache
def decoder(*pattern, **changes):
    options = {key: value for name in pattern for key, value in OPTIONS.get(name, {}).items()}
    shape = {"vocab_size": 19, "depth": 2, "width": 12, "heads": 3, "mlp_width": 16, "attention": "xla"}
    return compose(Decoder, **shape | options | changes, pattern=pattern)


@functools.lru_cache
def initial(model):
    return jax.device_get(jit(lambda: nn.meta.unbox(model.init(KEY, method="parameters"))["params"])())


@functools.lru_cache
def params_of(model):
    """Without zeros: what is not used would show."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), initial(model))


# Definitions ------------------------------------------------------------------------------------------------------------


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def rotated(x, position, theta=10_000.0):
    half = len(x) // 2
    angle = position * theta ** (-np.arange(half) / half)
    left, right = x[:half], x[half:]
    return np.concatenate([left * np.cos(angle) - right * np.sin(angle), right * np.cos(angle) + left * np.sin(angle)])


def rms(x, p):
    return x / np.sqrt(np.mean(x * x) + 1e-5) * p["scale"]


def silu(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def local_attention(config, p, x):
    heads, h, out = config.heads, config.head_width, np.zeros_like(x)
    q, k, v = ((x @ p[name]["kernel"]).reshape(len(x), heads, h) for name in ("query", "key", "value"))
    for t in range(len(x)):
        first = max(0, t - 4)
        mixed = []
        for i in range(heads):
            keys = np.stack([rotated(k[j, i], j) for j in range(first, t + 1)])
            mixed.append(softmax(keys @ rotated(q[t, i], t) / np.sqrt(h)) @ v[first : t + 1, i])
        out[t] = np.concatenate(mixed) @ p["out"]["kernel"]
    return out


def latent_attention(config, p, x):
    heads, h, r, e, out = config.heads, config.head_width, 6, 2, np.zeros_like(x)
    queries, latents, rotations = [], [], []
    for t, row in enumerate(x):
        q = (rms(row @ p["query_down"]["kernel"], p["query_norm"]) @ p["query_up"]["kernel"]).reshape(heads, h + e)
        queries.append([np.concatenate([one[:h], rotated(one[h:], t)]) for one in q])
        down = row @ p["kv_down"]["kernel"]
        latents.append(rms(down[:r], p["kv_norm"]) @ p["kv_up"]["kernel"])
        rotations.append(rotated(down[r:], t))
    for t in range(len(x)):
        mixed = []
        for i in range(heads):
            own = [latent.reshape(heads, 2 * h)[i] for latent in latents[: t + 1]]
            keys = np.stack([np.concatenate([one[:h], rotations[j]]) for j, one in enumerate(own)])
            mixed.append(softmax(keys @ queries[t][i] / np.sqrt(h + e)) @ np.stack([one[h:] for one in own]))
        out[t] = np.concatenate(mixed) @ p["out"]["kernel"]
    return out


def convolved(x, kernel):
    """silu of the weighted sum of the last tokens."""
    taps, padded = len(kernel), np.concatenate([np.zeros((len(kernel) - 1, x.shape[1])), x])
    return silu(np.stack([(padded[t : t + taps] * kernel).sum(axis=0) for t in range(len(x))]))


def step_and_rate(p, dt):
    """Softplus of a projection about step sizes from 0.001 to 0.1, and decay rates from 1 to 16, by head."""
    heads = len(dt)
    place = (np.arange(heads) + 0.5) / heads
    initial = np.exp(np.log(0.001) + place * np.log(100))
    bias = np.log(np.exp(initial) - 1) + p["dt_bias"]
    return np.log1p(np.exp(dt + bias)), np.exp(p["a"]) * (1 + 15 * ((np.arange(heads) + 0.5) * 0.618034 % 1))


def mamba2(config, p, x):
    inner, out = 2 * config.width, np.zeros_like(x)
    z = x @ p["z"]["kernel"]
    u, B, C = (convolved(x @ p[name]["kernel"], p["conv"][name]) for name in ("x", "B", "C"))
    heads = inner // config.head_width
    state = np.zeros((heads, 5, config.head_width))
    for t, row in enumerate(x):
        step, rate = step_and_rate(p, row @ p["dt"]["kernel"])
        mixed = np.zeros((heads, config.head_width))
        for i, u_i in enumerate(u[t].reshape(heads, -1)):
            state[i] = np.exp(-step[i] * rate[i]) * state[i] + step[i] * np.outer(B[t], u_i)
            mixed[i] = C[t] @ state[i] + p["D"][i] * u_i
        out[t] = rms(mixed.ravel() * silu(z[t]), p["norm"]) @ p["out"]["kernel"]
    return out


def gated_delta(config, p, x):
    heads, h, out = config.heads, config.head_width, np.zeros_like(x)
    q, k, v = (convolved(x @ p[n]["kernel"], p["conv"][n]).reshape(-1, heads, h) for n in ("query", "key", "value"))
    state = np.zeros((heads, h, h))
    for t, row in enumerate(x):
        step, rate = step_and_rate(p, row @ p["decay"]["kernel"])
        beta, mixed = sigmoid(row @ p["rate"]["kernel"]), []
        for i in range(heads):
            query, key = (one[t, i] / np.sqrt(np.sum(one[t, i] ** 2) + 1e-6) for one in (q, k))
            state[i] = np.exp(-step[i] * rate[i]) * (np.eye(h) - beta[i] * np.outer(key, key)) @ state[i]
            state[i] += beta[i] * np.outer(key, v[t, i])
            mixed.append(rms(query @ state[i] / np.sqrt(h), p["norm"]))
        out[t] = (np.concatenate(mixed) * silu(row @ p["gate"]["kernel"])) @ p["out"]["kernel"]
    return out


ORACLES = {
    "local_attention": local_attention,
    "latent_attention": latent_attention,
    "mamba2": mamba2,
    "gated_delta": gated_delta,
}


@pytest.mark.parametrize("attention", ["blocked", "xla"])
@pytest.mark.parametrize("name", NEW)
def test_a_mixer_is_its_definition(name, attention):
    config, mixer = config_of(name), MIXERS[name]
    p = params_of(decoder(name, depth=1))["blocks"][mixer.branch]
    p, x = jax.tree.map(lambda leaf: leaf[0], p), np.random.default_rng(1).normal(size=(2, 21, 12)).astype(np.float32)
    context = functools.partial(stack.context, config, jnp.arange(21), 10_000.0, attention=attention)
    out = jit(lambda p, x: mixer.apply(config, p, x, context()))(p, x)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
    expected = np.stack([ORACLES[name](config, exact, row) for row in x.astype(np.float64)])
    np.testing.assert_allclose(out, expected, atol=2e-5 * np.abs(expected).max(), rtol=1e-4)


def test_the_inverse_of_a_triangular_matrix_is_stable_where_keys_repeat():
    """Powers of the matrix, which a series of them would sum, grow to 1e17 here."""
    lower = np.tril(np.full((2, 64, 64), 0.9), -1)
    expected = np.linalg.inv(np.eye(64) + lower)
    np.testing.assert_allclose(jit(unit_lower_inverse)(lower.astype(np.float32)), expected, atol=1e-5)


# Models -----------------------------------------------------------------------------------------------------------------

HYBRIDS = {
    "mamba2 and attention": (("mamba2", "mamba2", "attention"), {"depth": 4}),
    "local and full": (("local_attention", "attention"), {"depth": 3}),
    "dense, then experts": (("latent_attention",), {"experts": 3, "experts_per_token": 2, "dense_layers": 1}),
    "experts of a hybrid": (
        ("gated_delta", "attention"),
        {"experts": 3, "dense_layers": 1, "depth": 4, "qk_norm": True},
    ),
}
MODELS = {name: ((name,), {}) for name in NEW} | HYBRIDS
QUICK = ("latent_attention", "mamba2", "gated_delta", "local and full")


def model_of(name, **changes):
    pattern, options = MODELS[name]
    return decoder(*pattern, **options | changes)


@functools.lru_cache
def program(model, method):
    return jit(getattr(model, method))


def apply(model, params, *args, method="__call__"):
    return program(model, method)(params, *args)


def loss(model):
    def nats(params):
        states, head, metrics = model.routed(params, TOKENS[:, :-1], SEGMENTS[:, :-1])
        logp = jax.nn.log_softmax(states @ head.T)
        total = -jnp.mean(jnp.take_along_axis(logp, TOKENS[:, 1:, None], axis=-1))
        return total + 0.01 * sum(map(jnp.sum, metrics.values()))

    return nats


@functools.lru_cache
def graded(name):
    return jit(jax.value_and_grad(loss(model_of(name))))


@functools.lru_cache
def reference(name):
    return jax.device_get(graded(name)(params_of(model_of(name))))


def assert_close(left, right):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(b).max()))
    jax.tree.map(close, jax.device_get(left), right)


@pytest.mark.parametrize("name", tiered(MODELS, [*QUICK, "dense, then experts"]))
def test_documents_and_caches(name):
    """Documents of a window are as good as windows of their own, and tokens a few at a time as all at once."""
    model = model_of(name)
    params = params_of(model)
    whole, packed = apply(model, params, TOKENS), apply(model, params, TOKENS, SEGMENTS)
    np.testing.assert_allclose(packed[1], whole[1], atol=2e-4)
    for start, end in ((0, 6), (6, 15), (15, 21)):
        # What follows a sequence does not reach back into it, so one shape serves all.
        alone = apply(model, params, np.roll(TOKENS, -start, axis=1))
        np.testing.assert_allclose(packed[0, start:end], alone[0, : end - start], atol=2e-4)
    cache, parts = model.empty_cache(2, 21), []
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 12), (12, 21)):
        logits, cache = apply(model, params, TOKENS[:, start:end], cache, method="extend")
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-4)


@pytest.mark.parametrize("name", tiered(MODELS, ["mamba2", "local and full"]))
def test_switches_change_neither_initial_values_nor_results(name):
    plain, model = model_of(name), model_of(name, scan=True, remat="full")
    jax.tree.map(np.testing.assert_array_equal, initial(plain), initial(model))
    assert_close(jit(jax.value_and_grad(loss(model)))(params_of(plain)), reference(name))


@pytest.mark.parametrize("name", tiered(MODELS, QUICK))
def test_a_mesh_changes_no_value(name):
    model, mesh = model_of(name), meshes.build({"data": 2, "fsdp": 2, "tensor": 2})
    boxed = jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)["params"]
    placed = jax.device_put(params_of(model), meshes.shardings(boxed, mesh))
    with jax.set_mesh(mesh):
        assert_close(jit(jax.value_and_grad(loss(model)))(placed), reference(name))


REMATS = [(name, remat) for name in MODELS for remat in ("none", "full", "dots")]


@pytest.mark.parametrize(
    "name, remat", tiered(REMATS, [case for case in REMATS if case[1] == "dots" or case[0] == "mamba2"])
)
def test_costs_are_those_of_the_tree_and_the_gradient_jaxpr(name, remat):
    model = model_of(name, remat=remat, scan=remat == "dots", **({"dispatch": "ragged"} if "experts" in name else {}))
    said, params = cost(model, 20), params_of(model_of(name))
    assert said.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))

    def total(params):
        states, head, _ = model.routed(params, TOKENS[:1, :-1])
        return jnp.sum(jnp.sin(states @ head.T))

    assert count_products(jax.make_jaxpr(total)(params)) == said.flops_forward
    assert count_products(jax.make_jaxpr(jax.grad(total))(params)) == pytest.approx(said.flops_hardware, rel=1e-12)
    assert said.flops_exact_causal < said.flops_exact


@pytest.mark.parametrize("name", tiered(MODELS, QUICK))
def test_training_reduces_the_loss(name):
    params, losses = initial(model_of(name)), []
    for _ in range(8):
        value, grads = jax.device_get(graded(name)(params))
        losses.append(float(value))
        norm = np.sqrt(sum(np.sum(g * g) for g in jax.tree.leaves(grads)))
        params = jax.tree.map(lambda p, g, n=norm: p - 0.3 * g / n, params, grads)
    assert losses[-1] < losses[0] - 0.3


def test_layers_stand_in_the_trees_of_their_kinds():
    trees = jax.tree.map(lambda leaf: leaf.shape[0], params_of(model_of("mamba2 and attention")))
    assert set(trees) == {"embed", "final_norm", "blocks_0", "blocks_1", "blocks_2"}
    assert [set(jax.tree.leaves(trees[f"blocks_{i}"])) for i in range(3)] == [{2}, {1}, {1}]
    assert "mamba2" in trees["blocks_1"] and "attention" in trees["blocks_2"]
    experts = params_of(model_of("experts of a hybrid"))
    assert set(experts) == {"embed", "final_norm", "dense_blocks", "blocks_0", "blocks_1"}
    assert "router" not in experts["dense_blocks"]["mlp"] and "gated_delta" in experts["dense_blocks"]
    assert experts["blocks_0"]["mlp"]["router"]["kernel"].shape == (2, 12, 3)


def test_a_latent_cache_is_narrower_than_keys_and_values():
    size = lambda model: sum(leaf.size for leaf in jax.tree.leaves(model.empty_cache(2, 100)["layers"]))
    assert size(decoder("latent_attention")) == 2 * 2 * 100 * (6 + 2)
    assert size(decoder("attention")) == 2 * 2 * 100 * 2 * 12


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        (("mamba",), {}, "model.pattern: 'mamba' is not one of attention, local_attention"),
        ((), {}, "model.pattern: names no mixer"),
        (("attention",), {"window": 4}, "model.window: no mixer of the pattern attention reads it"),
        (("local_attention",), {"window": 0}, "model.window: must be at least 1, got 0"),
        (("latent_attention",), {"rope_width": 3}, "model.rope_width: .* is even"),
        (("mamba2",), {"conv_width": 1}, "model.conv_width: must be at least 2, got 1"),
        (("gated_delta",), {"chunk_size": 24}, "model.chunk_size: must be a power of two, got 24"),
    ],
)
def test_contradictions_are_refused(pattern, options, message):
    with pytest.raises(BadInput, match=message):
        stack.check(BlockConfig(1, 12, 3, 3, 16, pattern=pattern, mixer_options=options.items()))
