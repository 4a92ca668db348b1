"""Layouts of transformers: what their configs and arrays say here, and what cannot be said."""

import json

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lm import hf_import_export, hf_layouts, tokenizer as tokenizers
from lm.decoder import Decoder
from training.errors import BadInput
from training.nets.block_config import clone, compose

SHAPE = {"vocab_size": 31, "depth": 2, "width": 12, "heads": 2, "mlp_width": 20}
MODELS = {
    "gpt2": compose(Decoder, **SHAPE, kv_heads=2, norm="layer", positions="learned", max_length=16, bias=True),
    "llama": compose(
        Decoder, **SHAPE, kv_heads=1, activation="geglu", bias=True, tied=False, norm_eps=1e-3, rope_theta=7.0
    ),
    "mixtral": compose(Decoder, **SHAPE, kv_heads=1, activation="swiglu", experts=3, experts_per_token=2),
}


def spread(model, seed=0):
    """Parameters that all differ."""
    variables = jax.eval_shape(lambda key: model.init(key, method="parameters"), jax.random.key(0))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    return jax.tree.map(draw, nn.meta.unbox(variables["params"]))


@pytest.fixture(params=list(MODELS))
def folder(request, tmp_path):
    """A folder in each layout."""
    name, model = request.param, MODELS[request.param]
    hf_import_export.write(tmp_path, name, model, spread(model), hf_layouts.written(name, model, 16))
    return tmp_path


def changed(folder, **keys):
    path = folder / "config.json"
    found = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in found.items() if value != "gone"}))


def refused(folder):
    with pytest.raises(BadInput) as error:
        hf_import_export.read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_out_and_in_is_the_same_model_bit_for_bit(folder):
    found = hf_import_export.read(folder)
    model = MODELS[found.layout]
    assert found.model == model and found.length == 16
    jax.tree.map(np.testing.assert_array_equal, found.params, spread(model))
    assert jax.tree.structure(found.params) == jax.tree.structure(spread(model))


def test_every_parameter_has_one_place(folder):
    """A change of any of ours changes one array of theirs, or as many as there are layers and experts."""
    found = hf_import_export.read(folder)
    rows = hf_layouts.LAYOUTS[found.layout].rows(found.model)
    ours = [name for row in rows for name in row.ours]
    assert len(set(ours)) == len(ours) == len(jax.tree.leaves(found.params))
    arrays = hf_layouts.to_theirs(found.layout, found.model, found.params)
    assert sum(array.size for array in arrays.values()) == sum(leaf.size for leaf in jax.tree.leaves(found.params))


def test_several_files_half_precision_and_a_model_without_its_head(tmp_path):
    """As the first GPT-2 was published: without the prefix, and with masks among the arrays."""
    model = MODELS["gpt2"]
    arrays = hf_layouts.to_theirs("gpt2", model, spread(model))
    arrays = {name.removeprefix("transformer."): a.astype(ml_dtypes.bfloat16) for name, a in arrays.items()}
    arrays["h.0.attn.bias"] = np.ones((1, 1, 16, 16), ml_dtypes.bfloat16)
    half, names = len(arrays) // 2, sorted(arrays)
    for i, part in enumerate((names[:half], names[half:])):
        save_file({name: arrays[name] for name in part}, tmp_path / f"model-{i}.safetensors")
    index = {name: f"model-{int(i >= half)}.safetensors" for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(hf_layouts.written("gpt2", model, 16)))
    changed(tmp_path, n_inner=20, tie_word_embeddings="gone", scale_attn_weights="gone")
    found = hf_import_export.read(tmp_path)
    assert found.model == model and len(found.files) == 3
    expected = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), spread(model))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not one of gpt2, llama, mixtral"),
        ({"hidden_act": "relu6", "activation_function": "relu6"}, "no 'relu6' here"),
        ({"num_hidden_layers": "gone", "n_layer": "gone"}, "config.json: no 'n"),
        ({"intermediate_size": 24, "n_inner": 24}, "which does not fit its config"),
        ({"num_hidden_layers": 3, "n_layer": 3}, "model.safetensors: no array "),
        ({"num_hidden_layers": 1, "n_layer": 1}, "is no parameter of its config's model"),
    ],
)
def test_what_does_not_fit_is_named(folder, keys, message):
    changed(folder, **keys)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: only False"),
        ("llama", {"mlp_bias": False}, "mlp_bias: False beside another True"),
        ("llama", {"head_dim": 8}, "head_dim: only hidden_size / num_attention_heads"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rotary positions are plain here, not 'llama3'",
        ),
        ("mixtral", {"sliding_window": 8}, "sliding_window: only None"),
    ],
)
def test_settings_that_have_no_key_here_are_refused(tmp_path, name, keys, message):
    model = MODELS[name]
    hf_import_export.write(tmp_path, name, model, spread(model), hf_layouts.written(name, model, 16))
    changed(tmp_path, **keys)
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("gpt2", {"kv_heads": 1}, "model.kv_heads=1"),
        ("gpt2", {"bias": False}, "model.bias=False"),
        ("gpt2", {"parallel_block": True}, "model.parallel_block=True"),
        ("gpt2", {"activation": "geglu"}, "model.activation='geglu'"),
        ("llama", {"qk_norm": True}, "model.qk_norm=True"),
        ("llama", {"positions": "sinusoidal"}, "model.positions='sinusoidal'"),
        ("llama", {"activation": "gelu"}, "model.activation='gelu', only 'swiglu' or 'geglu'"),
        ("mixtral", {"shared_experts": 1}, "model.shared_experts=1"),
        ("mixtral", {"norm_topk_prob": False}, "model.norm_topk_prob=False"),
        ("mixtral", {"moe": None}, "model.name must be 'moe'"),
    ],
)
def test_what_a_layout_cannot_say_is_refused_by_its_key(name, changes, key):
    with pytest.raises(BadInput, match=key):
        hf_layouts.written(name, clone(MODELS[name], **changes), 16)


def test_pickles_are_not_read_and_damage_is_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "damaged, not readable as safetensors" in refused(folder)
    weights.unlink()
    assert "no model.safetensors" in refused(folder)
    (folder / "pytorch_model.bin").touch()
    assert "pytorch_model.bin: a pickle" in refused(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    assert "names a file elsewhere" in refused(folder)


def test_bytes_are_a_vocabulary_of_the_tokenizers_package():
    definition, end = tokenizers.published(tokenizers.Bytes())
    theirs, ours = tokenizers.Subwords(definition, "bytes"), tokenizers.Bytes()
    assert theirs.vocab_size == 256 and theirs.end == ours.end == 0 and end == "<|endoftext|>"
    assert (theirs.token_bytes == ours.token_bytes).all()
    for text in ("def f(x):\n\treturn x  # ä 日本", "  a\x7f\xa0\xad b'"):
        (a,), (b,) = theirs.encode_batch([text]), ours.encode_batch([text])
        assert a.tolist() == b.tolist() and theirs.decode(a) == text
