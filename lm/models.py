"""The language models by name: what each reads of the config, and how it grows with a size."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import cost as costs, decoder, encoder, encoder_decoder, recurrent, shapes
from lm.decoder import Decoder
from lm.encoder import Encoder
from lm.encoder_decoder import EncoderDecoder
from lm.recurrent import Recurrent
from training.cost import Cost
from training.errors import BadInput
from training.nets import experts, sizes
from training.nets.recurrence import CELLS
from training.schedule import chosen

COMMON = {"name", "size", "dropout", "z_loss", "init_scale"}
Causal = Decoder | Recurrent
Model = Causal | Encoder | EncoderDecoder


class Kind(NamedTuple):
    """One kind of model.

    Attributes:
      build: (options, vocab_size, seq_len, further fields) -> module.
      options: the keys of the config's section `model` that it reads, with their defaults; None: it follows from the size
        or the width.
      shape: (size or None, options, vocab_size, seq_len) -> values for what is None.
      check: raises BadInput where fields of a module contradict each other.
      cost: (module, seq_len, predicted tokens of an example) -> its cost.
      role: what it is trained for, a key of `lm.objectives.OBJECTIVES`.
      rate: how many times the learning rate of a decoder of its size it wants (`lm.rules`).
    """

    build: Callable[..., Any]
    options: dict[str, Any]
    shape: Callable[[float | None, Any, int, int], dict[str, int]]
    check: Callable[[Any], None]
    cost: Callable[[Any, int, int], Cost]
    role: str = "causal"
    rate: float = 1.0


SHAPE: dict[str, Any] = {"depth": None, "width": None, "mlp_width": None}
SWITCHES: dict[str, Any] = {"scan": False, "remat": "none"}  # of speed: same values, same tree
BLOCKS: dict[str, Any] = {
    **SHAPE,
    "norm": "rms",
    "norm_eps": 1e-5,
    "activation": "gelu",
    "tied": True,
    "bias": False,
    "parallel": False,
    **SWITCHES,
}
ATTENTION: dict[str, Any] = {
    "heads": None,
    "kv_heads": None,
    "positions": "rotary",
    "rope_theta": 10_000.0,
    "qk_norm": False,
    "attention": "auto",
}
T5: dict[str, Any] = {
    **SHAPE,
    "encoder_depth": None,
    "heads": None,
    "placement": "pre",
    "norm": "rms",
    "norm_eps": 1e-6,
    "activation": "relu",
    "tied": True,
    "bias": False,
    "positions": "relative",
    "rope_theta": 10_000.0,
    "buckets": 32,
    "farthest": 128,
    "qk_norm": False,
    "attention": "auto",
    "label_smoothing": 0.0,  # a float that never recompiles; on or off does
    "sentinels": 0,  # symbols for what is cut out of running text; 0: its second half is predicted from the first
    **SWITCHES,
}
BERT: dict[str, Any] = {
    **SHAPE,
    "heads": None,
    "placement": "post",
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
MIXTURE: dict[str, Any] = {
    "experts": 8,
    "experts_per_token": 2,
    "shared_experts": 0,
    "capacity": 0.0,  # 0: no token is dropped
    "normalise": True,
    "dispatch": "auto",
    "balance": 0.01,  # weights of penalties, floats that never recompile
    "router_z": 0.001,
}
PENALTIES = ("balance", "router_z")
LINEAR: dict[str, Any] = {"mixer": "linear", "heads": 1, "kv_heads": 1, "positions": "none", "qk_norm": False}


def _decoder(options: dict[str, Any], vocab_size: int, seq_len: int, **fields: Any) -> Decoder:
    length = seq_len if options["positions"] == "learned" else 0
    return Decoder(vocab_size=vocab_size, max_length=length, **options, **fields)


def _decoder_shape(size: float | None, options: dict[str, Any], vocab_size: int, seq_len: int) -> dict[str, int]:
    def count(shape: dict[str, int]) -> int:
        return sum(costs.parameters(SimpleNamespace(**options | shape), seq_len, vocab_size).values())

    return shapes.shape_for(size, SimpleNamespace(**options), count)


def _decoder_cost(model: Decoder, seq_len: int, predicted: int) -> Cost:
    del predicted  # every token
    return costs.cost(model, seq_len, model.vocab_size)


def _mixture(options: dict[str, Any], *data: Any, **fields: Any) -> Decoder:
    for key in PENALTIES:
        if options[key] < 0:
            raise BadInput(f"model.{key}: must not be negative, got {options[key]}")
    return _decoder({key: value for key, value in options.items() if key not in PENALTIES}, *data, **fields)


def _check_mixture(model: Decoder) -> None:
    experts.check(model)  # of none at all too, which would be a dense decoder
    decoder.check(model)


def _encoder(options: dict[str, Any], vocab_size: int, seq_len: int, **fields: Any) -> Encoder:
    length = seq_len if options["positions"] == "learned" else 0
    fields |= {key: value for key, value in options.items() if key != "mask_fraction"}
    return Encoder(vocab_size=vocab_size, max_length=length, **fields)


def _encoder_shape(size: float | None, options: dict[str, Any], vocab_size: int, seq_len: int) -> dict[str, int]:
    def count(shape: dict[str, int]) -> int:
        built = _encoder(options | {key: shape[key] for key in shape if key in options}, vocab_size, seq_len)
        return encoder.cost(built, seq_len, 0).params_total

    return shapes.shape_for(size, SimpleNamespace(**options, kv_heads=None), count)


def _pair(options: dict[str, Any], vocab_size: int, seq_len: int, **fields: Any) -> EncoderDecoder:
    length = seq_len if options["positions"] == "learned" else 0
    fields |= {key: value for key, value in options.items() if key != "label_smoothing"}
    return EncoderDecoder(vocab_size=vocab_size, max_length=length, **fields)


def _pair_shape(size: float | None, options: dict[str, Any], vocab_size: int, seq_len: int) -> dict[str, int]:
    """The encoder is as deep as the decoder, unless the config says otherwise."""

    def full(shape: dict[str, int]) -> dict[str, Any]:
        return options | {"encoder_depth": shape["depth"]} | {key: shape[key] for key in shape if key in options}

    def count(shape: dict[str, int]) -> int:
        given = {key: value for key, value in options.items() if value is not None}
        return encoder_decoder.cost(_pair(full(shape) | given, vocab_size, seq_len), 1, 1).params_total

    shape = shapes.shape_for(size, SimpleNamespace(**options, kv_heads=None), count)
    return shape | {"encoder_depth": shape["depth"]}


# Of the rule's learning rate, measured on 8 to 148 thousand parameters (configs/lm/families_lr.py; the runs are in
# benchmarks/results/families_lr.csv): the best of five rates was 2 to 4 times the rule's for LSTMs, 1 to 9 times for
# encoder-decoders. What is not here keeps the rule; of other cells it was not measured.
RATES = {"lstm": 3.0, "encoder_decoder": 2.0}


def _recurrent(cell: str) -> Kind:
    def build(options: dict[str, Any], vocab_size: int, seq_len: int, **fields: Any) -> Recurrent:
        del seq_len
        fields |= {key: value for key, value in options.items() if key != "carry"}
        return Recurrent(vocab_size=vocab_size, cell=cell, **fields)

    def shape(size: float | None, options: dict[str, Any], vocab_size: int, seq_len: int) -> dict[str, int]:
        """Of a size, the width: 2 layers, as Zaremba et al. (2014) have, unless the config says otherwise."""
        width, depth = options["width"], options["depth"] or 2
        if size is None:
            if width is None:
                raise BadInput("model: give a size or a width")
            return {"width": width, "depth": depth}
        if width is not None:
            raise BadInput("model.size: the width is given, so no size is left to choose")

        def count(shape: dict[str, int]) -> int:
            return recurrent.cost(build(options | shape, vocab_size, seq_len), seq_len, seq_len).params_total

        return sizes.nearest(size, ({"width": width, "depth": depth} for width in shapes.widths()), count)

    # carry: the state at the end of a batch is that at the start of the next, whose rows continue those before.
    own = {"depth": None, "width": None, "tied": True, "carry": False}
    return Kind(build, own, shape, recurrent.check, recurrent.cost, rate=RATES.get(cell, 1.0))


KINDS: dict[str, Kind] = {
    "decoder": Kind(_decoder, BLOCKS | ATTENTION, _decoder_shape, decoder.check, _decoder_cost),
    "gated_linear": Kind(
        lambda options, *data, **fields: _decoder(options | LINEAR, *data, **fields),
        BLOCKS,
        lambda size, options, *data: _decoder_shape(size, options | LINEAR, *data),
        decoder.check,
        _decoder_cost,
    ),
    "moe": Kind(_mixture, BLOCKS | ATTENTION | MIXTURE, _decoder_shape, _check_mixture, _decoder_cost),
    **{cell: _recurrent(cell) for cell in CELLS},
    "encoder": Kind(_encoder, BERT, _encoder_shape, encoder.check, encoder.cost, "encoder"),
    "encoder_decoder": Kind(
        _pair, T5, _pair_shape, encoder_decoder.check, encoder_decoder.cost, "encoder_decoder", RATES["encoder_decoder"]
    ),
}


def defaults() -> ConfigDict:
    """The config section `model`; None: the named model's own default, or what follows from the size."""
    kinds = {key: type(value) for kind in KINDS.values() for key, value in kind.options.items() if value is not None}
    kinds |= dict.fromkeys((*shapes.SHAPE, "encoder_depth"), int)
    return ConfigDict(
        {
            "name": "decoder",
            "size": placeholder(float),  # target parameters; the shape follows
            **{key: placeholder(kind) for key, kind in kinds.items()},
            "dropout": 0.0,
            "z_loss": 0.0,
            "init_scale": 1.0,
        }
    )


def options(model: Any, vocab_size: int, seq_len: int) -> dict[str, Any]:
    """All that the named model reads, filled in: what is given, then what follows from the size, then its defaults.

    Args:
      model: the config's section.
      vocab_size: symbols.
      seq_len: tokens of an example.

    Raises:
      BadInput: an unknown name, a key that the model does not read, or no shape of the wanted size.
    """
    kind, full = KINDS.get(model.name), chosen("model", KINDS, model, COMMON)
    assert kind is not None
    if model.size is None and all(value is not None for value in full.values()):
        return full
    shape = kind.shape(model.size, full, vocab_size, seq_len)
    return {key: shape[key] if value is None else value for key, value in full.items()}


def build(model: Any, precision: Any, vocab_size: int, seq_len: int, **fields: Any) -> Model:
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
    built = kind.build({key: model[key] for key in kind.options}, vocab_size, seq_len, **fields)
    kind.check(built)
    return built


def cost(name: str, built: Model, seq_len: int, predicted: int | None = None) -> Cost:
    """Parameters and FLOPs of an example of `seq_len` tokens, of which as many are predicted; None: all."""
    return KINDS[name].cost(built, seq_len, seq_len if predicted is None else predicted)
