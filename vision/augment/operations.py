"""What can be done to images: geometry as one affine map, changes of colours, and the table that RandAugment draws from.

Images are batches [batch, height, width, channels] of pixels in [0, 1], to which every operation keeps.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

Images = Float[Array, "batch height width channels"]
Scalar = Float[Array, "..."] | float  # of every image, or one for all
Row = tuple[Scalar, Scalar, Scalar]


def affine(
    rotate: Scalar = 0.0,
    shear_y: Scalar = 0.0,
    shear_x: Scalar = 0.0,
    zoom: Scalar = 1.0,
    translate_y: Scalar = 0.0,
    translate_x: Scalar = 0.0,
) -> Float[Array, "*batch 3 3"]:
    """Zooms images, shears, rotates and translates them, in this order. What `resample` needs is the way back: from the
    place of a pixel in the result to its place in the image, both (row, column, 1) from the centre.

    Args:
      rotate: radians, counter-clockwise as one looks at the image.
      shear_y, shear_x: pixels down for each to the right, and then pixels to the right for each down.
      zoom: factor.
      translate_y, translate_x: pixels down and to the right.
    """
    cos, sin, both = jnp.cos(rotate), jnp.sin(rotate), 1 + shear_y * shear_x
    back = (
        ((both * cos + shear_y * sin) / zoom, (both * sin - shear_y * cos) / zoom),
        ((-shear_x * cos - sin) / zoom, (-shear_x * sin + cos) / zoom),
    )
    return _matrix(*((down, right, -down * translate_y - right * translate_x) for down, right in back))


def window(tall: Scalar, broad: Scalar, down: Scalar, right: Scalar) -> Float[Array, "*batch 3 3"]:
    """A window of the image is stretched over the whole of it, as the way back like that of `affine`.

    Both are measured between the centres of their outer pixels, so that `resample` never reads beyond the image.

    Args:
      tall, broad: sides of the window as shares of the image's.
      down, right: pixels from the image's centre to the window's.
    """
    return _matrix((tall, 0, down), (0, broad, right))


def resample(images: Images, back: Float[Array, "batch 3 3"]) -> Images:
    """Images read at the places that `affine` and `window` give, between pixels linearly; zeros lie outside.

    A border of zeros is laid round the image, and places beyond it are pulled on to it.
    """
    batch, height, width, channels = images.shape
    y, x = ((size - 1) / 2 for size in (height, width))  # the centre
    down, right = jnp.arange(height)[:, None] - y, jnp.arange(width) - x
    rows, columns = (
        back[:, i, 0, None, None] * down + back[:, i, 1, None, None] * right + back[:, i, 2, None, None] for i in (0, 1)
    )
    rows, columns = jnp.clip(rows + y + 1, 0, height + 1), jnp.clip(columns + x + 1, 0, width + 1)
    top, left = jnp.clip(jnp.floor(rows), 0, height), jnp.clip(jnp.floor(columns), 0, width)
    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    pixels = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(batch, -1, channels)
    first = top.astype(jnp.int32) * (width + 2) + left.astype(jnp.int32)
    row = lambda step: between(_at(pixels, first + step), _at(pixels, first + step + 1), beside)
    upper, lower = jax.lax.map(row, jnp.array([0, width + 2]))  # in a loop, XLA cannot repeat it for each of its users
    return between(upper, lower, below)


def crop(images: Images, offset: Int[Array, "batch 2"], padding: int) -> Images:
    """Images moved down and to the right by whole pixels, at most so many as the padding has; zeros enter."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    cut = lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), images.shape[1:])
    return jax.vmap(cut)(padded, padding - offset)


# What moves pixels.
GEOMETRY = ("rotate", "shear_y", "shear_x", "translate_y", "translate_x")


def reach(height: int, width: int) -> dict[str, float]:
    """How far the operations of `GEOMETRY` go at magnitude 10, as arguments of `affine`: the ranges of AutoAugment
    (Cubuk et al. 2019), translations as there for images of 32 pixels."""
    return dict(zip(GEOMETRY, (math.radians(30), 0.3, 0.3, 10 / 32 * height, 10 / 32 * width), strict=True))


def _luminance(images: Images) -> Float[Array, "batch height width 1"]:
    """Grey of colours (ITU-R BT.601), or the mean of other channels."""
    if images.shape[-1] != 3:
        return jnp.mean(images, axis=-1, keepdims=True)
    red, green, blue = jnp.split(images, 3, axis=-1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _blurred(images: Images) -> Images:
    """Each pixel five parts of itself and one of each neighbour; the edge is its own neighbour."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images) / 13


# What an image without any brightness, contrast, ... looks like.
WITHOUT: dict[str, Callable[[Images], Any]] = {
    "brightness": lambda images: 0.0,
    "contrast": lambda images: _luminance(jnp.mean(images, axis=(1, 2), keepdims=True)),
    "saturation": _luminance,
    "sharpness": _blurred,
}


def enhance(name: str, images: Images, amount: Scalar) -> Images:
    """More of a property in `WITHOUT`, or less of it: -1 takes it away, 1 doubles the distance from where it is not."""
    return jnp.clip(images + amount * (images - WITHOUT[name](images)), 0, 1)


def autocontrast(images: Images) -> Images:
    """The darkest pixel of each channel becomes 0 and the brightest 1; even channels stay."""
    low, high = (f(images, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    return jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1), images)


def equalize(images: Images) -> Images:
    """Each of 256 levels becomes the share of a channel's pixels, but the darkest, that it is no darker than."""
    batch, height, width, _ = images.shape

    def one(channel: Float[Array, "batch height width"]) -> Float[Array, "batch height width"]:
        levels = _levels(channel).reshape(batch, -1)
        counts = jax.vmap(lambda own: jnp.zeros(256).at[own].add(1, mode="promise_in_bounds"))(levels)
        counts = jnp.matmul(counts, jnp.triu(jnp.ones((256, 256))), precision="highest")  # faster than `cumsum`
        darkest = jnp.min(jnp.where(counts > 0, counts, height * width), axis=1, keepdims=True)
        shares = (counts - darkest) / jnp.maximum(height * width - darkest, 1)
        equal = _at(shares, levels).reshape(channel.shape)
        return jnp.where((darkest == height * width)[..., None], channel, equal)

    return jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(images, -1, 0)), 0, -1)


def posterize(images: Images, bits: int) -> Images:
    """So many of the eight bits of a pixel are kept, the highest."""
    step = 2 ** (8 - bits)
    return (_levels(images) // step * step).astype(images.dtype) / 255


def solarize(images: Images, threshold: float) -> Images:
    """The negative of what is brighter than the threshold."""
    return jnp.where(images > threshold, 1 - images, images)


# What changes colours: of images, the strength in [0, 1], and the strength with a sign of its own for each image.
COLOURS: dict[str, Callable[[Images, float, Any], Images]] = {
    "identity": lambda images, strength, signed: images,
    "autocontrast": lambda images, strength, signed: autocontrast(images),
    "equalize": lambda images, strength, signed: equalize(images),
    "posterize": lambda images, strength, signed: posterize(images, 8 - round(4 * strength)),
    "solarize": lambda images, strength, signed: solarize(images, 1 - strength),
    **{name: lambda images, _, signed, name=name: enhance(name, images, 0.9 * signed) for name in WITHOUT},
}


def table(channels: int) -> tuple[str, ...]:
    """RandAugment's table for images of so many channels: only three have a saturation."""
    return (*GEOMETRY, *(name for name in COLOURS if channels == 3 or name != "saturation"))


def operate(name: str, images: Images, magnitude: float, signs: Float[Array, " batch"]) -> Images:
    """One operation of the table on all images.

    Args:
      magnitude: 0 to 10.
      signs: -1 or 1: which way, of operations that go two ways.
    """
    signed = signs * magnitude / 10
    if name in GEOMETRY:
        return resample(images, affine(**{name: reach(*images.shape[1:3])[name] * signed}))
    return COLOURS[name](images, magnitude / 10, wide(signed))


# --- small parts ---------------------------------------------------------------------------------------------------


def wide(one: Shaped[Array, " batch"]) -> Shaped[Array, "batch 1 1 1"]:
    """A number for each image, for all its pixels."""
    return one[:, None, None, None]


def between(a: Array, b: Array, share: Array) -> Array:
    """So much of the way from `a` to `b`."""
    return a + share * (b - a)


def then(first: Float[Array, "*batch 3 3"], second: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """One map of `affine` and then another."""
    return jnp.matmul(first, second, precision="highest")  # places are pixels: three digits do not do


def _matrix(*rows: Row) -> Float[Array, "*batch 3 3"]:
    entries = jnp.broadcast_arrays(*(jnp.float32(entry) for row in (*rows, (0, 0, 1)) for entry in row))
    return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def _at(entries: Shaped[Array, "batch n ..."], index: Int[Array, "batch ..."]) -> Shaped[Array, "batch ..."]:
    """Entries of each image's own; `vmap` keeps a batch that is split over devices where it is."""
    return jax.vmap(lambda own, at: own.at[at].get(mode="promise_in_bounds"))(entries, index)


def _levels(images: Array) -> Int[Array, "..."]:
    return jnp.round(255 * images).astype(jnp.int32)
