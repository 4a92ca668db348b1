"""Recurrent models: the tree, cells against torch, documents and carried states, the scan against a loop, costs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import models, recurrent
from lm.decoder import Decoder
from lm.loss import cross_entropy
from lm.recurrent import Recurrent
from training import mesh as meshes
from training.cost import count_products
from training.errors import BadInput
from training.nets import recurrence
from training.nets.block_config import compose
from training.nets.mixers import gated_linear

KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 19, (4, 12)).astype(np.int32)
SEGMENTS = np.repeat([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]], 4, axis=0).astype(np.int32)
CELLS = sorted(recurrence.CELLS)
LINEAR = compose(
    Decoder, vocab_size=19, depth=2, width=16, heads=1, mlp_width=24, positions="none", pattern=("gated_linear",)
)


def model_of(cell, **changes):
    return Recurrent(**{"vocab_size": 19, "cell": cell, "depth": 2, "width": 16, **changes})


EVERY = {cell: model_of(cell) for cell in CELLS} | {"gated_linear": LINEAR}


@functools.lru_cache
def params_of(model):
    # More than the usual scale: what is not used would show.
    return jax.jit(lambda: nn.meta.unbox(model.init(KEY, 3.0, method="parameters"))["params"])()


@functools.lru_cache
def program(model, method="__call__"):
    return jax.jit(getattr(model, method))


def forward(model, tokens, segments=None):
    return program(model)(params_of(model), tokens, segments)


def test_the_tree_is_as_documented():
    boxed = nn.meta.unbox(jax.eval_shape(functools.partial(model_of("gru", tied=False).init, method="parameters"), KEY))
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
              for path, leaf in jax.tree_util.tree_leaves_with_path(boxed["params"])}  # fmt: skip
    biases = {f"layers/bias/{name}": (2, 16) for name in ("reset", "update", "new", "hidden")}
    kernels = {f"layers/{name}/kernel": (2, 3, 16, 16) for name in ("input", "recurrent")}
    assert shapes == biases | kernels | {"embed/embedding": (19, 16), "head/embedding": (19, 16)}


def test_a_forget_gate_begins_open():
    params = nn.meta.unbox(model_of("lstm", width=64).init(KEY, method="parameters"))["params"]
    assert {name: float(bias.mean()) for name, bias in params["layers"]["bias"].items()} == {
        "input": 0.0, "forget": 1.0, "new": 0.0, "output": 0.0,
    }  # fmt: skip
    np.testing.assert_allclose(params["layers"]["input"]["kernel"].std(), 128**-0.5, rtol=0.03)


@pytest.mark.parametrize("cell", CELLS)
def test_torch(cell):
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch and transformers)")
    model = model_of(cell, depth=3)
    theirs = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](16, 16, 3, batch_first=True)
    gates = recurrence.CELLS[cell].gates
    rng = np.random.default_rng(0)
    turned = lambda kernel: np.swapaxes(np.array(kernel), 1, 2).reshape(-1, 16)
    layers = params_of(model)["layers"]
    bias = {name: jnp.asarray(rng.normal(size=b.shape), jnp.float32) for name, b in layers["bias"].items()}
    layers = layers | {"bias": bias}
    params = params_of(model) | {"layers": layers}
    with torch.no_grad():
        for layer in range(3):
            both = np.concatenate([layers["bias"][gate][layer] for gate in gates])
            hidden = np.zeros_like(both)
            if "hidden" in layers["bias"]:
                hidden[-16:] = layers["bias"]["hidden"][layer]
            own = {
                "weight_ih": turned(layers["input"]["kernel"][layer]),
                "weight_hh": turned(layers["recurrent"]["kernel"][layer]),
                "bias_ih": both,
                "bias_hh": hidden,
            }
            for name, value in own.items():
                getattr(theirs, f"{name}_l{layer}").copy_(torch.as_tensor(value.copy()))
        expected = theirs(torch.as_tensor(4 * np.array(params["embed"]["embedding"][TOKENS])))[0].numpy()
    states, _ = model.hidden(params, TOKENS)
    np.testing.assert_allclose(states, expected, atol=1e-4)


def test_the_linear_scan_equals_a_loop():
    gate, forget, value = jax.random.normal(KEY, (3, 2, 9, 10))
    starts = np.zeros((2, 9), bool)
    starts[1, 4] = True
    before = jax.random.normal(jax.random.key(1), (2, 10))
    out, last = gated_linear.recurrence(gate, forget, value, jnp.asarray(starts), before)
    scales = 2.0 * 256.0 ** (np.arange(10) / 9)
    h, expected = np.array(before), []
    for t in range(9):
        f = 1 / (1 + np.exp(-(np.array(forget[:, t]) + np.log(scales - 1))))
        h = np.where(starts[:, t, None], 0, h)
        h = f * h + (1 - f) * np.array(value[:, t])
        expected.append(np.array(jax.nn.silu(gate[:, t])) * h)
    np.testing.assert_allclose(out, np.stack(expected, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_tokens_see_what_came_before_within_their_document(name):
    model, changed = EVERY[name], TOKENS.copy()
    changed[:, 6] = (changed[:, 6] + 1) % 19  # in the second document
    whole, other = (np.array(forward(model, tokens)) for tokens in (TOKENS, changed))
    np.testing.assert_allclose(whole[:, :6], other[:, :6], atol=1e-6)
    assert np.abs(whole[:, 6:] - other[:, 6:]).max(axis=(0, 2)).min() > 1e-6
    apart, cut = (np.array(forward(model, tokens, SEGMENTS)) for tokens in (TOKENS, changed))
    np.testing.assert_allclose(apart[:, 8:], cut[:, 8:], atol=1e-6)
    np.testing.assert_allclose(apart[:, 5:8], forward(model, TOKENS[:, 5:8]), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_carried_state_goes_on_where_the_last_window_ended(cell):
    model = model_of(cell)
    whole, head = program(model, "hidden")(params_of(model), TOKENS)
    cache, parts = model.empty_cache(4), []
    for half in (TOKENS[:, :5], TOKENS[:, 5:]):
        states, same, cache = program(model, "carried")(params_of(model), half, None, None, cache)
        parts.append(states)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)
    np.testing.assert_array_equal(same, head)


@pytest.mark.parametrize("name", EVERY)
def test_costs_are_those_of_the_tree_and_the_gradient_jaxpr(name):
    model = EVERY[name].clone(tied=False)
    said = models.cost(name, model, 12)
    params = jax.eval_shape(lambda: params_of(model))
    assert said.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert said.params_total - said.params_non_embedding == 19 * 16

    def loss(params):
        states, head = model.hidden(params, TOKENS[:1])
        return cross_entropy(states, head, TOKENS[:1])[0].sum()

    assert count_products(jax.make_jaxpr(loss)(params)) == said.flops_forward
    assert count_products(jax.make_jaxpr(jax.grad(loss))(params)) == said.flops_exact == said.flops_exact_causal


@pytest.mark.parametrize("name", ["lstm", "gated_linear"])
def test_a_mesh_changes_no_value(name):
    model, mesh = EVERY[name], meshes.build({"data": 2, "fsdp": 2, "tensor": 2})

    def loss(params):
        states, head = model.hidden(params, TOKENS, SEGMENTS)
        return cross_entropy(states, head, TOKENS)[0].mean()

    alone = jax.jit(jax.value_and_grad(loss))(params_of(model))
    boxed = jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)
    placed = jax.device_put(params_of(model), meshes.shardings(boxed, mesh)["params"])
    with jax.set_mesh(mesh):
        spread = jax.jit(jax.value_and_grad(loss))(placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), alone, jax.device_get(spread))


def test_dropout_leaves_states_alone_and_the_mean_as_it_is():
    model = model_of("lstm", dropout=True)
    params = params_of(model)
    rate = (jax.random.key(3), jnp.float32(0.5))
    cache = model.empty_cache(4)
    dropped, _, after = model.carried(params, TOKENS, None, rate, cache)
    assert 0.3 < float((dropped == 0).mean()) < 0.7
    assert float((after["state0"] == 0).mean()) == 0
    kept = model.carried(params, TOKENS, None, None, cache)[0]
    np.testing.assert_array_equal(kept, model.hidden(params, TOKENS)[0])


def test_shapes_that_cannot_be_are_named():
    with pytest.raises(BadInput, match=r"model\.depth: must be at least 1, got 0"):
        recurrent.check(model_of("rnn", depth=0))
