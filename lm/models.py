"""The language models by name: what each reads of the config, and how it grows with a size."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import cost as costs, decoder, encoder, encoder_decoder, recurrent, shapes
from lm.decoder import Decoder
from lm.encoder import Encoder
from lm.encoder_decoder import EncoderDecoder
from lm.recurrent import Recurrent
from training.cost import Cost
from training.errors import BadInput
from training.nets import sizes
from training.nets.block_config import compose
from training.nets.mixers import MIXERS
from training.nets.recurrence import CELLS
from training.registry import ModelKind, chosen, option_types
from training.types import Option

M = TypeVar("M", bound=nn.Module)

MIXER_OPTIONS: dict[str, Option] = {key: value for mixer in MIXERS.values() for key, value in mixer.options.items()}
# Keys that `chosen` leaves alone; a pattern of mixers, and what they read, are checked by `_mixers`.
COMMON = {"name", "size", "dropout", "z_loss", "init_scale", "pattern", "dense_layers", *MIXER_OPTIONS}
Causal = Decoder | Recurrent
Model = Causal | Encoder | EncoderDecoder

# Old keys of the section by their new names, or by what to say in place of one.
RENAMED = {
    "model.capacity": "model.capacity_factor",
    "model.balance": "model.load_balancing_loss_weight",
    "model.router_z": "model.router_z_loss_weight",
    "model.normalise": "model.norm_topk_prob",
    "model.parallel": "model.parallel_block",
    "model.placement": "model.norm_position",
    "model.buckets": "model.relative_attention_num_buckets",
    "model.farthest": "model.relative_attention_max_distance",
    "model.carry": "model.stateful",
}


SHAPE: dict[str, Option] = {"depth": None, "width": None, "mlp_width": None}
SWITCHES: dict[str, Option] = {  # of speed: same values, same tree
    "scan": False,
    "remat": "none",
    "pipeline_rounds": 1,
    "pipeline_microbatches": 0,
}
BLOCKS: dict[str, Option] = {
    **SHAPE,
    "norm": "rms",
    "norm_eps": 1e-5,
    "activation": "gelu",
    "tied": True,
    "bias": False,
    "parallel_block": False,
    **SWITCHES,
}
ATTENTION: dict[str, Option] = {
    "heads": None,
    "kv_heads": None,
    "positions": "rotary",
    "rope_theta": 10_000.0,
    "qk_norm": False,
    "attention": "auto",
}
T5: dict[str, Option] = {
    **SHAPE,
    "encoder_depth": None,
    "heads": None,
    "norm_position": "pre",
    "norm": "rms",
    "norm_eps": 1e-6,
    "activation": "relu",
    "tied": True,
    "bias": False,
    "positions": "relative",
    "rope_theta": 10_000.0,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "qk_norm": False,
    "attention": "auto",
    "label_smoothing": 0.0,  # a float that never recompiles; on or off does
    "sentinels": 0,  # symbols for what is cut out of running text; 0: its second half is predicted from the first
    **SWITCHES,
}
BERT: dict[str, Option] = {
    **SHAPE,
    "heads": None,
    "norm_position": "post",
    "norm": "layer",
    "norm_eps": 1e-12,
    "activation": "gelu_exact",
    "bias": True,
    "positions": "learned",
    "rope_theta": 10_000.0,
    "qk_norm": False,
    "attention": "auto",
    "mask_fraction": 0.15,  # of the tokens, where masked ones are predicted
    **SWITCHES,
}
MIXTURE: dict[str, Option] = {
    "experts": 8,
    "experts_per_token": 2,
    "shared_experts": 0,
    "capacity_factor": 0.0,  # 0: no token is dropped
    "norm_topk_prob": True,
    "dispatch": "auto",
    "load_balancing_loss_weight": 0.01,  # floats that never recompile
    "router_z_loss_weight": 0.001,
}
# Metrics of experts that the total loss holds -> keys of their weights.
PENALTIES = {"load_balancing_loss": "load_balancing_loss_weight", "router_z_loss": "router_z_loss_weight"}
# Options of a kind that are no fields of its module.
SCALARS = {"label_smoothing", "mask_fraction", "stateful", *PENALTIES.values()}
PATTERNED = ("decoder", "moe")  # kinds whose sequence mixers the config names
GATED_LINEAR: dict[str, Option] = {"pattern": ("gated_linear",), "heads": 1, "kv_heads": 1, "positions": "none"}


def _length(options: Mapping[str, Option], seq_len: int) -> int:
    """Rows of the table of learned positions."""
    return seq_len if options["positions"] == "learned" else 0


def _composed(module: type[M], options: Mapping[str, Option], vocab_size: int, seq_len: int, **fields: Option) -> M:
    options = {key: value for key, value in options.items() if key not in SCALARS}
    fields |= {"vocab_size": vocab_size, "max_length": _length(options, seq_len)}
    return compose(module, **options, **fields)


_decoder = functools.partial(_composed, Decoder)
_encoder = functools.partial(_composed, Encoder)
_encoder_decoder = functools.partial(_composed, EncoderDecoder)


def _decoder_shape(options: Mapping[str, Option], size: float | None, vocab_size: int, seq_len: int) -> dict[str, int]:
    def count(shape: dict[str, int]) -> int:
        return sum(costs.parameters(_decoder({**options, **shape}, vocab_size, seq_len)).values())

    return shapes.shape_for(size, options, count)


def _decoder_cost(model: Decoder, seq_len: int, predicted: int) -> Cost:
    del predicted  # every token
    return costs.cost(model, seq_len)


def _mixture(options: Mapping[str, Any], vocab_size: int, seq_len: int, **fields: Option) -> Decoder:
    for key in PENALTIES.values():
        if options[key] < 0:
            raise BadInput(f"model.{key}: must not be negative, got {options[key]}")
    return _decoder(options, vocab_size, seq_len, **fields)


def _encoder_shape(options: Mapping[str, Option], size: float | None, vocab_size: int, seq_len: int) -> dict[str, int]:
    def count(shape: dict[str, int]) -> int:
        return encoder.cost(_encoder({**options, **shape}, vocab_size, seq_len), seq_len, 0).params_total

    return shapes.shape_for(size, options, count)


def _encoder_decoder_shape(
    options: Mapping[str, Any], size: float | None, vocab_size: int, seq_len: int
) -> dict[str, int]:
    """The encoder is as deep as the decoder, unless the config says otherwise."""

    def count(shape: dict[str, int]) -> int:
        deep = {"encoder_depth": options["encoder_depth"] or shape["depth"]}
        built = _encoder_decoder({**options, **shape, **deep}, vocab_size, seq_len)
        return encoder_decoder.cost(built, 1, 1).params_total

    shape = shapes.shape_for(size, options, count)
    return shape | {"encoder_depth": shape["depth"]}


# Of the rule's learning rate, measured on 8 to 148 thousand parameters (configs/lm/families_lr.py; the runs are in
# benchmarks/results/families_lr.csv): the best of five rates was 2 to 4 times the rule's for LSTMs, 1 to 9 times for
# encoder-decoders. What is not here keeps the rule; of other cells it was not measured.
RATES = {"lstm": 3.0, "encoder_decoder": 2.0}


def _recurrent(cell: str) -> ModelKind:
    def build(options: Mapping[str, Any], vocab_size: int, seq_len: int, **fields: Any) -> Recurrent:
        del seq_len
        own = {key: options[key] for key in ("depth", "width", "tied")}
        return Recurrent(vocab_size=vocab_size, cell=cell, **own, **fields)

    def shape(options: Mapping[str, Any], size: float | None, vocab_size: int, seq_len: int) -> dict[str, int]:
        """Of a size, the width: 2 layers, as Zaremba et al. (2014) have, unless the config says otherwise."""
        width, depth = options["width"], options["depth"] or 2
        if size is None:
            if width is None:
                raise BadInput("model: give a size or a width")
            return {"width": width, "depth": depth}
        if width is not None:
            raise BadInput("model.size: the width is given, so no size is left to choose")

        def count(shape: dict[str, int]) -> int:
            return recurrent.cost(build({**options, **shape}, vocab_size, seq_len), seq_len, seq_len).params_total

        return sizes.nearest(size, ({"width": width, "depth": depth} for width in shapes.widths()), count)

    # stateful: the state at the end of a batch is that at the start of the next, whose rows continue those before.
    options = {"depth": None, "width": None, "tied": True, "stateful": False}
    return ModelKind(options, build, shape, recurrent.check, recurrent.cost, "causal", RATES.get(cell, 1.0))


def _fixed(build: Callable[..., Any], fixed: Mapping[str, Option]) -> Callable[..., Any]:
    """`build` or `shape` of a kind with options that its config does not have."""
    return lambda options, *data, **fields: build({**options, **fixed}, *data, **fields)


KINDS: dict[str, ModelKind] = {
    "decoder": ModelKind(BLOCKS | ATTENTION, _decoder, _decoder_shape, decoder.check, _decoder_cost, "causal"),
    "gated_linear": ModelKind(
        BLOCKS,
        _fixed(_decoder, GATED_LINEAR),
        _fixed(_decoder_shape, GATED_LINEAR),
        decoder.check,
        _decoder_cost,
        "causal",
    ),
    "moe": ModelKind(BLOCKS | ATTENTION | MIXTURE, _mixture, _decoder_shape, decoder.check, _decoder_cost, "causal"),
    **{cell: _recurrent(cell) for cell in CELLS},
    "encoder": ModelKind(BERT, _encoder, _encoder_shape, encoder.check, encoder.cost, "encoder"),
    "encoder_decoder": ModelKind(
        T5,
        _encoder_decoder,
        _encoder_decoder_shape,
        encoder_decoder.check,
        encoder_decoder.cost,
        "encoder_decoder",
        RATES["encoder_decoder"],
    ),
}


def defaults() -> ConfigDict:
    """The config section `model`; None: the named model's own default, or what follows from the size."""
    kinds = option_types(KINDS) | dict.fromkeys((*shapes.SHAPE, "encoder_depth"), int)
    return ConfigDict(
        {
            "name": "decoder",
            "size": placeholder(float),  # target parameters; the shape follows
            **{key: placeholder(kind) for key, kind in kinds.items()},
            "pattern": (),  # sequence mixers, repeated over the blocks; empty: attention alone
            **{key: placeholder(type(value)) for key, value in MIXER_OPTIONS.items()},
            "dense_layers": 0,  # blocks before the first with experts
            "dropout": 0.0,
            "z_loss": 0.0,
            "init_scale": 1.0,
        }
    )


def options(model: ConfigDict, vocab_size: int, seq_len: int) -> dict[str, Option]:
    """All that the named model reads, filled in: what is given, then what follows from the size, then its defaults.

    Args:
      model: the config's section.
      vocab_size: symbols.
      seq_len: tokens of an example.

    Raises:
      BadInput: an unknown name, a key that the model does not read, or no shape of the wanted size.
    """
    full = chosen("model", KINDS, model, COMMON)
    pattern, own = _mixers(model)
    full |= own
    if model.dense_layers and "experts" not in full:
        raise BadInput(f"model.dense_layers: {model.name} has no experts")
    if model.size is None and all(value is not None for value in full.values()):
        return full
    shape = KINDS[model.name].shape({**full, **pattern}, model.size, vocab_size, seq_len)
    return {key: shape[key] if value is None else value for key, value in full.items()}


def _mixers(model: ConfigDict) -> tuple[dict[str, tuple[str, ...]], dict[str, Option]]:
    """The pattern of a config as an option, empty where its kind has its own, and the options of the mixers in it.

    Raises:
      BadInput: the kind has its own pattern, an unknown mixer, or an option that no mixer of the pattern reads.
    """
    if model.pattern and model.name not in PATTERNED:
        raise BadInput(f"model.pattern: is of {' and '.join(PATTERNED)} alone")
    pattern = tuple(model.pattern) or ("attention",)
    unknown = [name for name in pattern if name not in MIXERS]
    if unknown:
        raise BadInput(f"model.pattern: {unknown[0]!r} is not one of {', '.join(MIXERS)}")
    read = {key: value for name in pattern for key, value in MIXERS[name].options.items()}
    unread = [key for key in MIXER_OPTIONS if model[key] is not None and key not in read]
    if unread:
        raise BadInput(f"model.{unread[0]}: no mixer of model.pattern ({', '.join(pattern)}) reads it")
    options = {key: value if model[key] is None else model[key] for key, value in read.items()}
    return {"pattern": pattern} if model.name in PATTERNED else {}, options


def build(model: ConfigDict, precision: ConfigDict, vocab_size: int, seq_len: int, **fields: Option) -> Model:
    """The module of a resolved config; `fields` are further ones of the module.

    Raises:
      BadInput: its fields contradict each other.
    """
    kind = KINDS[model.name]
    fields |= {
        "dropout": model.dropout > 0,
        "param_dtype": precision.params,
        "compute_dtype": precision.compute,
        "logit_dtype": precision.logits,
    }
    pattern, own = _mixers(model)
    options = {key: model[key] for key in kind.options} | pattern | own
    if "experts" in options:
        options["dense_layers"] = model.dense_layers
    built = kind.build(options, vocab_size, seq_len, **fields)
    kind.check(built)
    return built


def cost(name: str, built: Model, seq_len: int, predicted: int | None = None) -> Cost:
    """Parameters and FLOPs of an example of `seq_len` tokens, of which as many are predicted; None: all."""
    return KINDS[name].cost(built, seq_len, seq_len if predicted is None else predicted)
