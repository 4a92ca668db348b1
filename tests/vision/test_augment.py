"""Augmentation: what moves goes where it should, what is mixed is accounted for, and devices change nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from training import mesh as meshes
from training.errors import BadInput
from vision import augment
from vision.augment import Augment, operations

COLOUR, GREY = (32, 12, 10, 3), (32, 12, 10, 1)
EVERYTHING = Augment(True, 2, 0.3, 15.0, 10.0, 0.2, 0.4, 2, 9.0, 0.5, 0.4, 1.0)
TARGETS = np.eye(32, dtype=np.float32)


def pictures(shape, seed=0):
    """Random pixels of 256 levels."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32) / 255


@functools.partial(jax.jit, static_argnums=0)
def run(spec, key, images, targets):
    return augment.apply(spec, key, images, targets)


def changed(spec, images, seed=0):
    """The images under a spec, as NumPy."""
    return np.asarray(run(spec, jax.random.key(seed), images, np.ones((len(images), 1), np.float32))[0])


# --- the config ----------------------------------------------------------------------------------------------------


def test_the_section_holds_the_fields_and_is_off():
    assert augment.from_config(augment.defaults()) == Augment()
    section = augment.defaults()
    section.update({"rotate": 10, "flip": True})
    spec = augment.from_config(section)
    assert spec == Augment(flip=True, rotate=10.0) and isinstance(hash(spec), int)


@pytest.mark.parametrize("spec", [Augment(), Augment(magnitude=3.0)])
def test_nothing_on_gives_back_the_arrays_themselves(spec):
    arrays = jnp.asarray(pictures(GREY)), jnp.asarray(TARGETS)
    assert all(a is b for a, b in zip(augment.apply(spec, jax.random.key(0), *arrays), arrays, strict=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [*((name, -1) for name in augment.LARGEST), ("rotate", 181.0), ("zoom", 1.0), ("erase", 1.1), ("mixup", np.nan)],
)
def test_values_out_of_range_are_refused(key, value):
    section = augment.defaults()
    section[key] = value
    with pytest.raises(BadInput, match=rf"^data\.augment\.{key}: must be in \[0, .*\], got {value}"):
        augment.from_config(section)


def test_a_crop_that_can_miss_the_image_is_refused():
    with pytest.raises(BadInput, match=r"data\.augment\.crop: 10 pixels can miss an image of 12 x 10"):
        augment.apply(Augment(crop=10), jax.random.key(0), pictures(GREY), TARGETS)


# --- what moves pixels ---------------------------------------------------------------------------------------------

STILL = {"rotate": 0.0, "shear_y": 0.0, "shear_x": 0.0, "zoom": 1.0, "translate_y": 0.0, "translate_x": 0.0}


@jax.jit
def moved(image, arguments):
    return operations.resample(image[None, ..., None], operations.affine(**arguments)[None])[0, ..., 0]


def forward(rotate, shear_y, shear_x, zoom, translate_y, translate_x):
    """Where (row, column) from the centre goes: zoomed, sheared, rotated counter-clockwise, translated."""
    cos, sin = np.cos(rotate), np.sin(rotate)
    down, right = np.array([[1, shear_y], [0, 1]]), np.array([[1, 0], [shear_x, 1]])
    return np.array([[cos, -sin], [sin, cos]]) @ right @ down * zoom, np.array([translate_y, translate_x])


def test_a_quarter_turn_is_exact_and_counter_clockwise():
    image = pictures((31, 31))
    np.testing.assert_allclose(moved(image, STILL | {"rotate": np.pi / 2}), np.rot90(image), atol=1e-5)


def test_a_marked_pixel_goes_where_thirty_degrees_take_it():
    image = np.zeros((31, 31), np.float32)
    image[15, 25] = 1.0  # ten to the right of the centre
    turned = np.asarray(moved(image, STILL | {"rotate": np.radians(30)}))
    centre = [np.sum(turned * places) / turned.sum() - 15 for places in np.mgrid[:31, :31]]
    assert centre == pytest.approx([-5.0, 8.66], abs=0.25)
    assert turned[10, 24] == turned.max()


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {"rotate": st.floats(-3.1, 3.1), "zoom": st.floats(0.5, 2)}
        | dict.fromkeys(("shear_y", "shear_x"), st.floats(-0.5, 0.5))
        | dict.fromkeys(("translate_y", "translate_x"), st.floats(-4, 4))
    )
)
def test_a_slope_is_resampled_exactly(arguments):
    """Linear interpolation of a linear image: every pixel of the result is the image at the place it came from."""
    height, width = 12, 17
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    slope = lambda y, x: 0.5 + 0.03 * y - 0.02 * x
    result = np.asarray(moved(slope(y, x).astype(np.float32), arguments))
    matrix, offset = forward(**arguments)
    sources = np.linalg.solve(matrix, np.stack([y, x]).reshape(2, -1) - offset[:, None]).reshape(2, height, width)
    far = np.maximum(np.abs(sources[0]) - (height - 1) / 2, np.abs(sources[1]) - (width - 1) / 2)
    np.testing.assert_allclose(result[far < -0.01], slope(*sources)[far < -0.01], atol=1e-4)
    assert (result[far > 1.01] == 0).all()


def test_flips_only_flip():
    images = pictures(COLOUR)
    result = changed(Augment(flip=True), images)
    same = (result == images).all(axis=(1, 2, 3))
    mirrored = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 8 < mirrored.sum() < 24


def offset(image, result, most):
    """By how many whole pixels an image moved, zeros entering behind it."""
    height, width, _ = image.shape
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    (found,) = (
        (y, x)
        for y in range(-most, most + 1)
        for x in range(-most, most + 1)
        if np.array_equal(padded[most - y : most - y + height, most - x : most - x + width], result)
    )
    return found


def test_crops_move_by_whole_pixels_all_alike():
    images = pictures((400, 6, 5, 1)) * 0.9 + 0.05
    result = changed(Augment(crop=2), images)
    found = np.array([offset(*pair, 2) for pair in zip(images, result, strict=True)])
    counts = np.stack([np.bincount(found[:, axis] + 2, minlength=5) for axis in (0, 1)])
    assert stats.chisquare(counts, axis=1).pvalue.min() > 1e-3
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.2
    # With a zoom of next to nothing, the crop is part of a resampling, and draws the same.
    np.testing.assert_allclose(changed(Augment(crop=2, zoom=1e-7), images), result, atol=1e-4)


def axes_after(spec):
    """Where the unit steps down and to the right go in each of 300 images: 2 x 2 matrices, read off two slopes."""
    y, x = np.mgrid[:11, :11].astype(np.float32) / 10
    images = np.broadcast_to(np.stack([y, x], axis=-1), (300, 11, 11, 2))
    result = changed(spec, images)[:, 4:7, 4:7] * 10
    back = np.stack([(result[:, 2, 1] - result[:, 0, 1]) / 2, (result[:, 1, 2] - result[:, 1, 0]) / 2], axis=-1)
    return np.linalg.inv(back)


def uniform(values, most):
    return stats.kstest(values, stats.uniform(-most, 2 * most).cdf).pvalue > 1e-3


def test_a_window_of_the_wanted_area_is_stretched_over_the_image():
    """Two slopes say where every pixel was read: the window's sides, and that it never leaves the image."""
    height, width = 9, 13
    y, x = np.mgrid[:height, :width].astype(np.float32)
    images = np.broadcast_to(np.stack([y / (height - 1), x / (width - 1)], axis=-1), (600, height, width, 2))
    result = changed(Augment(resized_crop=0.1), images)
    tall, broad = result[:, -1, 0, 0] - result[:, 0, 0, 0], result[:, 0, -1, 1] - result[:, 0, 0, 1]
    area, ratio = tall * broad, tall / broad
    assert stats.kstest(area, stats.uniform(0.1, 0.9).cdf).pvalue > 1e-3 and 0.1 <= area.min() < area.max() <= 1 + 1e-5
    small = np.log(ratio[area < 0.75]) / np.log(4 / 3)  # all ratios fit
    assert uniform(small, 1.0)
    # Each window is cut and resized bilinearly: straight, and anywhere in the image.
    rows = result[:, :1, :1, 0] + tall[:, None, None] * y / (height - 1)
    columns = result[:, :1, :1, 1] + broad[:, None, None] * x / (width - 1)
    np.testing.assert_allclose(result, np.stack([rows, columns], axis=-1), atol=1e-5)
    for first, side in ((result[:, 0, 0, 0], tall), (result[:, 0, 0, 1], broad)):
        free = side < 0.9
        assert stats.kstest((first / (1 - side))[free], stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_a_window_of_everything_is_the_image():
    images = pictures(COLOUR)
    np.testing.assert_allclose(changed(Augment(resized_crop=1.0), images), images, atol=1e-5)
    one, again, other = (changed(Augment(resized_crop=0.2), images, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.abs(one - other).max(axis=(1, 2, 3)) > 0.01).all()
    # It is the image that is cut, and what is left of it that is turned.
    still = {"rotate": 1e-7, "resized_crop": 0.2}
    np.testing.assert_allclose(changed(Augment(**still), images), one, atol=1e-4)


def test_what_was_drawn_before_there_were_windows_is_drawn_still():
    """Other draws than those of earlier runs would be other results under the same identity."""
    spec = EVERYTHING._replace(resized_crop=0.0)
    images, targets = map(np.asarray, run(spec, jax.random.key(3), pictures(COLOUR), TARGETS))
    assert [images.mean(), images.std(), targets.max(axis=1).mean()] == pytest.approx(
        [0.41638184, 0.30417144, 0.8069211], rel=1e-5
    )


def test_angles_and_zooms_are_uniform_in_their_units():
    found = axes_after(Augment(rotate=30.0, zoom=0.3))
    assert uniform(np.sqrt(np.linalg.det(found)) - 1, 0.3)
    assert uniform(np.degrees(np.arctan2(-found[:, 0, 1], found[:, 1, 1])), 30.0)
    found = axes_after(Augment(shear=20.0))
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-3)
    for angles in (found[:, 0, 1] / found[:, 0, 0], found[:, 1, 0] / found[:, 0, 0]):
        assert uniform(np.degrees(np.arctan(angles)), 20.0)


# --- what changes colours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        (operations.autocontrast, ImageOps.autocontrast),
        (lambda x: operations.posterize(x, 4), lambda image: ImageOps.posterize(image, 4)),
        (lambda x: operations.solarize(x, 0.5), lambda image: ImageOps.solarize(image, 128)),
        (lambda x: operations.enhance("brightness", x, 0.4), lambda image: ImageEnhance.Brightness(image).enhance(1.4)),
        (lambda x: operations.enhance("contrast", x, -0.6), lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
        (lambda x: operations.enhance("saturation", x, 0.7), lambda image: ImageEnhance.Color(image).enhance(1.7)),
        (lambda x: operations.enhance("sharpness", x, -0.8), lambda image: ImageEnhance.Sharpness(image).enhance(0.2)),
    ],
)
def test_colours_change_as_pillow_changes_them(operation, reference):
    images = (pictures((3, 12, 10, 3)) * 200 + 20).round() / 255
    expected = [reference(Image.fromarray(np.round(image * 255).astype(np.uint8))) for image in images]
    inside = np.s_[:, 1:-1, 1:-1]  # Pillow does not smooth the edge
    np.testing.assert_allclose(operation(images)[inside], np.stack(expected)[inside] / 255, atol=1.6 / 255)


def test_grey_images_change_as_the_same_grey_in_colours():
    grey = pictures((3, 12, 10, 1))
    for name in ("brightness", "contrast", "sharpness"):
        enhanced = operations.enhance(name, grey, 0.5)
        np.testing.assert_allclose(operations.enhance(name, np.repeat(grey, 3, -1), 0.5)[..., 1:2], enhanced, atol=1e-6)
    assert set(operations.table(3)) - set(operations.table(1)) == {"saturation"}


def test_nothing_to_change_changes_nothing():
    even, images = np.full((2, 12, 10, 3), 0.3, np.float32), pictures((2, 12, 10, 3))
    np.testing.assert_array_equal(operations.autocontrast(even), even)
    np.testing.assert_array_equal(operations.equalize(even), even)
    for name in set(operations.COLOURS) - {"autocontrast", "equalize"}:
        np.testing.assert_allclose(operations.COLOURS[name](images, 0.0, 0.0), images, atol=1e-6, err_msg=name)


def test_equalize_spreads_the_levels_evenly():
    images = pictures((3, 24, 20, 3)) ** 3
    result = np.asarray(operations.equalize(images))
    channels = zip(*(np.moveaxis(x, -1, 1).reshape(9, -1) for x in (images, result)), strict=True)
    for before, after in channels:
        assert (np.diff(after[np.argsort(before)]) >= 0).all()
        assert after.min() == 0 and after.max() == pytest.approx(1)
        bright = np.quantile(after[after > 0], [0.25, 0.5, 0.75])  # half of the pixels were below an eighth
        assert bright == pytest.approx([0.25, 0.5, 0.75], abs=0.02)


def test_colour_jitter_is_uniform():
    factors = changed(Augment(colour=0.5), np.full((300, 2, 2, 1), 0.4, np.float32))[:, 0, 0, 0] / 0.4
    assert uniform(factors - 1, 0.5)  # where all is even, only the brightness shows


def test_randaugment_does_one_operation_of_the_table():
    """Each image comes out as one operation of the table leaves it, and over a batch all of them are met."""
    images = pictures((200, 12, 10, 3))
    result = changed(Augment(randaugment=1, magnitude=7.0), images)
    names, ones = operations.table(3), np.ones(len(images), np.float32)
    every = jax.jit(lambda signs: [operations.operate(name, images, 7.0, signs) for name in names])
    same = np.abs(np.stack([every(ones), every(-ones)]) - result).max(axis=(3, 4, 5)) < 1e-4
    assert same.any(axis=(0, 1)).all() and same.any(axis=2).all()


# --- what is erased and mixed --------------------------------------------------------------------------------------


def rectangle(mask):
    """Whether a mask is one filled rectangle."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return len(rows) > 0 and mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_a_rectangle_is_erased():
    images = np.full((300, 12, 10, 3), 0.501, np.float32)  # no level of a byte, so that noise is never the same
    result = changed(Augment(erase=0.3), images)
    masks = (result != images).any(axis=-1)
    erased = masks[masks.any(axis=(1, 2))]
    assert 60 < len(erased) < 120 and all(rectangle(mask) for mask in erased)
    shares = erased.mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.06 and 0.3 < shares.max() < 0.45
    assert stats.kstest(result[masks].ravel(), stats.uniform(0, 1).cdf).statistic < 0.02


def test_each_image_takes_a_share_of_the_next_and_its_target_says_which():
    """Image i is all of one level, so that its pixels say what they were mixed of."""
    label = np.arange(3000) % 5
    images = np.broadcast_to((label / 4).astype(np.float32)[:, None, None, None], (3000, 6, 5, 1))
    spec = Augment(mixup=0.4, cutmix=1.0)
    mixed, targets = map(np.asarray, run(spec, jax.random.key(3), images, np.eye(5, dtype=np.float32)[label]))
    following = np.roll(images, -1, axis=0)
    taken = ((mixed - images) / (following - images))[..., 0]
    share = taken.mean(axis=(1, 2))
    rows = np.arange(len(label))
    np.testing.assert_allclose(targets[rows, (label + 1) % 5], share, atol=1e-6)
    np.testing.assert_allclose(targets[rows, label], 1 - share, atol=1e-6)
    # A fair coin for each image: all pixels take the same share, or those of a rectangle everything.
    blended = np.ptp(taken, axis=(1, 2)) < 1e-5
    assert all(rectangle(mask > 0.5) and set(mask.round(5).ravel()) == {0, 1} for mask in taken[~blended])
    assert 0.42 < np.mean(~blended) < 0.52  # some rectangles are nothing or everything
    inner = share[blended & (share > 0.01) & (share < 0.99)]
    places, cdf = np.linspace(0.01, 0.99, 25), stats.beta(0.4, 0.4).cdf
    expected = (cdf(places) - cdf(0.01)) / (cdf(0.99) - cdf(0.01))
    np.testing.assert_allclose(np.mean(inner[:, None] < places, axis=0), expected, atol=0.04)


def test_smoothed_targets_are_distributions():
    smoothed = jax.jit(augment.smooth)(TARGETS[:3], 0.1)
    np.testing.assert_allclose(smoothed.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothed[0, :2], [0.9 + 0.1 / 32, 0.1 / 32], rtol=1e-6)
    np.testing.assert_array_equal(augment.smooth(TARGETS, 0.0), TARGETS)


# --- all together --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), dark=st.booleans())
def test_pixels_stay_pixels_and_targets_distributions(shape, seed, dark):
    images = pictures(shape).round() if dark else pictures(shape)
    result, targets = map(np.asarray, run(EVERYTHING, jax.random.key(seed), images, TARGETS))
    assert result.shape == shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1 and targets.min() >= 0
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)


def test_a_key_decides():
    images = pictures(COLOUR)
    one, again, other = (run(EVERYTHING, jax.random.key(seed), images, TARGETS) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert (np.abs(one[0] - other[0]).max(axis=(1, 2, 3)) > 0.01).all()


def test_an_image_depends_on_the_next_one_alone():
    images = pictures(COLOUR)
    others = np.concatenate([images[:16], pictures(COLOUR, seed=1)[16:]])
    one, other = (np.asarray(run(EVERYTHING, jax.random.key(0), batch, TARGETS)[0]) for batch in (images, others))
    np.testing.assert_array_equal(one[:15], other[:15])
    assert (np.abs(one[16:] - other[16:]).max(axis=(1, 2, 3)) > 0).all()


def test_eight_devices_change_nothing_and_keep_to_their_own_images():
    images = pictures(COLOUR)
    placed = NamedSharding(meshes.build({"data": 4, "fsdp": 2, "tensor": 1}), PartitionSpec(("data", "fsdp")))
    arguments = jax.random.key(5), *jax.device_put((images, TARGETS), placed)
    # Compiled as users compile: the older emitter of tests (tests/compiler_flags.py) moves two numbers of 11,520 by 1.2e-6.
    compiled = lambda *x: run.lower(EVERYTHING, *x).compile(compiler_options={"xla_cpu_use_fusion_emitters": True})
    program = compiled(*arguments)
    split = program(*arguments)
    assert len(split[0].sharding.device_set) == 8 and split[0].sharding.is_equivalent_to(placed, 4)
    alone = jax.random.key(5), images, TARGETS
    for a, b in zip(compiled(*alone)(*alone), split, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Devices ask for the next image, where mixing wants one, and for nothing else.
    traffic = r"all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    assert set(re.findall(traffic, program.as_text())) == {"collective-permute"}
