"""The encoder: its tree, transformers' BERT, pads and documents, costs, meshes; and how windows are masked for it."""

import functools

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tiers import tiered

from lm import encoder
from lm.encoder import Encoder
from lm.loss import cross_entropy
from lm.objectives.masked import corrupt
from training import mesh as meshes
from training.cost import count_products
from training.errors import BadInput
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 21, (4, 12)).astype(np.int32)
PLACES = np.array([[1, 5, 9], [0, 2, 11], [3, 4, 5], [6, 7, 8]], np.int32)
BERT = {"norm": "layer", "norm_eps": 1e-12, "norm_position": "post", "activation": "gelu_exact", "bias": True}
BASE = compose(Encoder, **BERT, vocab_size=19, depth=2, width=16, heads=2, mlp_width=24, max_length=12)
PRE = clone(
    BASE, norm_position="pre", norm="rms", norm_eps=1e-5, bias=False, positions="rotary", max_length=0, qk_norm=True
)
CLASSES = clone(BASE, classes=5)
MODELS = {"bert": BASE, "pre-norm": PRE, "classes": CLASSES}


@functools.lru_cache
def params_of(model):
    # More than the usual scale, and no zeros: what is not used would show.
    @jax.jit
    def drawn():
        params = nn.meta.unbox(model.init(KEY, 3.0, method="parameters"))["params"]
        return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), params)

    return drawn()


@functools.lru_cache
def program(model, method):
    return jax.jit(getattr(model, method))


def apply(model, method, *args):
    return program(model, method)(params_of(model), *args)


def outputs(model, tokens, segments=None):
    """What the model's head says: logits of the masked tokens, or of the classes."""
    if model.classes:
        return apply(model, "classify", tokens, segments)
    states, head, bias = apply(model, "masked", tokens, PLACES, segments)
    return states @ head.T + bias


def test_the_tree_is_as_documented():
    def shapes(model):
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(params_of(model))
            if "blocks" not in jax.tree_util.keystr(path)
        }

    shared = {"embed/embedding": (21, 16), "position/embedding": (12, 16)}
    shared |= {f"embed_norm/{name}": (16,) for name in ("scale", "bias")}
    assert shapes(BASE) == shared | {
        "masked/transform/kernel": (16, 16),
        "masked/bias": (21,),
        **dict.fromkeys(("masked/transform/bias", "masked/norm/scale", "masked/norm/bias"), (16,)),
    }
    assert shapes(CLASSES) == shared | {
        "pooler/kernel": (16, 16),
        "pooler/bias": (16,),
        "classifier/kernel": (16, 5),
        "classifier/bias": (5,),
    }
    assert "final_norm" in params_of(PRE) and "embed_norm" not in params_of(PRE)


def test_transformers_bert():
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch and transformers)")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity` (torch and transformers)")
    config = transformers.BertConfig(
        vocab_size=21, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=5, attn_implementation="eager",
    )  # fmt: skip
    masked = transformers.BertForMaskedLM(config).eval()
    classifier = transformers.BertForSequenceClassification(config).eval()
    params, classes = params_of(BASE), params_of(CLASSES)
    with torch.no_grad():
        for reference, ours in ((masked, params), (classifier, classes)):
            names = dict(reference.named_parameters())
            for name, value in _bert(ours).items():
                names.pop(name).copy_(torch.as_tensor(np.array(value)))
            assert not names or set(names) == {"bert.embeddings.token_type_embeddings.weight"}
            reference.bert.embeddings.token_type_embeddings.weight.zero_()
        lengths = np.array([12, 7, 9, 3])
        pads = np.arange(12) >= lengths[:, None]
        seen = {"attention_mask": torch.as_tensor(~pads), "input_ids": torch.as_tensor(TOKENS, dtype=torch.long)}
        theirs, theirs_classes = masked(**seen).logits.numpy(), classifier(**seen).logits.numpy()
    segments = np.where(pads, -1, 0).astype(np.int32)
    everywhere = np.repeat(np.arange(12)[None], 4, axis=0).astype(np.int32)
    states, head, bias = apply(BASE, "masked", TOKENS, everywhere, segments)
    logits = np.array(states @ head.T + bias)
    np.testing.assert_allclose(logits[~pads], theirs[~pads], atol=1e-4)
    np.testing.assert_allclose(apply(CLASSES, "classify", TOKENS, segments), theirs_classes, atol=1e-4)


def _bert(ours):
    """Our parameters under BERT's names, in torch's layout."""
    found = {
        "bert.embeddings.word_embeddings.weight": ours["embed"]["embedding"],
        "bert.embeddings.position_embeddings.weight": ours["position"]["embedding"],
    }

    def norm(name, p):
        found.update({f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]})

    def dense(name, p):
        found.update({f"{name}.weight": p["kernel"].T, f"{name}.bias": p["bias"]})

    norm("bert.embeddings.LayerNorm", ours["embed_norm"])
    for i in range(2):
        p, layer = jax.tree.map(lambda leaf, i=i: leaf[i], ours["blocks"]), f"bert.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{name}", p["attention"][name])
        dense(f"{layer}.attention.output.dense", p["attention"]["out"])
        norm(f"{layer}.attention.output.LayerNorm", p["attention_norm"])
        dense(f"{layer}.intermediate.dense", p["mlp"]["up"])
        dense(f"{layer}.output.dense", p["mlp"]["down"])
        norm(f"{layer}.output.LayerNorm", p["mlp_norm"])
    if "masked" in ours:
        dense("cls.predictions.transform.dense", ours["masked"]["transform"])
        norm("cls.predictions.transform.LayerNorm", ours["masked"]["norm"])
        found["cls.predictions.bias"] = ours["masked"]["bias"]
    else:
        dense("bert.pooler.dense", ours["pooler"])
        dense("classifier", ours["classifier"])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_tokens_see_both_ways_but_no_pad_and_no_other_document(name):
    model, changed = MODELS[name], TOKENS.copy()
    changed[:, 11] = (changed[:, 11] + 1) % 19
    whole, other = (np.array(apply(model, "hidden", tokens)) for tokens in (TOKENS, changed))
    assert np.abs(whole - other).max(axis=(0, 2)).min() > 1e-6
    segments = np.repeat([[0] * 5 + [1] * 6 + [-1]], 4, axis=0).astype(np.int32)
    apart, cut = (np.array(apply(model, "hidden", tokens, segments)) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(apart[:, :11], cut[:, :11])
    np.testing.assert_allclose(apart[:, 5:11], apply(model, "hidden", TOKENS[:, 5:11]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "remat"),
    [("bert", "none"), ("bert", "full"), ("bert", "dots"), ("pre-norm", "full"), ("classes", "none")],
)
def test_costs_are_those_of_the_tree_and_the_gradient_jaxpr(name, remat):
    model = clone(MODELS[name], remat=remat, attention="xla")
    said = encoder.cost(model, 12, 3)
    params = params_of(MODELS[name])
    assert said.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))

    def loss(params):
        if model.classes:
            return model.classify(params, TOKENS[:1]).sum()
        states, head, bias = model.masked(params, TOKENS[:1], PLACES[:1])
        return cross_entropy(states, head, TOKENS[:1, :3], bias=bias)[0].sum()

    assert count_products(jax.make_jaxpr(loss)(params)) == said.flops_forward
    assert count_products(jax.make_jaxpr(jax.grad(loss))(params)) == said.flops_hardware
    assert said.flops_exact == 3 * said.flops_forward


@pytest.mark.parametrize(
    "name, change", [("bert", {"scan": True, "remat": "full"}), ("pre-norm", {"scan": True, "attention": "xla"})]
)
def test_speed_switches_change_no_value(name, change):
    model = MODELS[name]
    other = clone(model, **change)
    np.testing.assert_allclose(outputs(other, TOKENS), outputs(model, TOKENS), atol=3e-5)
    drawn = [jax.jit(lambda m=m: nn.meta.unbox(m.init(KEY, method="parameters"))["params"])() for m in (model, other)]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


@pytest.mark.parametrize("name", tiered(MODELS, ["bert"]))
def test_a_mesh_changes_no_value(name):
    model, mesh = MODELS[name], meshes.build({"data": 2, "fsdp": 2, "tensor": 2})

    def loss(params):
        if model.classes:
            return jax.nn.log_softmax(model.classify(params, TOKENS))[:, 0].mean()
        states, head, bias = model.masked(params, TOKENS, PLACES)
        return cross_entropy(states, head, TOKENS[:, :3], bias=bias)[0].mean()

    alone = jax.jit(jax.value_and_grad(loss))(params_of(model))
    boxed = jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)
    placed = jax.device_put(params_of(model), meshes.shardings(boxed, mesh)["params"])
    with jax.set_mesh(mesh):
        spread = jax.jit(jax.value_and_grad(loss))(placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), alone, jax.device_get(spread))


def test_dropout_drops_in_training_alone():
    model = clone(BASE, dropout=True)
    rate = (jax.random.key(3), jnp.float32(0.5))
    dropped = program(model, "masked")(params_of(BASE), TOKENS, PLACES, None, rate)[0]
    kept = program(model, "masked")(params_of(BASE), TOKENS, PLACES)[0]
    assert np.abs(dropped - kept).max() > 0.1
    np.testing.assert_array_equal(kept, apply(BASE, "masked", TOKENS, PLACES)[0])


def test_training_starts_at_the_log_of_the_classes():
    params = jax.jit(lambda: nn.meta.unbox(CLASSES.init(KEY, method="parameters"))["params"])()
    np.testing.assert_array_equal(program(CLASSES, "classify")(params, TOKENS), 0.0)


def test_bad_shapes_are_named():
    with pytest.raises(BadInput, match=r"model\.norm_position: 'between'"):
        encoder.check(clone(BASE, norm_position="between"))
    with pytest.raises(BadInput, match=r"model\.activation: swiglu is gated"):
        encoder.check(clone(BASE, activation="swiglu"))
    with pytest.raises(BadInput, match="13 tokens are more than the 12 learned positions"):
        apply(BASE, "hidden", np.zeros((1, 13), np.int32))


# Masks -----------------------------------------------------------------------------------------------------------------


def masks(read, count=6, key=7, first=0):
    return corrupt(read, key, np.arange(first, first + len(read)), count, 40, 40, 0)


@hypothesis.given(st.integers(1, 30), st.integers(0, 2**63), st.data())
@hypothesis.settings(max_examples=50)
def test_as_many_tokens_as_wanted_are_hidden_and_the_rest_shown(length, key, data):
    count = data.draw(st.integers(1, length))
    read = np.random.default_rng(key).integers(1, 40, (5, length)).astype(np.uint16)
    made = masks(read, count, key)
    assert made["places"].shape == (5, count) and (np.diff(made["places"], axis=1) > 0).all()
    np.testing.assert_array_equal(np.take_along_axis(read, made["places"], axis=1), made["targets"])
    assert (np.sum(made["tokens"] != read, axis=1) <= count).all()
    elsewhere = np.ones_like(read, bool)
    np.put_along_axis(elsewhere, made["places"], False, axis=1)
    np.testing.assert_array_equal(made["tokens"][elsewhere], read[elsewhere])


def test_masks_are_those_of_the_row_whoever_asks():
    read = np.random.default_rng(0).integers(1, 40, (8, 32)).astype(np.uint16)
    whole, part = masks(read), masks(read[3:5], first=3)
    for name in whole:
        np.testing.assert_array_equal(whole[name][3:5], part[name])
    assert not np.array_equal(whole["places"], masks(read, key=8)["places"])
    assert not np.array_equal(whole["places"], masks(read, first=8)["places"])


def test_four_fifths_are_masked_a_tenth_swapped_and_a_tenth_left():
    read = np.random.default_rng(0).integers(1, 40, (4000, 40)).astype(np.uint16)
    made = masks(read)
    shown = np.take_along_axis(made["tokens"], made["places"], axis=1)
    masked, same = np.mean(shown == 40), np.mean(shown == made["targets"])
    assert masked == pytest.approx(0.8, abs=0.01) and same == pytest.approx(0.1 + 0.1 / 40, abs=0.006)
    swapped = shown[(shown != 40) & (shown != made["targets"])]
    assert np.bincount(swapped, minlength=40).min() > 0.6 * len(swapped) / 40
    assert np.bincount(made["places"].ravel(), minlength=40).min() > 0.9 * made["places"].size / 40


def test_ends_of_documents_are_hidden_last():
    read = np.ones((50, 20), np.uint16)
    read[:, ::2] = 0
    assert (masks(read, 10)["targets"] == 1).all()
