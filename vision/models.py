"""The models of images by name: what each reads of the config, its published shapes, and how it grows with a size."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training.cost import Cost
from training.errors import BadInput
from training.nets import sizes
from training.nets.block_config import compose
from training.registry import ModelKind, chosen, option_types
from training.types import Option
from vision import convnet, mixer, mlp, resnet, vit
from vision.convnet import ConvNet
from vision.layers import Classifier
from vision.mixer import Mixer
from vision.mlp import MLP
from vision.resnet import ResNet
from vision.vit import ViT

M = TypeVar("M", bound=Classifier)
Complete = Callable[[dict[str, Any]], dict[str, int]]  # of the options of a model: what follows from the others

COMMON = {"name", "size", "variant", "dropout", "stochastic_depth", "label_smoothing", "init_scale"}
DROPS = ("dropout", "stochastic_depth")
WIDEST = 65_536
Image = tuple[int, int, int]  # height, width and channels
MODULES: dict[str, type[Classifier]] = {"mlp": MLP, "convnet": ConvNet, "resnet": ResNet, "vit": ViT, "mixer": Mixer}
COUNTS = ("width", "depth", "heads", "mlp_width", "token_width", "patch", "stages")


def _built(module: Callable[..., M], options: Mapping[str, Option], image: Image, classes: int, **fields: Option) -> M:
    """A module whose fields are the options."""
    return module(classes=classes, image=image, **{key: _plain(value) for key, value in options.items()}, **fields)


def _vit(options: Mapping[str, Any], image: Image, classes: int, **fields: Option) -> ViT:
    return compose(ViT, classes=classes, image=image, **vit.BLOCKS, **options, **fields)


def _depth(width: int) -> int:
    """16 features a block up to 12 blocks, as Ti, S and B have, then 64."""
    return max(2, min(round(width / 16), 12), round(width / 64))


def _vit_shape(options: dict[str, Any]) -> dict[str, int]:
    """Of a width: the depth; heads as in `training.nets.sizes`; an MLP of four widths."""
    width = options["width"]
    return {"depth": _depth(width), "heads": options["heads"] or sizes.heads(width), "mlp_width": 4 * width}


def _mixer_shape(options: dict[str, Any]) -> dict[str, int]:
    """Of a width: as many blocks as a vision transformer has, and the proportions of the published models."""
    width = options["width"]
    return {"depth": _depth(width), "mlp_width": 4 * width, "token_width": max(1, width // 2)}


def _kind(
    module: type[Classifier],
    options: Mapping[str, Option],
    check: Callable[[Any], None],
    cost: Callable[[Any], Cost],
    complete: Complete = lambda options: {},
    variant: Callable[[str], Mapping[str, Option]] | None = None,
) -> ModelKind:
    """A row of the table.

    Args:
      module: the class of the models.
      options: keys that it reads, with their defaults; None: it follows from the width.
      check: of a module.
      cost: of a module.
      complete: what follows from the other options where it is None.
      variant: the options of a published shape by name.
    """
    build = _vit if module is ViT else functools.partial(_built, module)

    def shape(given: Mapping[str, Option], size: float | None, image: Image, classes: int) -> dict[str, Option]:
        if size is None:
            return _complete(options, complete, given)
        if "width" in given:
            raise BadInput("model.size: the width is given, so no size is left to choose")
        shapes = (_complete(options, complete, {**given, "width": width}) for width in _widths())
        return sizes.nearest(size, shapes, lambda shape: cost(build(shape, image, classes)).params_total)

    return ModelKind(options, build, shape, check, cost, "classifier", variant=variant)


KINDS: dict[str, ModelKind] = {
    "mlp": _kind(MLP, {"depth": 1, "width": 500}, mlp.check, mlp.cost),
    "convnet": _kind(ConvNet, {"depth": 3, "width": 32, "padding": "valid"}, convnet.check, convnet.cost),
    "resnet": _kind(
        ResNet,
        {
            "stages": (3, 3, 3),
            "width": 16,
            "bottleneck": False,
            "preact": False,
            "stem": "cifar",
            "norm": "batch",
            "momentum": 0.9,
        },
        resnet.check,
        resnet.cost,
        variant=resnet.variant,
    ),
    "vit": _kind(
        ViT,
        {
            "patch": 4,
            "width": 64,
            "depth": None,
            "heads": None,
            "mlp_width": None,
            "pool": "mean",
            "positions": "learned",
            "registers": 0,
            "activation": "gelu",
            "qk_norm": False,
            "scan": False,
            "remat": "none",
            "attention": "auto",
        },
        vit.check,
        vit.cost,
        _vit_shape,
        vit.variant,
    ),
    "mixer": _kind(
        Mixer,
        {"patch": 4, "width": 64, "depth": None, "mlp_width": None, "token_width": None},
        mixer.check,
        mixer.cost,
        _mixer_shape,
        mixer.variant,
    ),
}


def defaults() -> ConfigDict:
    """The config section `model`; None: the named model's own default, or what follows from `size` or `variant`."""
    kinds = option_types(KINDS) | dict.fromkeys(("depth", "heads", "mlp_width", "token_width"), int)
    return ConfigDict(
        {
            "name": "vit",
            "size": placeholder(float),  # target parameters; the width follows
            "variant": placeholder(str),  # a published shape: "B/16" of vit, "50" of resnet
            **{key: placeholder(kind) for key, kind in kinds.items()},
            "dropout": 0.0,
            "stochastic_depth": 0.0,
            "label_smoothing": 0.0,
            "init_scale": 1.0,
        }
    )


def options(model: ConfigDict, image: Image, classes: int) -> dict[str, Option]:
    """All that the named model reads, filled in: what is given or its variant has, then its size, its defaults.

    Args:
      model: the config's section.
      image: height, width and channels.
      classes: numbers to tell apart.

    Raises:
      BadInput: an unknown name or variant, a key that the model does not read or its variant has otherwise, a number that
        counts nothing, or no shape of the wanted size.
    """
    chosen("model", KINDS, model, COMMON)
    kind = KINDS[model.name]
    for key in DROPS:
        if model[key] and key not in MODULES[model.name].__dataclass_fields__:
            raise BadInput(f"model.{key}: {model.name} has none")
    given = {key: model[key] for key in kind.options if model[key] is not None}
    for key in filter(given.__contains__, COUNTS):
        numbers = given[key] if key == "stages" else (given[key],)
        if not numbers or any(type(number) is not int or number < 1 for number in numbers):
            raise BadInput(f"model.{key}: wants whole numbers of at least 1, got {given[key]!r}")
    if model.variant is not None:
        given |= _published(kind, model, given)
    return dict(kind.shape(given, model.size, image, classes))


def _published(kind: ModelKind, model: ConfigDict, given: dict[str, Option]) -> dict[str, Option]:
    """The options of the config's variant, which no option that is given contradicts."""
    if kind.variant is None:
        raise BadInput(f"model.variant: {model.name} has no published shapes; give model.width")
    shape = dict(kind.variant(model.variant))
    other = [key for key in shape if key in given and _plain(given[key]) != shape[key]]
    if other:
        has, gives = (", ".join(f"{key}={values[key]}" for key in other) for values in (shape, given))
        raise BadInput(f"model.variant: {model.variant!r} has {has}, and the config gives {gives} (None opens a key)")
    return shape


def build(model: ConfigDict, precision: ConfigDict, image: Image, classes: int) -> Classifier:
    """The module of a resolved config.

    Raises:
      BadInput: its fields contradict each other or the images.
    """
    kind = KINDS[model.name]
    fields = {"param_dtype": precision.params, "compute_dtype": precision.compute, "logit_dtype": precision.logits}
    fields |= {key: model[key] > 0 for key in DROPS if key in MODULES[model.name].__dataclass_fields__}
    built = kind.build({key: model[key] for key in kind.options}, image, classes, **fields)
    kind.check(built)
    return built


def cost(name: str, built: Classifier) -> Cost:
    """Parameters and FLOPs of an image."""
    return KINDS[name].cost(built)


def _plain(value: Option) -> Option:
    return tuple(value) if isinstance(value, list) else value


def _complete(options: Mapping[str, Option], complete: Complete, given: Mapping[str, Option]) -> dict[str, Option]:
    full = {**options, **given}
    follows = complete(full)
    return {key: follows.get(key) if value is None else value for key, value in full.items()}


def _widths() -> Iterator[int]:
    width = 4
    while width <= WIDEST:
        yield width
        width += (
            2
            if width < 32
            else 4
            if width < 64
            else 8
            if width < 256
            else 16
            if width < 512
            else 64
            if width < 2048
            else 128
        )
