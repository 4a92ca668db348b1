"""The decoder: its tree and initial values, its speed switches, and what each option means."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from lm.decoder import Decoder
from lm.loss import cross_entropy
from training import mesh as meshes
from training.errors import BadInput
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
BASE = compose(Decoder, vocab_size=19, depth=2, width=16, heads=4, kv_heads=2, mlp_width=24)
FULL = clone(
    BASE, norm="layer", positions="learned", max_length=12, activation="swiglu", tied=False, bias=True, qk_norm=True
)
OTHER = clone(BASE, activation="relu", positions="none", parallel_block=True, kv_heads=4)
TOKENS = np.random.default_rng(0).integers(0, 19, (4, 12)).astype(np.int32)
SEGMENTS = np.repeat([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]], 4, axis=0).astype(np.int32)


# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def initial(model, scale=1.0, seed=0):
    init = jit(lambda key, scale: nn.meta.unbox(model.init(key, scale, method="parameters"))["params"])
    return init(jax.random.key(seed), scale)


@functools.lru_cache
def jitted(model):
    return jit(model)


def forward(model, params, tokens=TOKENS, segments=None, dropout=None):
    return jitted(model)(params, tokens, segments, dropout)


def loss_and_gradient(model, params, segments=None):
    def loss(p):
        states, head = model.hidden(p, TOKENS[:, :-1], segments)
        return cross_entropy(states, head, TOKENS[:, 1:])[0].mean()

    return jit(jax.value_and_grad(loss))(params)


def assert_close(left, right, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), left, right)


def test_the_tree_is_as_documented():
    boxed = jax.eval_shape(functools.partial(FULL.init, method="parameters"), KEY)["params"]
    boxes = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    found = {"/".join(key.key for key in path): (box.value.shape, box.names) for path, box in boxes}
    norm, L = {"scale": ((2, 16), ("layers", None)), "bias": ((2, 16), ("layers", None))}, "layers"

    def linear(rows, columns, *axes):
        return {"kernel": ((2, rows, columns), (L, *axes)), "bias": ((2, columns), (L, axes[1]))}

    blocks = {
        "attention_norm": norm,
        "mlp_norm": norm,
        "attention/query": linear(16, 16, "embed", "heads"),
        "attention/key": linear(16, 8, "embed", "kv"),
        "attention/value": linear(16, 8, "embed", "kv"),
        "attention/out": linear(16, 16, "heads", "embed"),
        "attention/query_norm": {"scale": ((2, 4), (L, None))},
        "attention/key_norm": {"scale": ((2, 4), (L, None))},
        "mlp/up": linear(16, 24, "embed", "mlp"),
        "mlp/gate": linear(16, 24, "embed", "mlp"),
        "mlp/down": linear(24, 16, "mlp", "embed"),
    }
    expected = {f"blocks/{name}/{leaf}": value for name, group in blocks.items() for leaf, value in group.items()}
    assert found == expected | {
        "embed/embedding": ((19, 16), ("vocab", "embed")),
        "position/embedding": ((12, 16), ("position", "embed")),
        "head/embedding": ((19, 16), ("vocab", "embed")),
        "final_norm/scale": ((16,), (None,)),
        "final_norm/bias": ((16,), (None,)),
    }


def test_initial_values_are_as_documented():
    model = clone(BASE, vocab_size=400, width=128, kv_heads=4, mlp_width=512, tied=False, bias=True, norm="layer")
    params = initial(model)
    blocks = params["blocks"]
    spread = {
        128**-0.5: [params["embed"]["embedding"], params["head"]["embedding"], blocks["mlp"]["up"]["kernel"]]
        + [blocks["attention"][name]["kernel"] for name in ("query", "key", "value")],
        128**-0.5 * 4**-0.5: [blocks["attention"]["out"]["kernel"]],
        512**-0.5 * 4**-0.5: [blocks["mlp"]["down"]["kernel"]],
    }
    for std, leaves in spread.items():
        for leaf in leaves:
            assert float(leaf.std()) == pytest.approx(std, rel=0.02)
            assert abs(float(leaf.mean())) < 4 * std / leaf.size**0.5
    assert (blocks["attention_norm"]["scale"] == 1).all() and (blocks["mlp"]["up"]["bias"] == 0).all()
    # No two layers or parameters share draws.
    up, query = blocks["mlp"]["up"]["kernel"], blocks["attention"]["query"]["kernel"]
    key = blocks["attention"]["key"]["kernel"]
    for left, right in ((up[0], up[1]), (up[0, :, :128], query[0]), (query[0], key[0])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 4 / left.size**0.5


def test_the_initial_scale_is_an_input():
    init = jit(lambda scale: nn.meta.unbox(BASE.init(KEY, scale, method="parameters")))
    once, thrice = init(1.0)["params"], init(3.0)["params"]
    assert init._cache_size() == 1
    np.testing.assert_allclose(
        thrice["blocks"]["mlp"]["up"]["kernel"], 3 * once["blocks"]["mlp"]["up"]["kernel"], rtol=1e-6
    )
    assert (thrice["final_norm"]["scale"] == 1).all()


@functools.lru_cache
def reference_gradient():
    return loss_and_gradient(FULL, initial(FULL), SEGMENTS[:, :-1])


SWITCHES = [{"scan": True}, {"remat": "full"}, {"remat": "dots", "scan": True, "attention": "xla"}]


@pytest.mark.parametrize("switches", tiered(SWITCHES, SWITCHES[2:]), ids=str)
def test_speed_switches_change_neither_initial_values_nor_results(switches):
    fast = clone(FULL, **switches)
    params = initial(FULL)
    jax.tree.map(np.testing.assert_array_equal, initial(fast), params)
    assert_close(loss_and_gradient(fast, params, SEGMENTS[:, :-1]), reference_gradient(), 1e-5)


@pytest.mark.parametrize("model", [FULL, OTHER], ids=["full", "other"])
def test_logits_depend_on_the_past_alone(model):
    params = initial(model)
    changed = TOKENS.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 19
    before, after = forward(model, params), forward(model, params, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (abs(before[:, 7:] - after[:, 7:]).max(axis=(0, 2)) > 1e-6).all()


def test_segments_are_as_good_as_separate_sequences():
    params = initial(FULL)
    packed = forward(FULL, params, TOKENS, SEGMENTS)
    for start, stop in ((0, 5), (5, 8), (8, 12)):
        # What follows a sequence does not reach back into it, so one length serves all.
        alone = forward(FULL, params, np.roll(TOKENS, -start, axis=1))[:, : stop - start]
        np.testing.assert_allclose(packed[:, start:stop], alone, atol=1e-5)


def test_without_positions_only_the_set_of_the_past_matters():
    model = clone(OTHER, depth=1)
    swapped = TOKENS.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    params = initial(model)
    np.testing.assert_allclose(forward(model, params)[:, 3:], forward(model, params, swapped)[:, 3:], atol=1e-5)
    rotary = clone(model, positions="rotary")
    assert abs(forward(rotary, params)[:, 3:] - forward(rotary, params, swapped)[:, 3:]).max() > 1e-3


def test_options_change_the_function():
    shallow = clone(BASE, depth=1)
    params = initial(shallow)
    base = forward(shallow, params)
    for change in (
        {"activation": "relu"},
        {"norm": "layer"},
        {"rope_theta": 10.0},
        {"norm_eps": 0.5},
        {"parallel_block": True},
    ):
        assert abs(forward(clone(shallow, **change), params) - base).max() > 1e-3, change


def defined(model, params, tokens):
    """The decoder without positions, in float64, head by head: Vaswani et al. 2017 with the options of `BlockConfig`."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    config = model.blocks
    heads, kv_heads, width = config.heads, config.kv_heads, config.width // config.heads

    def rms(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps) * scale

    def attend(p, x):
        q, k, v = (x @ p[name]["kernel"] for name in ("query", "key", "value"))
        out = np.zeros_like(q)
        for h in range(heads):
            own, shared = (slice(i * width, (i + 1) * width) for i in (h, h // (heads // kv_heads)))
            queries, keys = q[:, own], k[:, shared]
            if config.qk_norm:
                queries, keys = rms(queries, p["query_norm"]["scale"]), rms(keys, p["key_norm"]["scale"])
            scores = np.where(np.tri(len(x), dtype=bool), queries @ keys.T / np.sqrt(width), -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, own] = weights / weights.sum(axis=1, keepdims=True) @ v[:, shared]
        return out @ p["out"]["kernel"]

    def mlp(p, x):
        y = x @ p["up"]["kernel"]
        return (0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))) @ p["down"]["kernel"]

    x = p["embed"]["embedding"][tokens]
    for layer in range(config.depth):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        y = rms(x, block["attention_norm"]["scale"])
        if config.parallel_block:  # both read one norm
            x = x + attend(block["attention"], y) + mlp(block["mlp"], y)
        else:
            x = x + attend(block["attention"], y)
            x = x + mlp(block["mlp"], rms(x, block["mlp_norm"]["scale"]))
    return rms(x, p["final_norm"]["scale"]) @ p["embed"]["embedding"].T


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("parallel_block", [False, True])
def test_equals_an_independent_definition(parallel_block, qk_norm):
    model = clone(BASE, positions="none", parallel_block=parallel_block, qk_norm=qk_norm)
    params = initial(model, 2.0)
    keys = iter(jax.random.split(KEY, 99))  # scales of norms that are not one
    params = jax.tree.map(lambda leaf: leaf * (1 + 0.3 * jax.random.normal(next(keys), leaf.shape)), params)
    for tokens, logits in zip(TOKENS, forward(model, params), strict=True):
        np.testing.assert_allclose(logits, defined(model, params, tokens), atol=1e-4)


def test_logits_are_hidden_states_times_the_head():
    for model in (BASE, FULL):
        params = initial(model)
        states, head = jit(model.hidden)(params, TOKENS)
        assert head.shape == (19, 16) and states.shape == (4, 12, 16)
        np.testing.assert_allclose(forward(model, params), states @ head.T, atol=1e-5)
    np.testing.assert_array_equal(head, params["head"]["embedding"])


def test_dropout_is_structure_and_its_rate_an_input():
    model = clone(BASE, dropout=True)
    params = initial(model)
    apply = jit(lambda rate, seed: model(params, TOKENS, None, (jax.random.key(seed), rate)))
    still = forward(model, params)
    np.testing.assert_allclose(apply(0.0, 0), still, atol=1e-6)
    assert abs(apply(0.3, 0) - still).max() > 0.01
    assert abs(apply(0.3, 0) - apply(0.3, 1)).max() > 0.01
    np.testing.assert_array_equal(apply(0.3, 0), apply(0.3, 0))
    assert apply._cache_size() == 1
    without = forward(BASE, params, dropout=(KEY, jnp.float32(0.3)))
    np.testing.assert_array_equal(without, forward(BASE, params))


def test_dropout_is_the_same_scanned_or_unrolled():
    model = clone(BASE, dropout=True)
    params, dropout = initial(model), (KEY, jnp.float32(0.3))
    scanned = forward(clone(model, scan=True), params, dropout=dropout)
    np.testing.assert_allclose(forward(model, params, dropout=dropout), scanned, atol=1e-5)


def test_half_precision_computes_in_half_and_keeps_float32_parameters():
    half = clone(BASE, compute_dtype="bfloat16")
    params = initial(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = forward(half, params)
    assert logits.dtype == jnp.float32
    states, _ = jax.eval_shape(half.hidden, params, TOKENS)
    assert states.dtype == jnp.bfloat16
    difference = abs(logits - forward(BASE, params)).max()
    assert 1e-4 < difference < 0.15
    stored = jax.eval_shape(functools.partial(clone(BASE, param_dtype="bfloat16").init, method="parameters"), KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(clone(BASE, logit_dtype="bfloat16"), params, TOKENS).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "model",
    [
        clone(FULL, depth=1, attention="blocked"),
        clone(OTHER, attention="blocked", scan=True, remat="full"),
    ],
    ids=["full", "other"],
)
def test_gradients_agree_with_finite_differences(model):
    with jax.enable_x64(True):
        double = clone(model, param_dtype="float64", compute_dtype="float64", logit_dtype="float64")
        params = jit(lambda: nn.meta.unbox(double.init(KEY, 1.5, method="parameters"))["params"])()

        def loss(p):
            states, head = double.hidden(p, TOKENS[:2, :-1], SEGMENTS[:2, :-1])
            return cross_entropy(states, head, TOKENS[:2, 1:], "float64")[0].sum()

        value, gradient = jit(jax.value_and_grad(loss))(params)
        assert value.dtype == jnp.float64
        evaluate, rng, step = jit(loss), np.random.default_rng(0), 1e-5
        flat, tree = jax.tree.flatten(params)
        for i, slope in enumerate(jax.tree.leaves(gradient)):
            direction = rng.normal(size=slope.shape)
            ahead, behind = (
                evaluate(tree.unflatten([*flat[:i], flat[i] + by * direction, *flat[i + 1 :]])) for by in (step, -step)
            )
            difference = (ahead - behind) / (2 * step)
            assert float(difference) == pytest.approx(float(np.sum(slope * direction)), rel=1e-6, abs=1e-6)


def test_a_mesh_changes_no_value():
    model = FULL
    params = initial(model)
    mesh = meshes.build({"data": 2, "fsdp": 2, "tensor": 2})
    boxed = jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)["params"]
    placed = meshes.shardings(boxed, mesh)
    split = {axis for sharding in jax.tree.leaves(placed) for axis in jax.tree.leaves(tuple(sharding.spec)) if axis}
    assert {axis for axis in split if mesh.shape[axis] > 1} == {"fsdp", "tensor"}
    with jax.set_mesh(mesh):
        init = lambda key, scale: nn.meta.unbox(model.init(key, scale, method="parameters"))["params"]
        sharded = jit(init, out_shardings=placed)(KEY, 1.0)
        jax.tree.map(np.testing.assert_array_equal, sharded, params)
        ours = loss_and_gradient(model, sharded, SEGMENTS[:, :-1])
    assert_close(jax.device_get(ours), jax.device_get(reference_gradient()), 1e-5)


def test_equal_models_are_one_key():
    assert hash(BASE.clone()) == hash(BASE) and BASE.clone() == BASE != FULL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "model.norm"),
        ({"activation": "tanh"}, "model.activation"),
        ({"positions": "alibi"}, "model.positions"),
        ({"remat": "some"}, "model.remat"),
        ({"heads": 3}, "does not divide the width"),
        ({"kv_heads": 3}, "does not divide the 4 heads"),
        ({"heads": 16, "kv_heads": 16}, "even head width"),
        ({"positions": "learned"}, "maximal length"),
        ({"depth": 0}, "model.depth"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        jax.eval_shape(functools.partial(clone(BASE, **change).init, method="parameters"), KEY)


def test_learned_positions_end():
    with pytest.raises(BadInput, match="learned positions"):
        jax.eval_shape(FULL, initial(FULL), np.zeros((1, 13), np.int32))
