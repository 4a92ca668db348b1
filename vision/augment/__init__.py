"""Augmentation of images in training: pure functions of a key, for the inside of a jitted step.

Everything drawn for an image depends on the key and the image's place in the batch alone, so that neither the number
of devices nor the rest of the batch changes it; what one operation draws does not depend on which others are on. A batch
that is accumulated is several: each micro-batch has a key of its own, and mixes its own neighbours.
The order: flips; one resampling of all that moves pixels; colours; erasing; mixing of neighbours.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict
from scipy.special import betaincinv

from training.errors import BadInput
from vision.augment.operations import (
    COLOURS,
    GEOMETRY,
    Images,
    affine,
    between,
    crop,
    enhance,
    reach,
    resample,
    table,
    then,
    wide,
    window,
)

SECTION = "data.augment"


class Augment(NamedTuple):
    """What is done to the images of a batch; hashable, part of what is compiled.

    Attributes:
      flip: left and right change places in half of the images.
      crop: zero padding in pixels before a random crop of the image's own size (He et al. 2016): a shift, uniform over
        whole pixels, by up to as many either way.
      resized_crop: least share of the area; a window of a share uniform between it and 1, its sides in a ratio of 3:4 to
        4:3, uniform on a logarithmic scale, is stretched over the image (Szegedy et al. 2015, section 6); 0: off.
      rotate: degrees, uniform up to this either way.
      shear: degrees along each axis, uniform up to this either way.
      zoom: share; the scale is uniform in [1 - zoom, 1 + zoom].
      colour: strength; brightness, contrast and saturation are multiplied by factors uniform in [1 - colour, 1 + colour].
      randaugment: operations an image (Cubuk et al. 2020: N); 0: off.
      magnitude: of those operations, 0 to 10 (their M).
      erase: probability that a rectangle is erased (Zhong et al. 2020).
      mixup: alpha of the Beta distribution of the shares (Zhang et al. 2018); 0: off.
      cutmix: the same of the area pasted (Yun et al. 2019); 0: off. With both, a fair coin decides for each image.
    """

    flip: bool = False
    crop: int = 0
    resized_crop: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    colour: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


# The largest value of each key; the smallest is 0.
LARGEST = {
    **{"crop": 1024, "resized_crop": 1.0, "rotate": 180.0, "shear": 60.0, "zoom": 0.9, "colour": 1.0},
    **{"randaugment": 16, "magnitude": 10.0, "erase": 1.0, "mixup": 100.0, "cutmix": 100.0},
}


def defaults() -> ConfigDict:
    """The config section: the fields of `Augment`, everything off."""
    return ConfigDict(Augment()._asdict())


def from_config(section: ConfigDict) -> Augment:
    """The augmentation of a config section.

    Raises:
      BadInput: a value is out of range.
    """
    spec = Augment(
        **{name: section[name] for name in Augment._fields if name in section}
    )  # runs may be older than a key
    for name, largest in LARGEST.items():
        if not 0 <= getattr(spec, name) <= largest:
            raise BadInput(f"{SECTION}.{name}: must be in [0, {largest}], got {getattr(spec, name)}")
    return spec


def check(spec: Augment, height: int, width: int) -> None:
    """Raise BadInput where the crop can miss an image of so many pixels."""
    if spec.crop >= min(height, width):
        raise BadInput(f"{SECTION}.crop: {spec.crop} pixels can miss an image of {height} x {width}")


def apply(
    spec: Augment, key: Array, images: Images, targets: Float[Array, "batch classes"]
) -> tuple[Images, Float[Array, "batch classes"]]:
    """Augmented images and their targets; the arrays themselves where nothing is on.

    Args:
      key: of this batch.
      images: pixels in [0, 1], which they keep to.
      targets: a distribution over classes for each image.

    Raises:
      BadInput: the crop can miss the image.
    """
    batch, height, width, channels = images.shape
    check(spec, height, width)
    scalars, noise, windows = jax.random.split(key, 3)
    drawn = _drawn(scalars, DRAWS, batch) | _drawn(windows, WINDOW, batch)
    chosen = _chosen(spec, drawn, table(channels))
    images = _moved(spec, drawn, chosen, images)
    images = _coloured(spec, drawn, chosen, images)
    images = _erased(spec, drawn, noise, images)
    return _mixed(spec, drawn, images, targets)


def smooth(targets: Float[Array, "batch classes"], amount: float | Float[Array, ""]) -> Float[Array, "batch classes"]:
    """Targets of which a share is spread evenly over the classes (Szegedy et al. 2016, section 7).

    Args:
      amount: the share; may be traced.
    """
    return (1.0 - amount) * targets + amount / targets.shape[-1]


# What is drawn for every image, all on [0, 1) and whatever is on: so no operation changes what another draws. A row more
# would change all that are drawn with it.
DRAWS = (
    *("flip", "rotate", "shear_y", "shear_x", "zoom", "crop_y", "crop_x", "brightness", "contrast", "saturation"),
    *("erase", "area", "ratio", "top", "left", "mixup", "cutmix", "coin", "centre_y", "centre_x"),
    *(f"{what}{i}" for i in range(LARGEST["randaugment"]) for what in ("operation", "sign")),
)
WINDOW = ("window_area", "window_ratio", "window_y", "window_x")
Drawn = dict[str, Float[Array, " batch"]]
Chosen = list[tuple[Int[Array, " batch"], Float[Array, " batch"]]]


def _drawn(key: Array, names: tuple[str, ...], batch: int) -> Drawn:
    return dict(zip(names, jax.random.uniform(key, (batch, len(names))).T, strict=True))


def _chosen(spec: Augment, drawn: Drawn, names: tuple[str, ...]) -> Chosen:
    """RandAugment's operations one after another: places in its table, and the strength with a fair sign."""
    place = lambda i: jnp.floor(len(names) * drawn[f"operation{i}"]).astype(jnp.int32)
    strength = lambda i: jnp.where(drawn[f"sign{i}"] < 0.5, -0.1, 0.1) * spec.magnitude
    return [(place(i), strength(i)) for i in range(spec.randaugment)]


def _moved(spec: Augment, drawn: Drawn, chosen: Chosen, images: Images) -> Images:
    """Flips; then one resampling, or where there are only whole pixels to go, none."""
    _, height, width, _ = images.shape
    if spec.flip:
        images = jnp.where(wide(drawn["flip"] < 0.5), images[:, :, ::-1], images)
    either = lambda name, most: most * (2 * drawn[name] - 1)
    down, right = (jnp.floor((2 * spec.crop + 1) * drawn[name]) - spec.crop for name in ("crop_y", "crop_x"))
    moves = []
    if spec.resized_crop:
        moves.append(_window(spec, drawn, height, width))
    if spec.rotate or spec.shear or spec.zoom:
        angle = jnp.radians(either("rotate", spec.rotate))
        slope_y, slope_x = (jnp.tan(jnp.radians(either(f"shear_{axis}", spec.shear))) for axis in "yx")
        moves.append(affine(angle, slope_y, slope_x, 1 + either("zoom", spec.zoom)))
    for place, strength in chosen:
        far = enumerate(reach(height, width).items())
        moves.append(affine(**{name: jnp.where(place == j, most * strength, 0.0) for j, (name, most) in far}))
    if moves:
        return resample(images, functools.reduce(then, [*moves, affine(translate_y=down, translate_x=right)]))
    return crop(images, jnp.stack([down, right], axis=1).astype(jnp.int32), spec.crop) if spec.crop else images


def _window(spec: Augment, drawn: Drawn, height: int, width: int) -> Float[Array, "batch 3 3"]:
    """The resized crop; of a large window, the ratio keeps to what fits into the image."""
    area = spec.resized_crop + (1 - spec.resized_crop) * drawn["window_area"]
    widest = jnp.minimum(math.log(4 / 3), -jnp.log(area))
    ratio = jnp.exp(widest * (2 * drawn["window_ratio"] - 1))
    tall, broad = jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)
    down, right = (
        (1 - share) * (side - 1) * (drawn[name] - 0.5)
        for share, side, name in ((tall, height, "window_y"), (broad, width, "window_x"))
    )
    return window(tall, broad, down, right)


def _coloured(spec: Augment, drawn: Drawn, chosen: Chosen, images: Images) -> Images:
    """Jitter of colours, then those of RandAugment's operations that change colours, in the order drawn."""
    names = table(images.shape[-1])
    for name in ("brightness", "contrast", "saturation") if spec.colour else ():
        if name in names:
            images = enhance(name, images, wide(spec.colour * (2 * drawn[name] - 1)))

    def changed(images: Images, one: Any) -> tuple[Images, None]:
        results, (place, strength) = images, one
        for j, name in list(enumerate(names))[len(GEOMETRY) :]:
            result = COLOURS[name](images, spec.magnitude / 10, wide(strength))
            results = jnp.where(wide(place == j), result, results)
        return results, None

    return jax.lax.scan(changed, images, jax.tree.map(lambda *x: jnp.stack(x), *chosen))[0] if chosen else images


def _erased(spec: Augment, drawn: Drawn, key: Array, images: Images) -> Images:
    """A rectangle of 2% to 40% of the area, its sides in a ratio of 0.3 to 1 / 0.3, becomes noise: as the authors do,
    but that the ratio is even on a logarithmic scale, and that long sides are cut to the image's instead of redrawn."""
    if not spec.erase:
        return images
    batch, height, width, channels = images.shape
    area, ratio = (0.02 + 0.38 * drawn["area"]) * height * width, 0.3 ** (2 * drawn["ratio"] - 1)
    tall, broad = (
        jnp.clip(jnp.round(jnp.sqrt(area * r)), 1, side) for r, side in ((ratio, height), (1 / ratio, width))
    )
    top, left = jnp.floor(drawn["top"] * (height - tall + 1)), jnp.floor(drawn["left"] * (width - broad + 1))
    inside = _rectangle(height, width, top, top + tall, left, left + broad)
    # A draw makes 32 random bits and a pixel has eight.
    words = jax.random.bits(key, (batch, -(-height * width * channels // 4)), jnp.uint32)
    noise = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(batch, -1)[:, : height * width * channels]
    noise = noise.reshape(images.shape).astype(images.dtype) / 255
    return jnp.where(inside & wide(drawn["erase"] < spec.erase), noise, images)


def _mixed(spec: Augment, drawn: Drawn, images: Images, targets: Array) -> tuple[Images, Array]:
    """Each image takes a share of the next one in the batch: of every pixel (mixup), or a whole rectangle (cutmix).

    Shares, and the coin between the two, are drawn for each image, not for the batch: every batch then holds all kinds,
    and its gradient varies less.
    """
    if not spec.mixup and not spec.cutmix:
        return images, targets
    _, height, width, _ = images.shape
    share = _beta(drawn["mixup"], spec.mixup)
    pixels = wide(share)
    if spec.cutmix:
        half = jnp.sqrt(_beta(drawn["cutmix"], spec.cutmix)) / 2
        edge = lambda centre, side: jnp.round(jnp.clip(centre, 0, 1) * side)
        top, bottom = (edge(drawn["centre_y"] + reach, height) for reach in (-half, half))
        left, right = (edge(drawn["centre_x"] + reach, width) for reach in (-half, half))
        cut = drawn["coin"] < (0.5 if spec.mixup else 1.0)
        share = jnp.where(cut, (bottom - top) * (right - left) / (height * width), share)
        pixels = jnp.where(wide(cut), _rectangle(height, width, top, bottom, left, right), pixels)
    images, targets = (
        between(own, jnp.roll(own, -1, axis=0), part) for own, part in ((images, pixels), (targets, share[:, None]))
    )
    return images, targets


def _beta(uniform: Float[Array, " batch"], alpha: float) -> Float[Array, " batch"]:
    """Draws of Beta(alpha, alpha), 0 for no alpha, by its quantiles; those of JAX take seconds to compile."""
    if not alpha:
        return jnp.zeros_like(uniform)
    places = np.linspace(0, 1, 2049)
    return jnp.interp(uniform, places, betaincinv(alpha, alpha, places))


def _rectangle(
    height: int,
    width: int,
    top: Float[Array, " batch"],
    bottom: Float[Array, " batch"],
    left: Float[Array, " batch"],
    right: Float[Array, " batch"],
) -> Bool[Array, "batch h w 1"]:
    """Where a pixel lies in the rectangle of its image; ends are left out."""
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    top, bottom, left, right = map(wide, (top, bottom, left, right))
    return (top <= y) & (y < bottom) & (left <= x) & (x < right)
