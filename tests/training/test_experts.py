"""Mixtures of experts: who takes which token, what comes of it, what is told of it, and how it is stored."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from lm.decoder import Decoder
from training import optimizer
from training.errors import BadInput
from training.nets import layers
from training.nets.block_config import clone, compose
from training.nets.ffn import moe as experts
from training.nets.mixers.mixer import Context

BASE = compose(
    Decoder, vocab_size=7, depth=1, width=6, heads=1, kv_heads=1, mlp_width=5, experts=4, experts_per_token=2
)
GATED = clone(BASE, activation="swiglu", bias=True, shared_experts=2, norm_topk_prob=False)

# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def params_of(model, seed=0):
    boxed = model.init(jax.random.key(seed), 2.0, method="parameters")["params"]["blocks"]["mlp"]
    drawn = jax.tree.map(lambda leaf: leaf[0], nn.meta.unbox(boxed))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), drawn)


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, BASE.width)).astype(np.float32)


def mixed(model, p, x, batch=1, training=True):
    context = Context(jnp.arange(len(x) // batch), training=training)
    out, metrics = experts.apply(model.blocks, p, x.reshape(batch, -1, x.shape[-1]), context)
    return out.reshape(x.shape), metrics


def by_hand(model, p, x, slots_per_expert=None):
    """The same, a token after another, and how many choices found all slots taken."""
    p = jax.tree.map(np.array, p)
    activation, gated = layers.ACTIVATIONS[model.blocks.activation]

    def mlp(p, row):
        up, gate = (row @ p[n]["kernel"] + p[n].get("bias", 0) if n in p else None for n in ("up", "gate"))
        hidden = np.array(activation(jnp.asarray(gate))) * up if gated else np.array(activation(jnp.asarray(up)))
        return hidden @ p["down"]["kernel"] + p["down"].get("bias", 0)

    out, taken, dropped = np.zeros_like(x), np.zeros(model.blocks.moe.experts, int), 0
    for i, row in enumerate(x):
        weights = np.exp(row @ p["router"]["kernel"])
        weights /= weights.sum()
        chosen = np.argsort(-weights, kind="stable")[: model.blocks.moe.experts_per_token]
        gates = weights[chosen] / (weights[chosen].sum() if model.blocks.moe.norm_topk_prob else 1)
        for expert, gate in zip(chosen, gates, strict=True):
            if slots_per_expert is not None and taken[expert] >= slots_per_expert:
                dropped += 1
                continue
            taken[expert] += 1
            one = {name: {k: v[expert] for k, v in p[name].items()} for name in ("up", "gate", "down") if name in p}
            out[i] += gate * mlp(one, row)
        if "shared" in p:
            out[i] += mlp(p["shared"], row)
    return out, dropped


# Results ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [BASE, GATED], ids=["plain", "gated"])
@pytest.mark.parametrize("how", [{"dispatch": "blocked"}, {"dispatch": "ragged"}, {"capacity_factor": 100.0}], ids=str)
def test_every_way_is_the_loop_over_tokens(model, how):
    p, x = params_of(model), rows(90)
    out, told = jit(functools.partial(mixed, clone(model, **how)))(p, x)
    np.testing.assert_allclose(out, by_hand(model, p, x)[0], atol=2e-5)
    assert told["dropped"] == 0


@pytest.mark.parametrize(
    ("tokens", "count", "k", "scale"),
    tiered([(1, 5, 2, 1), (3, 5, 1, 1), (70, 3, 3, 1), (200, 4, 1, 0), (70, 5, 2, 5)], [(1, 5, 2, 1), (200, 4, 1, 0)]),
)
def test_however_few_the_tokens_and_uneven_the_choices(tokens, count, k, scale):
    model = clone(BASE, experts=count, experts_per_token=k)
    p, x = params_of(model), np.abs(rows(tokens))
    # All tokens point the same way: with scale 0 to the first experts, with a large one to the likeliest.
    p = p | {"router": {"kernel": scale * jnp.abs(p["router"]["kernel"])}}
    expected = by_hand(model, p, x)[0]
    for way in ({"dispatch": "blocked"}, {"dispatch": "ragged"}, {"capacity_factor": float(count)}):
        np.testing.assert_allclose(jit(functools.partial(mixed, clone(model, **way)))(p, x)[0], expected, atol=1e-4)


def test_gradients_are_the_same_every_way():
    def slopes(model):
        def total(p, x):
            out, told = mixed(model, p, x, batch=3)
            return jnp.sum(jnp.sin(out)) + told["load_balancing_loss"] + told["router_z_loss"]

        return jit(jax.grad(total, (0, 1)))(params_of(GATED), rows(60))

    reference = slopes(clone(GATED, dispatch="ragged"))
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(reference))
    for way in ({"dispatch": "blocked"}, {"capacity_factor": 4.0}):
        found = slopes(clone(GATED, **way))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), found, reference)


@pytest.mark.parametrize("capacity", tiered([0.2, 0.75, 1.0], [0.75]))
def test_what_exceeds_the_capacity_is_dropped_last_come_first(capacity):
    model = clone(GATED, capacity_factor=capacity)
    p, x = params_of(model), rows(40)
    out, told = jit(functools.partial(mixed, model, batch=2))(p, x)
    slots_per_expert = experts.slots(model.blocks.moe, 20)
    assert slots_per_expert == np.ceil(capacity * 20 * 2 / 4)
    halves = [by_hand(model, p, half, slots_per_expert) for half in (x[:20], x[20:])]
    np.testing.assert_allclose(out, np.concatenate([half for half, _ in halves]), atol=2e-5)
    dropped = sum(count for _, count in halves)
    assert told["dropped"] == dropped / 2 and dropped > 0
    # Not trained, not dropped.
    whole = jit(functools.partial(mixed, model, training=False))(p, x)[0]
    np.testing.assert_allclose(whole, by_hand(model, p, x)[0], atol=2e-5)


def test_a_capacity_is_causal_and_knows_no_company():
    model = clone(BASE, capacity_factor=0.5)
    p, x = params_of(model), rows(48)
    apply = jit(functools.partial(mixed, model, batch=4))
    out = np.array(apply(p, x)[0])
    changed = x.copy()
    changed[12 + 7 :] *= -1  # from the eighth token of the second example on
    other = np.array(apply(p, changed)[0])
    np.testing.assert_array_equal(out[: 12 + 7], other[: 12 + 7])
    assert np.abs(out - other)[12 + 7 :].max() > 0.1
    alone = jit(functools.partial(mixed, model))(p, x[12:24])[0]
    np.testing.assert_allclose(alone, out[12:24], atol=1e-5)


def test_the_router_computes_in_float32():
    p, x = params_of(BASE), rows(50)
    half = x.astype(jnp.bfloat16)
    route = jit(lambda rows: experts.route(p["router"]["kernel"], rows, 2, True))
    low, full = route(half), route(np.array(half, np.float32))
    jax.tree.map(np.testing.assert_array_equal, low, full)
    assert low.probabilities.dtype == jnp.float32
    np.testing.assert_allclose(low.gates.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(low.probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert jax.eval_shape(functools.partial(mixed, BASE), p, half)[0].dtype == jnp.bfloat16


# What is told -----------------------------------------------------------------------------------------------------------


def test_balance_is_one_where_all_is_even_and_the_experts_where_one_takes_all():
    def balance(probabilities, k):
        order = jnp.argsort(-probabilities, axis=1, stable=True)[:, :k]
        gates = jnp.take_along_axis(probabilities, order, axis=1)
        routed = experts.Routed(*(x[None] for x in (order, gates, probabilities, jnp.zeros(len(probabilities)))))
        return float(experts.routing_metrics(routed)["load_balancing_loss"]) / len(probabilities)

    turns = jnp.eye(4)[jnp.arange(20) % 4]
    assert balance(turns, 1) == pytest.approx(1.0)
    assert balance(jnp.eye(4)[jnp.zeros(20, int)], 1) == pytest.approx(4.0)
    # Shares and mean probabilities of two tokens, by hand: (1, 0, 0, 0) and (0.6, 0.2, 0.1, 0.1).
    skewed = jnp.array([[0.7, 0.1, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1]])
    assert balance(skewed, 1) == pytest.approx(4 * 0.6)
    assert balance(skewed, 2) == pytest.approx(4 * (0.6 + 0.2) / 2)


def test_the_router_s_z_is_the_squared_log_of_its_normaliser():
    p, x = params_of(BASE), rows(30)
    expected = np.square(np.log(np.exp(x @ np.array(p["router"]["kernel"])).sum(axis=1))).sum()
    assert float(jit(functools.partial(mixed, BASE))(p, x)[1]["router_z_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("capacity", [0.0, 0.75])
def test_what_is_told_of_a_batch_is_the_sum_over_its_examples(capacity):
    model = clone(BASE, capacity_factor=capacity)
    p, x = params_of(model), rows(40)
    whole = jit(functools.partial(mixed, model, batch=4))(p, x)[1]
    apply = jit(functools.partial(mixed, model))
    parts = [apply(p, x[i : i + 10])[1] for i in range(0, 40, 10)]
    for name in ("load_balancing_loss", "router_z_loss", "dropped"):
        assert float(whole[name]) == pytest.approx(sum(float(part[name]) for part in parts), rel=1e-5)


# How it is stored and chosen --------------------------------------------------------------------------------------------


def test_expert_kernels_are_matrices_and_their_biases_vectors():
    boxed = jax.eval_shape(functools.partial(GATED.init, method="parameters"), jax.random.key(0))["params"]["blocks"]
    axes = optimizer.axes_of(boxed["mlp"])
    for name in ("up", "gate", "down"):
        assert optimizer.role(axes[name]["kernel"]) == "matrix" and optimizer.role(axes[name]["bias"]) == "vector"
    assert optimizer.role(axes["router"]["kernel"]) == "matrix"


def test_muon_turns_the_kernel_of_each_expert_for_itself():
    def update(grads, *names):
        muon = optimizer.build("muon", {"kernel": optimizer.Axes(names)}, momentum=0.95, b1=0.9, b2=0.95, eps=1e-8)
        params = {"kernel": jnp.zeros_like(grads)}
        return jit(lambda g: muon.update({"kernel": g}, muon.init(params), params)[0]["kernel"])(grads)

    grads = jax.random.normal(jax.random.key(0), (2, 3, 6, 4))
    whole = update(grads, "layers", "expert", "embed", "mlp")
    np.testing.assert_allclose(whole[1, 2], update(grads[1, 2], "embed", "mlp"), atol=1e-5)


def test_the_way_is_chosen_by_platform_and_says_why():
    assert experts.choose("auto", "cpu") == ("blocked", "auto on cpu")
    assert experts.choose("auto", "tpu") == ("ragged", "auto on tpu")
    assert experts.choose("ragged", "cpu") == ("ragged", "as configured")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 1}, "model.experts: 1 are fewer than the 2 of a token"),
        ({"experts_per_token": 0}, "model.experts_per_token: must be at least 1, got 0"),
        ({"shared_experts": -1}, "model.shared_experts: must not be negative"),
        ({"capacity_factor": -1.0}, "model.capacity_factor: must not be negative"),
        ({"dispatch": "sorted"}, "model.dispatch: 'sorted' is not one of auto, blocked, ragged"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        experts.check(clone(BASE, **change).blocks.moe)
