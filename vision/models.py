"""The models of images by name: what each reads of the config, its published shapes, and how it grows with a size."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training.cost import Cost
from training.errors import BadInput, nearest as did_you_mean
from training.nets import sizes
from training.schedule import chosen
from vision import convnet, mixer, mlp, resnet, vit
from vision.convnet import ConvNet
from vision.layers import Classifier
from vision.mixer import Mixer
from vision.mlp import MLP
from vision.resnet import ResNet
from vision.vit import ViT

COMMON = {"name", "size", "variant", "dropout", "stochastic_depth", "label_smoothing", "init_scale"}
DROPS = ("dropout", "stochastic_depth")
WIDEST = 65_536
COUNTS = ("width", "depth", "heads", "mlp_width", "token_width", "patch", "stages")


class Family(NamedTuple):
    """One kind of model.

    Attributes:
      module: its class; every option is a field of it.
      options: the keys of the config's section `model` that it reads, with their defaults; None: it follows from the width.
      check, cost: of a module.
      complete: what follows from the other options where it is None.
      variant: the options of a published shape by name.
    """

    module: type[Any]
    options: dict[str, Any]
    check: Callable[[Any], None]
    cost: Callable[[Any], Cost]
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda options: {}
    variant: Callable[[str], dict[str, Any]] | None = None


def _depth(width: int) -> int:
    """16 features a block up to 12 blocks, as Ti, S and B have, then 64."""
    return max(2, min(round(width / 16), 12), round(width / 64))


def _vit_shape(options: dict[str, Any]) -> dict[str, Any]:
    """Of a width: the depth; heads as in `training.nets.sizes`; an MLP of four widths."""
    width = options["width"]
    return {"depth": _depth(width), "heads": options["heads"] or sizes.heads(width), "mlp_width": 4 * width}


def _mixer_shape(options: dict[str, Any]) -> dict[str, Any]:
    """Of a width: as many blocks as a vision transformer has, and the proportions of the published models."""
    width = options["width"]
    return {"depth": _depth(width), "mlp_width": 4 * width, "token_width": max(1, width // 2)}


FAMILIES: dict[str, Family] = {
    "mlp": Family(MLP, {"depth": 1, "width": 500}, mlp.check, mlp.cost),
    "convnet": Family(ConvNet, {"depth": 3, "width": 32, "padding": "valid"}, convnet.check, convnet.cost),
    "resnet": Family(
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
    "vit": Family(
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
        complete=_vit_shape,
        variant=vit.variant,
    ),
    "mixer": Family(
        Mixer,
        {"patch": 4, "width": 64, "depth": None, "mlp_width": None, "token_width": None},
        mixer.check,
        mixer.cost,
        complete=_mixer_shape,
        variant=mixer.variant,
    ),
}


def defaults() -> ConfigDict:
    """The config section `model`; None: the named model's own default, or what follows from `size` or `variant`."""
    kinds = {
        key: type(value) for family in FAMILIES.values() for key, value in family.options.items() if value is not None
    }
    kinds |= dict.fromkeys(("depth", "heads", "mlp_width", "token_width"), int)
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


def options(model: Any, image: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """All that the named model reads, filled in: what is given or its variant has, then its size, its defaults.

    Args:
      model: the config's section.
      image: height, width and channels.
      classes: numbers to tell apart.

    Raises:
      BadInput: an unknown name or variant, a key that the model does not read or its variant has otherwise, a number that
        counts nothing, or no shape of the wanted size.
    """
    if model.name not in FAMILIES:
        raise BadInput(
            f"model.name: no {model.name!r}{did_you_mean(model.name, FAMILIES)} (known: {', '.join(FAMILIES)})"
        )
    family = FAMILIES[model.name]
    chosen("model", FAMILIES, model, COMMON)
    for key in DROPS:
        if model[key] and key not in _fields(family.module):
            raise BadInput(f"model.{key}: {model.name} has none")
    given = {key: model[key] for key in family.options if model[key] is not None}
    for key in filter(given.__contains__, COUNTS):
        numbers = given[key] if key == "stages" else (given[key],)
        if not numbers or any(type(number) is not int or number < 1 for number in numbers):
            raise BadInput(f"model.{key}: wants whole numbers of at least 1, got {given[key]!r}")
    if model.variant is not None:
        given |= _published(family, model, given)
    if model.size is None:
        return _complete(family, given)
    if "width" in given:
        raise BadInput("model.size: the width is given, so no size is left to choose")

    def count(shape: dict[str, Any]) -> int:
        return family.cost(_module(family, shape, image, classes)).params_total

    return sizes.nearest(model.size, (_complete(family, given | {"width": width}) for width in _widths()), count)


def _published(family: Family, model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the config's variant, which no option that is given contradicts."""
    if family.variant is None:
        raise BadInput(f"model.variant: {model.name} has no published shapes; give model.width")
    shape = family.variant(model.variant)
    other = [key for key in shape if key in given and _plain(given[key]) != shape[key]]
    if other:
        has, gives = (", ".join(f"{key}={values[key]}" for key in other) for values in (shape, given))
        raise BadInput(f"model.variant: {model.variant!r} has {has}, and the config gives {gives} (None opens a key)")
    return shape


def build(model: Any, precision: Any, image: tuple[int, int, int], classes: int) -> Classifier:
    """The module of a resolved config.

    Raises:
      BadInput: its fields contradict each other or the images.
    """
    family = FAMILIES[model.name]
    extra = {"param_dtype": precision.params, "compute_dtype": precision.compute, "logit_dtype": precision.logits}
    extra |= {key: model[key] > 0 for key in DROPS if key in _fields(family.module)}
    built = _module(family, {key: model[key] for key in family.options}, image, classes, **extra)
    family.check(built)
    return built


def cost(name: str, built: Classifier) -> Cost:
    """Parameters and FLOPs of an image."""
    return FAMILIES[name].cost(built)


def _module(family: Family, shape: dict[str, Any], image: tuple[int, int, int], classes: int, **extra: Any) -> Any:
    plain = {key: _plain(value) for key, value in shape.items()}
    return family.module(classes=classes, image=image, **plain, **extra)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _complete(family: Family, given: dict[str, Any]) -> dict[str, Any]:
    full = family.options | given
    follows = family.complete(full)
    return {key: follows.get(key) if value is None else value for key, value in full.items()}


def _fields(module: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(module)}


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
