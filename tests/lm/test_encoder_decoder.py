"""The encoder-decoder: T5 and the original Transformer, pads, caches, beams, costs, meshes."""

import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiers import tiered

from lm import encoder_decoder, translate
from lm.encoder_decoder import EncoderDecoder
from lm.loss import cross_entropy
from training import mesh as meshes
from training.cost import count_products
from training.errors import BadInput
from training.nets import layers
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SOURCE, TARGET = (RNG.integers(0, 19, (4, n)).astype(np.int32) for n in (11, 9))
LENGTHS = np.array([11, 6, 8, 2])
SEEN = np.arange(11) < LENGTHS[:, None]
T5 = compose(
    EncoderDecoder,
    norm_eps=1e-6,
    activation="relu",
    vocab_size=19,
    encoder_depth=2,
    depth=2,
    width=16,
    heads=2,
    mlp_width=24,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
)
GATED = clone(T5, activation="geglu", tied=False)
ORIGINAL = clone(
    T5, norm_position="post", norm="layer", norm_eps=1e-5, positions="sinusoidal", bias=True, encoder_depth=1
)
MODERN = clone(T5, positions="rotary", qk_norm=True, encoder_depth=3, sentinels=3)
MODELS = {"t5": T5, "t5 1.1": GATED, "original": ORIGINAL, "rotary": MODERN}
QUICK = ("t5", "original")


@functools.lru_cache
def params_of(model):
    # More than the usual scale, and no zeros: what is not used would show.
    @jax.jit
    def drawn():
        params = nn.meta.unbox(model.init(KEY, 2.0, method="parameters"))["params"]
        return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), params)

    return drawn()


@functools.lru_cache
def forward(model):
    def logits(params, source, target, seen):
        states, head = model.hidden(params, source, target, seen)
        return states @ head.T

    return lambda source, target, seen=SEEN: np.array(jax.jit(logits)(params_of(model), source, target, seen))


def _linear(found, name, kernel, bias=None):
    found[f"{name}.weight"] = kernel.T
    if bias is not None:
        found[f"{name}.bias"] = bias


def _t5(ours, model):
    """Our parameters under T5's names: its scores are not divided by sqrt(head width), its tied head by sqrt(width)."""
    found = {"shared.weight": ours["embed"]["embedding"]}
    for side, parts in (("encoder", ("attention", "mlp")), ("decoder", ("attention", "cross", "mlp"))):
        kernel = ours[f"{side}_relative"]["embedding"]
        found[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = kernel
        scale = 16**0.5 if side == "decoder" and model.tied else 1.0
        found[f"{side}.final_layer_norm.weight"] = scale * ours[f"{side}_norm"]["scale"]
        for i in range(2):
            p = jax.tree.map(lambda leaf, i=i: leaf[i], ours[f"{side}_blocks"])
            for place, part in enumerate(parts):
                layer = f"{side}.block.{i}.layer.{place}"
                found[f"{layer}.layer_norm.weight"] = p[f"{part}_norm"]["scale"]
                if part == "mlp":
                    names = {"up": "wi_1", "gate": "wi_0"} if "gate" in p["mlp"] else {"up": "wi"}
                    for name, theirs in (names | {"down": "wo"}).items():
                        _linear(found, f"{layer}.DenseReluDense.{theirs}", p["mlp"][name]["kernel"])
                    continue
                kind = "SelfAttention" if part == "attention" else "EncDecAttention"
                for name, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
                    factor = 8**-0.5 if name == "query" else 1.0
                    _linear(found, f"{layer}.{kind}.{theirs}", factor * p[part][name]["kernel"])
    if not model.tied:
        found["lm_head.weight"] = ours["head"]["embedding"]
    return found


@pytest.mark.parametrize("name", ["t5", "t5 1.1"])
def test_transformers_t5(name):
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch and transformers)")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity` (torch and transformers)")
    model = MODELS[name]
    config = transformers.T5Config(
        vocab_size=19, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, tie_word_embeddings=model.tied,
        feed_forward_proj="relu" if model.tied else "gated-gelu",
    )  # fmt: skip
    reference = transformers.T5ForConditionalGeneration(config).eval()
    if not model.tied:  # transformers ties them whatever the config says
        reference.lm_head.weight = torch.nn.Parameter(torch.zeros(19, 16))
    with torch.no_grad():
        names = dict(reference.named_parameters())
        for theirs, value in _t5(params_of(model), model).items():
            names.pop(theirs).copy_(torch.as_tensor(np.array(value)))
        assert not names
        expected = reference(
            input_ids=torch.as_tensor(SOURCE, dtype=torch.long),
            attention_mask=torch.as_tensor(SEEN),
            decoder_input_ids=torch.as_tensor(TARGET, dtype=torch.long),
        ).logits.numpy()
    # In float32 ours are 1.8e-4 from these values in float64 and theirs 4e-5: scores that nothing scales multiply rounding.
    np.testing.assert_allclose(forward(model)(SOURCE, TARGET), expected, atol=3e-4)


def test_the_original_transformer():
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch and transformers)")
    params = params_of(ORIGINAL)
    how = {"d_model": 16, "nhead": 2, "dim_feedforward": 24, "dropout": 0.0, "batch_first": True}
    stacks = {
        "encoder": torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(**how), 1, enable_nested_tensor=False),
        "decoder": torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(**how), 2),
    }
    branches = {"encoder": ("attention", "mlp"), "decoder": ("attention", "cross", "mlp")}
    with torch.no_grad():
        for side, stack in stacks.items():
            stack.eval()
            for i, layer in enumerate(stack.layers):
                p = jax.tree.map(lambda leaf, i=i: leaf[i], params[f"{side}_blocks"])
                found = {}
                for place, part in enumerate(branches[side]):
                    found[f"norm{place + 1}.weight"] = p[f"{part}_norm"]["scale"]
                    found[f"norm{place + 1}.bias"] = p[f"{part}_norm"]["bias"]
                    if part == "mlp":
                        _linear(found, "linear1", **p["mlp"]["up"])
                        _linear(found, "linear2", **p["mlp"]["down"])
                        continue
                    name = "self_attn" if part == "attention" else "multihead_attn"
                    thirds = [p[part][key] for key in ("query", "key", "value")]
                    found[f"{name}.in_proj_weight"] = np.concatenate([third["kernel"].T for third in thirds])
                    found[f"{name}.in_proj_bias"] = np.concatenate([third["bias"] for third in thirds])
                    _linear(found, f"{name}.out_proj", **p[part]["out"])
                names = dict(layer.named_parameters())
                for theirs, value in found.items():
                    names.pop(theirs).copy_(torch.as_tensor(np.array(value)))
                assert not names
        table = np.array(params["embed"]["embedding"])
        read = [
            torch.as_tensor(4 * table[tokens] + np.array(layers.sinusoids(np.arange(tokens.shape[1]), 16)))
            for tokens in (SOURCE, TARGET)
        ]
        unseen = torch.as_tensor(~SEEN)
        memory = stacks["encoder"](read[0], src_key_padding_mask=unseen)
        ahead = torch.ones(9, 9).triu(1).bool()
        states = stacks["decoder"](read[1], memory, tgt_mask=ahead, memory_key_padding_mask=unseen)
        expected = states.numpy() @ table.T
    np.testing.assert_allclose(forward(ORIGINAL)(SOURCE, TARGET), expected, atol=1e-4)


@pytest.mark.parametrize("name", tiered(MODELS, QUICK))
def test_pads_are_not_seen_and_targets_see_what_came_before(name):
    logits = forward(MODELS[name])
    other = np.where(SEEN, SOURCE, 3)
    np.testing.assert_allclose(logits(other, TARGET), logits(SOURCE, TARGET), atol=1e-5)
    changed = SOURCE.copy()
    changed[:, 1] = (changed[:, 1] + 1) % 19
    assert np.abs(logits(changed, TARGET) - logits(SOURCE, TARGET)).max(axis=(0, 2)).min() > 1e-4
    changed = TARGET.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 19
    difference = np.abs(logits(SOURCE, changed) - logits(SOURCE, TARGET)).max(axis=(0, 2))
    assert difference[:5].max() < 1e-5 and difference[5:].min() > 1e-5


@pytest.mark.parametrize("name", tiered(MODELS, QUICK))
def test_a_cached_target_has_the_logits_of_a_whole_one(name):
    model = MODELS[name]
    params = params_of(model)
    cache, parts = jax.jit(lambda params: model.begin(params, SOURCE, SEEN, 9))(params), []
    extend = jax.jit(model.extend)
    for part in (TARGET[:, :4], TARGET[:, 4:5], TARGET[:, 5:]):
        logits, cache = extend(params, part, cache)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), forward(model)(SOURCE, TARGET), atol=2e-4)


@pytest.mark.parametrize("name", QUICK)
def test_greedy_search_takes_the_likeliest_symbol(name):
    model, end = MODELS[name], 3
    found = np.array(translate.search(model, params_of(model), SOURCE, LENGTHS, 6, end))
    tokens, ended = np.full((4, 7), end, np.int32), np.zeros(4, bool)
    for place in range(6):
        likeliest = forward(model)(SOURCE, tokens[:, :-1])[:, place].argmax(axis=1)
        tokens[:, place + 1] = np.where(ended, end, likeliest)
        ended |= tokens[:, place + 1] == end
    np.testing.assert_array_equal(found, tokens[:, 1:])


@pytest.mark.parametrize("penalty", tiered([0.0, 1.5], [1.5]))
def test_a_beam_as_wide_as_all_hypotheses_finds_the_best(penalty):
    model, end, new = clone(T5, vocab_size=4), 3, 3
    params = params_of(model)
    source = SOURCE[:, :5] % 4
    found = np.array(translate.search(model, params, source, np.minimum(LENGTHS, 5), new, end, 64, penalty))
    whole = [(*row, *[end] * (new - len(row))) for row in itertools.product(range(4), repeat=new)]
    unique = sorted(
        {(*row[: row.index(end) + 1], *[end] * (new - row.index(end) - 1)) if end in row else row for row in whole}
    )
    best, winners = np.full(4, -np.inf), [None] * 4
    seen = np.arange(5) < np.minimum(LENGTHS, 5)[:, None]
    for row in unique:
        read = np.tile([[end, *row[:-1]]], (4, 1)).astype(np.int32)
        logp = np.array(jax.nn.log_softmax(forward(model)(source, read, seen)))
        count = row.index(end) + 1 if end in row else new
        total = logp[:, np.arange(count), list(row[:count])].sum(axis=1) / ((5 + count) / 6) ** penalty
        for i in np.flatnonzero(total > best):
            best[i], winners[i] = total[i], row
    np.testing.assert_array_equal(found, winners)


REMATS = [("t5", "none"), ("t5", "full"), ("original", "full"), ("rotary", "dots"), ("t5 1.1", "none")]


@pytest.mark.parametrize(("name", "remat"), REMATS)
def test_costs_are_those_of_the_tree_and_the_gradient_jaxpr(name, remat):
    model = clone(MODELS[name], remat=remat, attention="xla")
    said = encoder_decoder.cost(model, 11, 9)
    params = nn.meta.unbox(jax.eval_shape(functools.partial(model.init, method="parameters"), KEY))["params"]
    assert said.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))

    def loss(params):
        states, head = model.hidden(params, SOURCE[:1], TARGET[:1])
        return cross_entropy(states, head, TARGET[:1])[0].sum()

    assert count_products(jax.make_jaxpr(loss)(params)) == said.flops_forward
    assert count_products(jax.make_jaxpr(jax.grad(loss))(params)) == said.flops_hardware
    own = 2 * 2 * 9 * 9 * 16 * 2
    assert said.flops_exact - said.flops_exact_causal == pytest.approx(3 * own * (9 - 1) / (2 * 9))


@pytest.mark.parametrize("name", tiered(QUICK, ["t5"]))
def test_switches_and_meshes_change_no_value(name):
    model, mesh = MODELS[name], meshes.build({"data": 2, "fsdp": 2, "tensor": 2})

    def loss(model, params):
        states, head = model.hidden(params, SOURCE, TARGET, SEEN)
        return cross_entropy(states, head, TARGET)[0].mean()

    def graded(model, params):
        return jax.jit(jax.value_and_grad(functools.partial(loss, model)))(params)

    alone = graded(model, params_of(model))
    boxed = jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)
    placed = jax.device_put(params_of(model), meshes.shardings(boxed, mesh)["params"])
    with jax.set_mesh(mesh):
        other = graded(clone(model, scan=True, remat="full"), placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), alone, jax.device_get(other))


def test_bad_shapes_are_named():
    with pytest.raises(BadInput, match=r"model\.positions: 'absolute' is not one of relative"):
        encoder_decoder.check(clone(T5, positions="absolute"))
    with pytest.raises(BadInput, match=r"model\.attention: blocked adds nothing to scores"):
        encoder_decoder.check(clone(T5, attention="blocked"))
    with pytest.raises(BadInput, match=r"model\.relative_attention_num_buckets: want at least 4"):
        encoder_decoder.check(clone(T5, relative_attention_num_buckets=2))
    with pytest.raises(BadInput, match=r"model\.sentinels: must not be negative"):
        encoder_decoder.check(clone(T5, sentinels=-1))
    with pytest.raises(BadInput, match=r"model\.encoder_depth: must be at least 1"):
        encoder_decoder.check(clone(T5, encoder_depth=0))
