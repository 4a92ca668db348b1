"""Analytic costs against the real parameter tree, the jaxpr's products and XLA's count."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

from lm.cost import cost
from lm.decoder import Decoder
from lm.loss import cross_entropy
from training.cost import count_products
from training.nets.block_config import compose


@st.composite
def decoders(draw):
    kv_heads, group, half = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    heads = kv_heads * group
    return compose(
        Decoder,
        vocab_size=draw(st.integers(2, 40)),
        depth=draw(st.integers(1, 3)),
        width=heads * 2 * half,
        heads=heads,
        kv_heads=kv_heads,
        mlp_width=draw(st.integers(1, 30)),
        max_length=draw(st.integers(1, 12)),
        norm=draw(st.sampled_from(("rms", "layer"))),
        positions=draw(st.sampled_from(("rotary", "learned", "none"))),
        activation=draw(st.sampled_from(("gelu", "relu", "swiglu"))),
        **{name: draw(st.booleans()) for name in ("tied", "bias", "qk_norm", "parallel_block", "scan")},
        remat=draw(st.sampled_from(("none", "full", "dots"))),
        attention="xla",
    )


def parameters(model):
    return jax.eval_shape(lambda key: model.init(key, method="parameters"), jax.random.key(0))["params"]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def forward(model, length, batch=1):
    tokens = jnp.zeros((batch, length), jnp.int32)
    return jax.make_jaxpr(lambda p: model(p, tokens))(parameters_unboxed(model))


def parameters_unboxed(model):
    return nn.meta.unbox(parameters(model))


def loss(model, length, batch=1):
    tokens = jnp.zeros((batch, length), jnp.int32)

    def total(p):
        states, head = model.hidden(p, tokens)
        return jnp.sum(cross_entropy(states, head, tokens)[0])

    return jax.grad(total)


@given(decoders())
@settings(max_examples=12, deadline=None)
def test_parameters_equal_the_real_tree_by_component(model):
    tree, count = parameters(model), cost(model, model.max_length).params
    blocks = tree["blocks"]
    norms = [blocks["attention_norm"], blocks.get("mlp_norm"), tree["final_norm"]]
    norms += [blocks["attention"].pop(name, None) for name in ("query_norm", "key_norm")]
    assert count == {
        "embedding": size(tree["embed"]),
        "position": size(tree.get("position")),
        "attention": size(blocks["attention"]),
        "mlp": size(blocks["mlp"]),
        "norm": size(norms),
        "head": size(tree.get("head")),
    }
    assert sum(count.values()) == size(parameters(model))


@given(decoders(), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_forward_products_equal_the_jaxpr(model, batch):
    counted = count_products(forward(model, model.max_length, batch))
    assert counted == batch * cost(model, model.max_length).flops_forward


@given(decoders())
@settings(max_examples=15, deadline=None)
def test_training_products_and_recomputation_equal_the_gradient_jaxpr(model):
    counted = count_products(jax.make_jaxpr(loss(model, model.max_length))(parameters_unboxed(model)))
    expected = cost(model, model.max_length)
    assert counted == pytest.approx(expected.flops_hardware, rel=1e-12)
    assert expected.flops_exact == 3 * expected.flops_forward == expected.flops_forward + expected.flops_backward


def test_causal_scores_are_the_pairs_that_the_mask_keeps():
    model = compose(Decoder, vocab_size=16, depth=2, width=16, heads=2, kv_heads=2, mlp_width=32)
    count = cost(model, 10)
    pairs = sum(t + 1 for t in range(10))
    assert count.forward_causal["scores"] == 2 * 2 * 2 * pairs * 16
    assert count.forward["scores"] == 2 * 2 * 2 * 100 * 16
    assert {k: v for k, v in count.forward.items() if k != "scores"} == {
        k: v for k, v in count.forward_causal.items() if k != "scores"
    }


@pytest.mark.parametrize(("width", "tolerance"), [(32, 0.10), (256, 0.02)])
def test_xla_counts_the_same_up_to_element_wise_work(width, tolerance):
    length = 128
    model = compose(
        Decoder,
        vocab_size=256,
        depth=2,
        width=width,
        heads=width // 32,
        kv_heads=width // 32,
        mlp_width=4 * width,
        attention="xla",
    )
    step = jax.jit(loss(model, length, batch=2))
    counted = step.lower(parameters_unboxed(model)).compile().cost_analysis()["flops"]
    exact = 2 * cost(model, length).flops_exact
    assert 0 <= counted / exact - 1 < tolerance
