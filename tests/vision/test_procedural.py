"""Procedural images: drawn as they say, known by (seed, k), and with the Bayes error that brute force finds."""

import dataclasses

import numpy as np
import pytest

from training.errors import BadInput
from vision import datasets
from vision.datasets.procedural import HELD_IMAGES, Procedural

TINY = {"size": 6, "channels": 2, "num_classes": 3, "species": 4, "frequency": 2, "shift": 1, "noise": 2.5}


def section(cache, **args):
    data = datasets.defaults()
    data.dataset, data.cache_dir = "procedural", str(cache)
    for key, value in (TINY | args).items():
        data.dataset_args[key] = value
    return data


def brute_force(world: Procedural, images: np.ndarray) -> np.ndarray:
    """Posterior of the labels, from the distance in pixels to every shift and sign of every pattern."""
    patterns = np.einsum("pcw,whv->phvc", world.weights, world.waves).astype(float)
    joint = np.zeros((len(images), world.num_classes))
    steps = range(-world.shift, world.shift + 1)
    for number, pattern in enumerate(patterns):
        label, rank = divmod(number, world.species)
        for down in steps:
            for across in steps:
                view = np.roll(pattern, (down, across), axis=(0, 1))
                for sign in (1, -1) if world.negatives else (1,):
                    distance = np.square((images - 127.5) / world.unit - sign * view).sum(axis=(1, 2, 3))
                    joint[:, label] += world.rates[rank] * np.exp(-distance / (2 * world.noise**2))
    joint /= joint.sum(axis=1, keepdims=True)
    return (1 - world.label_noise) * joint + world.label_noise / world.num_classes


@pytest.mark.parametrize("change", [{}, {"negatives": False}, {"shift": 0, "channels": 1}, {"label_noise": 0.3}])
def test_posterior_is_that_of_brute_force(change):
    world = Procedural(**TINY | change)
    images, _ = world.draw(world.key("test"), np.arange(50))
    expected = brute_force(world, images.astype(float))
    assert 0.05 < (1 - expected.max(axis=1)).mean() < 0.6
    # It counts the variance of rounding too, 0.03% of the noise's.
    assert world.posterior(images) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("change", [{}, {"label_noise": 0.2}])
def test_labels_are_as_likely_as_the_posterior_says(change):
    world = Procedural(**TINY | change)
    images, labels = world.draw(world.key("test"), np.arange(20_000))
    posterior = world.posterior(images)
    nats = -np.log(posterior[np.arange(len(labels)), labels])
    wrong = posterior.argmax(axis=1) != labels
    bayes = world.bayes(20_000)
    for found, name in ((nats, "nats"), (wrong, "error")):
        sem = np.hypot(found.std() / np.sqrt(len(found)), bayes[f"{name}_sem"])
        assert found.mean() == pytest.approx(bayes[name], abs=4 * sem)


def test_bayes_error_in_the_limits():
    clear = Procedural(**TINY | {"noise": 0.05}).bayes(500)
    assert clear["error"] == pytest.approx(0, abs=1e-9) and clear["nats"] == pytest.approx(0, abs=1e-9)
    noise_alone = Procedural(**TINY | {"noise": 100.0}).bayes(500)
    assert noise_alone["error"] == pytest.approx(2 / 3, abs=0.01) and noise_alone["nats"] == pytest.approx(
        np.log(3), abs=0.01
    )
    noisy = Procedural(**TINY | {"noise": 0.05, "label_noise": 0.3}).bayes(500)
    kept = 0.7 + 0.1
    assert noisy["error"] == pytest.approx(0.2, abs=1e-6)
    assert noisy["nats"] == pytest.approx(-kept * np.log(kept) - 0.2 * np.log(0.1), abs=1e-6)
    world = Procedural(**TINY)
    few, many = world.bayes(400, seed=1), world.bayes(6400, seed=2)
    assert few["error"] != many["error"] and few["samples"] == 400
    assert few["error_sem"] == pytest.approx(4 * many["error_sem"], rel=0.2)


def test_images_are_shifted_signed_patterns_under_noise():
    """Without noise each image is a view of its pattern; with it, the rest is Gaussian of the stated deviation."""
    clean = Procedural(**TINY | {"noise": 0.0})
    images, labels = clean.draw(7, np.arange(400))
    patterns = np.einsum("pcw,whv->phvc", clean.weights, clean.waves)
    assert patterns.mean(axis=(1, 2)) == pytest.approx(0, abs=1e-5)
    assert np.square(patterns).mean(axis=(1, 2, 3)) == pytest.approx(1, rel=1e-5)
    steps = (-1, 0, 1)
    moved = [np.roll(patterns, (down, across), axis=(1, 2)) for down in steps for across in steps]
    views = np.concatenate([sign * part for part in moved for sign in (1, -1)])
    owner = np.tile(np.repeat(np.arange(3), 4), 18)
    distance = np.abs((images[:, None] - 127.5) / clean.unit - views).max(axis=(2, 3, 4))
    assert distance.min(axis=1).max() <= 0.51 / clean.unit
    assert np.array_equal(owner[distance.argmin(axis=1)], labels)
    assert len(set(distance.argmin(axis=1))) > 100  # of the 216
    noisy = Procedural(**TINY | {"species": 1, "shift": 0, "negatives": False})
    images, labels = noisy.draw(7, np.arange(5000))
    expected = np.einsum("pcw,whv->phvc", noisy.weights, noisy.waves)[labels]
    rest = ((images - 127.5) / noisy.unit - expected).ravel()
    assert rest.mean() == pytest.approx(0, abs=0.02) and rest.std() == pytest.approx(2.5, rel=0.01)
    assert np.mean(rest**4) / np.mean(rest**2) ** 2 == pytest.approx(3, abs=0.1)
    assert np.corrcoef(rest[:-1], rest[1:])[0, 1] == pytest.approx(0, abs=0.01)


def test_rarer_patterns_are_rarer():
    world = Procedural(**TINY | {"species": 50, "exponent": 0.7})
    assert world.rates.sum() == pytest.approx(1) and world.rates[9] / world.rates[0] == pytest.approx(10**-1.7)
    chosen = world._choices(3, np.arange(100_000))
    counts = np.bincount(chosen["pattern"], minlength=150).reshape(3, 50)
    expected = 100_000 / 3 * world.rates
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 3).all()
    swapped = Procedural(**TINY | {"label_noise": 0.5})._choices(3, np.arange(20_000))
    wrong = np.mean(swapped["label"] != swapped["pattern"] // 4)
    assert wrong == pytest.approx(0.5 * 2 / 3, abs=0.02)


def test_splits(tmp_path):
    found = datasets.load(section(tmp_path))
    train, held, test = (found.split(name) for name in ("train", "validation", "test"))
    assert train.size is None and held.size == test.size == HELD_IMAGES
    few = np.arange(64)
    drawn = {part.images(few).tobytes() for part in (train, held, test)}
    assert len(drawn) == 3 and len(np.unique(test.images(np.arange(1000)), axis=0)) == 1000
    assert np.array_equal(test.labels(few), test.read(few)[1])
    assert np.array_equal(test.images(few[5:9]), test.images(few)[5:9])
    pixels = train.images(np.arange(5000)) / 255
    assert pixels.mean() == pytest.approx(found.mean[0], abs=0.002) and len(found.mean) == 2
    assert pixels.std() == pytest.approx(found.std[0], rel=0.01)
    with pytest.raises(IndexError):
        test.labels(np.array([HELD_IMAGES]))


def test_batches_are_functions_of_seed_and_step(tmp_path):
    train = datasets.load(section(tmp_path)).split("train")
    whole = train.batch(1, 5, 32)
    assert whole["image"].shape == (32, 6, 6, 2) and whole["label"].dtype == np.int32
    rows = train.batch(1, 5, 32, slice(8, 16))
    assert all(np.array_equal(rows[name], whole[name][8:16]) for name in whole)
    others = [train.batch(2, 5, 32), train.batch(1, 6, 32)]
    assert not any(np.array_equal(other["image"], whole["image"]) for other in others)


def test_golden():
    """Frozen: a change of these numbers changes what recorded runs were trained on."""
    world = Procedural()
    images, labels = world.draw(world.key("train"), np.arange(3))
    assert labels.tolist() == [3, 7, 3] and images[0, 0, :6, 0].tolist() == [86, 115, 138, 94, 135, 129]


def test_head_and_facts(tmp_path):
    data = section(tmp_path)
    assert datasets.head(data) == ((6, 6, 2), 3) and not list(tmp_path.iterdir())
    facts = datasets.load(data).facts()
    assert (facts["train_images"], facts["test_images"]) == (None, HELD_IMAGES)
    assert 0.05 < facts["bayes_error"] < 0.6 and 0 < facts["bayes_error_sem"] < 0.01 and facts["bayes_nats"] > 0.1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert datasets.load(data).facts() == facts
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before
    assert datasets.load(section(tmp_path, world=1)).hash != facts["data_hash"]


def test_limits_are_nested(tmp_path):
    def images(limit, seed=0):
        data = section(tmp_path)
        data.limit, data.seed = limit, seed
        train = datasets.load(data).split("train")
        assert train.size == limit
        return {image.tobytes() for image in train.images(np.arange(limit))}

    assert images(20) < images(50) and len(images(50)) == 50 and not images(20) & images(20, seed=1)
    data = section(tmp_path)
    data.limit = 20
    train = datasets.load(data).split("train")
    epochs = np.concatenate([train.batch(0, k, 10)["image"] for k in range(4)]).reshape(2, 20, -1)
    assert {image.tobytes() for image in epochs[0]} == {image.tobytes() for image in epochs[1]} == images(20)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"size": 2}, "data.dataset_args.size: dataset procedural wants 3 to 1024, got 2"),
        ({"num_classes": 1}, "data.dataset_args.num_classes"),
        ({"species": 0}, "data.dataset_args.species: dataset procedural wants 1 to 16777216, got 0"),
        ({"species": 1 << 24, "size": 16}, "data.dataset_args.species: 16,777,216 patterns of 3 classes take "),
        ({"frequency": 3}, "data.dataset_args.frequency: dataset procedural wants 1 to 2, got 3"),
        ({"shift": 4}, "data.dataset_args.shift: dataset procedural wants 0 to 3, got 4"),
        ({"noise": -1.0}, "data.dataset_args.noise"),
        ({"label_noise": 1.5}, "data.dataset_args.label_noise"),
        ({"path": "x"}, "data.dataset_args.path: dataset procedural has no such argument"),
    ],
)
def test_arguments_that_are_refused(tmp_path, args, message):
    with pytest.raises(BadInput) as caught:
        datasets.load(section(tmp_path, **args))
    assert message in str(caught.value) and "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("key", "value"), [("test", 0.1), ("validation", 0.1), ("folds", 3), ("limit", 2)])
def test_cuts_that_are_refused(tmp_path, key, value):
    data = section(tmp_path)
    data[key] = value
    with pytest.raises(BadInput, match=f"^data.{key}: "):
        datasets.load(data)


def test_every_field_is_an_argument():
    assert {field.name for field in dataclasses.fields(Procedural)} <= set(datasets.defaults().dataset_args)
