"""Decoders in the layouts of GPT-2, Llama and Mixtral of `transformers`, both ways: what they call our keys and parameters.

A layout is two tables, and each is read from left to right and from right to left: keys of the config, and rows of
parameters. Folders in these layouts are read and written by `lm.hf_import_export`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from lm.decoder import Decoder
from training import checkpoint
from training.errors import BadInput
from training.nets import initial
from training.nets.block_config import compose, field
from training.types import Params


class Row(NamedTuple):
    """One kind of array there.

    Attributes:
      theirs: its name; braces stand for a layer, then for an expert.
      ours: the parameters that it holds, behind each other along their last axis.
      turned: whether it is stored (out, in), as PyTorch's linear layers are.
    """

    theirs: str
    ours: tuple[str, ...]
    turned: bool = False


class Layout(NamedTuple):
    """One architecture of `transformers`.

    Attributes:
      architecture: its class.
      kind: the name in `lm.models.KINDS` of what it becomes here.
      keys: their key of the config -> the field of our model, or "length", the longest text.
      defaults: of their keys that a config may leave out; a name stands for the value of that key.
      activation: their key of the activation.
      activations: ours -> theirs, the first of which is written.
      fixed: fields of our model that have no key there, and the only value that they can have.
      settings: their keys that have no field here, and the only value that they can have; they are written too.
      rows: of a model, its parameters.
    """

    architecture: str
    kind: str
    keys: dict[str, str]
    defaults: dict[str, Any]
    activation: str
    activations: dict[str, tuple[str, ...]]
    fixed: dict[str, Any]
    settings: dict[str, Any]
    rows: Callable[[Decoder], tuple[Row, ...]]


def _gpt2_rows(model: Decoder) -> tuple[Row, ...]:
    block, attention = "transformer.h.{}.", "blocks/attention/"
    rows = [
        Row("transformer.wte.weight", ("embed/embedding",)),
        Row("transformer.wpe.weight", ("position/embedding",)),
        Row("transformer.ln_f.weight", ("final_norm/scale",)),
        Row("transformer.ln_f.bias", ("final_norm/bias",)),
    ]
    for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
        rows += [Row(f"{block}{theirs}.weight", (f"blocks/{ours}/scale",))]
        rows += [Row(f"{block}{theirs}.bias", (f"blocks/{ours}/bias",))]
    for theirs, ours in (("weight", "kernel"), ("bias", "bias")):
        joined = tuple(f"{attention}{name}/{ours}" for name in ("query", "key", "value"))
        rows += [
            Row(f"{block}attn.c_attn.{theirs}", joined),
            Row(f"{block}attn.c_proj.{theirs}", (f"{attention}out/{ours}",)),
            Row(f"{block}mlp.c_fc.{theirs}", (f"blocks/mlp/up/{ours}",)),
            Row(f"{block}mlp.c_proj.{theirs}", (f"blocks/mlp/down/{ours}",)),
        ]
    return (*rows, *_head(model))


def _llama_rows(model: Decoder, mlp: tuple[tuple[str, str], ...] = ()) -> tuple[Row, ...]:
    block, own = "model.layers.{}.", ("gate", "up", "down")
    linear = {f"self_attn.{key[0]}_proj": f"attention/{key}" for key in ("query", "key", "value", "out")}
    linear |= dict(mlp) or {f"mlp.{name}_proj": f"mlp/{name}" for name in own}
    rows = [
        Row("model.embed_tokens.weight", ("embed/embedding",)),
        Row("model.norm.weight", ("final_norm/scale",)),
        Row(f"{block}input_layernorm.weight", ("blocks/attention_norm/scale",)),
        Row(f"{block}post_attention_layernorm.weight", ("blocks/mlp_norm/scale",)),
    ]
    rows += [Row(f"{block}{theirs}.weight", (f"blocks/{ours}/kernel",), turned=True) for theirs, ours in linear.items()]
    if model.blocks.bias:
        rows += [Row(f"{block}{theirs}.bias", (f"blocks/{ours}/bias",)) for theirs, ours in linear.items()]
    return (*rows, *_head(model))


def _mixtral_rows(model: Decoder) -> tuple[Row, ...]:
    experts = tuple(
        (f"block_sparse_moe.experts.{{}}.{w}", f"mlp/{n}") for w, n in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    )
    return _llama_rows(model, (("block_sparse_moe.gate", "mlp/router"), *experts))


def _head(model: Decoder) -> tuple[Row, ...]:
    return () if model.tied else (Row("lm_head.weight", ("head/embedding",)),)


_PLAIN = {"qk_norm": False, "parallel_block": False, "pattern": ("attention",)}
_LLAMA = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "max_position_embeddings": "length",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "tie_word_embeddings": "tied",
}
_GATED = {"swiglu": ("silu", "swish"), "geglu": ("gelu_pytorch_tanh", "gelu_new")}
LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout(
        architecture="GPT2LMHeadModel",
        kind="decoder",
        keys={
            "vocab_size": "vocab_size",
            "n_positions": "length",
            "n_embd": "width",
            "n_layer": "depth",
            "n_head": "heads",
            "n_inner": "mlp_width",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tied",
        },
        defaults={"n_inner": None, "tie_word_embeddings": True, "activation_function": "gelu_new"},
        activation="activation_function",
        activations={"gelu": ("gelu_new", "gelu_pytorch_tanh"), "gelu_exact": ("gelu",), "relu": ("relu",)},
        fixed={"norm": "layer", "positions": "learned", "bias": True, "moe": None, **_PLAIN},
        settings={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        rows=_gpt2_rows,
    ),
    "llama": Layout(
        architecture="LlamaForCausalLM",
        kind="decoder",
        keys=_LLAMA | {"attention_bias": "bias", "mlp_bias": "bias"},
        defaults={
            "num_key_value_heads": "num_attention_heads",
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
        },
        activation="hidden_act",
        activations=_GATED,
        fixed={"norm": "rms", "positions": "rotary", "moe": None, **_PLAIN},
        settings={},
        rows=_llama_rows,
    ),
    "mixtral": Layout(
        architecture="MixtralForCausalLM",
        kind="moe",
        keys=_LLAMA | {"num_local_experts": "experts", "num_experts_per_tok": "experts_per_token"},
        defaults={
            "num_key_value_heads": "num_attention_heads",
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
        },
        activation="hidden_act",
        activations=_GATED,
        fixed={
            "norm": "rms",
            "positions": "rotary",
            "bias": False,
            "shared_experts": 0,
            "dense_layers": 0,
            "norm_topk_prob": True,
            **_PLAIN,
        },
        settings={"sliding_window": None},
        rows=_mixtral_rows,
    ),
}
# Arrays of older files that are no parameters, and a head that is the embedding once more.
PASSED = re.compile(r".*\.(attn\.(masked_)?bias|rotary_emb\.inv_freq)")


# Out ------------------------------------------------------------------------------------------------------------------


def written(name: str, model: Decoder, length: int) -> dict[str, Any]:
    """Their config of one of our models.

    Args:
      name: of the layout.
      model: what is written.
      length: the longest text it is meant for; of learned positions, their number.

    Raises:
      BadInput: the layout cannot say what the model is; it names the key of our config.
    """
    layout = LAYOUTS[name]
    if not isinstance(model, Decoder) or (layout.kind == "moe") != (model.blocks.moe is not None):
        raise BadInput(f"--format={name}: model.name must be {layout.kind!r}, for {layout.architecture}")
    for multiplier in ("residual_multiplier", "query_multiplier", "logit_multiplier"):
        if field(model, multiplier, 1.0) != 1.0:
            raise BadInput(f"--format={name}: no layout has the {multiplier.replace('_', ' ')} of recipe.name")
    possible = {key: (value,) for key, value in layout.fixed.items()} | {"activation": tuple(layout.activations)}
    for key, values in possible.items():
        if (value := field(model, key)) not in values:
            only = " or ".join(map(repr, values))
            raise BadInput(f"--format={name}: {layout.architecture} has no model.{key}={value!r}, only {only}")
    if "kv_heads" not in layout.keys.values() and model.blocks.kv_heads != model.blocks.heads:
        raise BadInput(
            f"--format={name}: {layout.architecture} has no model.kv_heads={model.blocks.kv_heads} "
            f"beside {model.blocks.heads} heads"
        )
    values = {theirs: length if ours == "length" else field(model, ours) for theirs, ours in layout.keys.items()}
    return {
        "architectures": [layout.architecture],
        "model_type": name,
        "dtype": "float32",
        **values,
        layout.activation: layout.activations[model.blocks.activation][0],
        **layout.settings,
    }


def to_theirs(name: str, model: Decoder, params: Params) -> dict[str, np.ndarray]:
    """Their arrays of the parameters of one of our models, in float32."""
    ours, made = checkpoint.named(params), {}
    for row in LAYOUTS[name].rows(model):
        joined = np.concatenate([np.asarray(ours[key], np.float32) for key in row.ours], axis=-1)
        joined = np.swapaxes(joined, -1, -2) if row.turned else joined
        for place in np.ndindex(*joined.shape[: row.theirs.count("{}")]):
            made[row.theirs.format(*place)] = np.ascontiguousarray(joined[place])
    return made


# In -------------------------------------------------------------------------------------------------------------------


def understood(theirs: Mapping[str, Any], where: str) -> tuple[str, Decoder, int]:
    """The layout, the model and the longest text of their config.

    Args:
      theirs: the value of their `config.json`.
      where: what error messages call it.

    Raises:
      BadInput: no such layout, or a key says what our decoder is not; it names the key.
    """
    name = theirs.get("model_type")
    if name not in LAYOUTS:
        raise BadInput(f"{where}: model_type {name!r} is not one of {', '.join(LAYOUTS)}")
    layout, found = LAYOUTS[name], dict(theirs)
    rope = found.pop("rope_parameters", None) or found.pop("rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise BadInput(f"{where}: rope_parameters: rotary positions are plain here, not {kind!r}")
    found |= {key: rope[key] for key in ("rope_theta",) if key in rope}
    for key, default in layout.defaults.items():
        found.setdefault(key, found.get(default) if isinstance(default, str) and default in found else default)
    for key, wanted in layout.settings.items():
        if found.get(key, wanted) != wanted:
            raise BadInput(f"{where}: {key}: only {wanted!r} can be said here, got {found[key]!r}")
    missing = [key for key in layout.keys if key not in found]
    if missing:
        raise BadInput(f"{where}: no {missing[0]!r}")
    activation = {theirs: ours for ours, names in layout.activations.items() for theirs in names}.get(
        found[layout.activation]
    )
    if activation is None:
        raise BadInput(f"{where}: {layout.activation}: no {found[layout.activation]!r} here")
    fields: dict[str, Any] = {}
    for key, ours in layout.keys.items():
        if fields.setdefault(ours, found[key]) != found[key]:
            raise BadInput(f"{where}: {key}: {found[key]!r} beside another {fields[ours]!r} cannot be said here")
    length = fields.pop("length")
    if fields["mlp_width"] is None:
        fields["mlp_width"] = 4 * fields["width"]
    fields.setdefault("kv_heads", fields["heads"])
    if (width := found.get("head_dim")) not in (None, fields["width"] // fields["heads"]):
        raise BadInput(f"{where}: head_dim: only hidden_size / num_attention_heads can be said here, got {width}")
    longest = length if layout.fixed["positions"] == "learned" else 0
    options = fields | layout.fixed | {"activation": activation, "max_length": longest}
    return name, compose(Decoder, **options), length


def to_ours(name: str, model: Decoder, theirs: Mapping[str, np.ndarray], where: str) -> Any:
    """The parameters of one of our models from their arrays, which are all used.

    Raises:
      BadInput: an array is missing, is of another shape, or is nothing of this model.
    """
    variables = initial.abstract(model)
    expected, rows = checkpoint.named(nn.meta.unbox(variables["params"])), LAYOUTS[name].rows(model)
    base = rows[0].theirs.partition(".")[0] + "."
    if not any(key.startswith(base) for key in theirs):  # of the model without its head
        theirs = {key if key.startswith("lm_head.") else base + key: array for key, array in theirs.items()}
    left, found = {key for key in theirs if not PASSED.fullmatch(key)}, {}
    for row in rows:
        shapes = [expected[key].shape for key in row.ours]
        leading = row.theirs.count("{}")
        parts = []
        whole = (*shapes[0][leading:-1], sum(shape[-1] for shape in shapes))
        for place in np.ndindex(*shapes[0][:leading]):
            key = row.theirs.format(*place)
            if key not in theirs:
                raise BadInput(f"{where}: no array {key!r}")
            left.discard(key)
            array = np.asarray(theirs[key], np.float32)
            array = np.swapaxes(array, -1, -2) if row.turned and array.ndim > 1 else array
            if array.shape != whole:
                raise BadInput(f"{where}: {key} is {list(theirs[key].shape)}, which does not fit its config")
            parts.append(array)
        stacked = np.stack(parts).reshape(*shapes[0][:leading], *whole)
        cuts = np.cumsum([shape[-1] for shape in shapes])[:-1]
        found |= dict(zip(row.ours, np.split(stacked, cuts, axis=-1), strict=True))
    left -= {"lm_head.weight"} if model.tied else set()
    if left:
        raise BadInput(f"{where}: {sorted(left)[0]} is no parameter of its config's model")
    return checkpoint.nested({key: np.ascontiguousarray(found[key]) for key in expected})
