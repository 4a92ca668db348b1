"""Cuts of a prepared dataset: stratified, nested, disjoint, named by a seed; and what batches are functions of."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from training.errors import BadInput
from vision import datasets
from vision.datasets import cut, store
from vision.datasets.source import Source, of_arrays

LABELS = np.repeat(np.arange(4, dtype=np.int32), [40, 30, 20, 10])
TEST_LABELS = np.tile(np.arange(4, dtype=np.int32), 5)


def pictures(labels, offset=0):
    """Images of 2 x 3 that say which they are: every pixel is their number."""
    numbers = np.arange(offset, offset + len(labels), dtype=np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (len(labels), 2, 3, 1)).copy()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A set of 100 without an official test split, and one with it."""
    folder = tmp_path_factory.mktemp("stores")
    train = of_arrays(pictures(LABELS), LABELS)
    test = of_arrays(pictures(TEST_LABELS, 100), TEST_LABELS)
    names = tuple("abcd")
    return tuple(
        store.prepare(Source(name, (2, 3, 1), names, lambda: 1, lambda splits=splits: splits), folder)
        for name, splits in (("whole", {"train": train}), ("official", {"train": train, "test": test}))
    )


def section(**keys):
    data = datasets.defaults()
    for key, value in keys.items():
        data[key] = value
    return data


def members(dataset, split) -> set[int]:
    part = dataset.split(split)
    return set(part.images(np.arange(part.size))[:, 0, 0, 0].tolist())


def refused(stores, which=0, **keys) -> str:
    with pytest.raises(BadInput) as caught:
        cut.cut(stores[which], section(**keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_splits_part_the_images_by_class(stores):
    data = cut.cut(stores[0], section(validation=0.25, test=0.2))
    parts = [members(data, name) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [60, 20, 20] and set.union(*parts) == set(range(100))
    for name, counts in {"test": [8, 6, 4, 2], "validation": [8, 6, 4, 2], "train": [24, 18, 12, 6]}.items():
        split = data.split(name)
        assert np.bincount(split.labels(np.arange(split.size))) == pytest.approx(counts, abs=1)
    assert data.facts() == {
        "dataset": "whole",
        "data_hash": data.hash,
        "image": [2, 3, 1],
        "num_classes": 4,
        "train_images": 60,
        "validation_images": 20,
        "test_images": 20,
    }


def test_without_an_official_split_a_fifth_is_for_testing(stores):
    data = cut.cut(stores[0], section())
    assert len(members(data, "test")) == 20
    assert members(cut.cut(stores[0], section(seed=1)), "test") != members(data, "test")
    assert members(cut.cut(stores[0], section(test=0.0)), "train") == set(range(100))


def test_an_official_split_is_left_alone(stores):
    data = cut.cut(stores[1], section(validation=0.1))
    assert members(data, "test") == set(range(100, 120))
    assert members(data, "train") | members(data, "validation") == set(range(100))
    assert members(data, "train") & members(data, "validation") == set()


def test_folds_are_stratified_and_cover_the_training_images(stores):
    whole = cut.cut(stores[0], section(test=0.0, folds=3))
    held = [members(cut.cut(stores[0], section(test=0.0, folds=3, fold=fold)), "validation") for fold in range(3)]
    assert set.union(*held) == set(range(100)) and sum(map(len, held)) == 100
    assert sorted(map(len, held)) == [33, 33, 34]
    for part in held:
        assert np.bincount(LABELS[list(part)]) == pytest.approx(np.array([40, 30, 20, 10]) / 3, abs=1)
    assert members(whole, "train") == set(range(100)) - held[0]
    tested = cut.cut(stores[0], section(test=0.2, folds=5, fold=4))
    assert members(tested, "test") == members(cut.cut(stores[0], section(test=0.2)), "test")
    assert members(tested, "validation") & members(tested, "test") == set()


def test_limits_are_nested_and_leave_the_other_splits_alone(stores):
    cuts = [cut.cut(stores[0], section(validation=0.1, limit=limit)) for limit in (4, 9, 30, 72)]
    sets = [members(data, "train") for data in cuts]
    assert [len(part) for part in sets] == [4, 9, 30, 72]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert all(set(LABELS[list(part)]) == {0, 1, 2, 3} for part in sets)
    assert np.bincount(LABELS[list(sets[2])]) == pytest.approx([12, 9, 6, 3], abs=1)
    assert len({frozenset(members(data, split)) for data in cuts for split in ("validation", "test")}) == 2
    assert len({data.hash for data in cuts}) == 4


def test_normalisation_is_of_every_image_that_is_not_for_testing(stores):
    plain, small = cut.cut(stores[0], section()), cut.cut(stores[0], section(validation=0.3, limit=8))
    numbers = np.array(sorted(members(plain, "train"))) / 255
    assert plain.mean == pytest.approx([numbers.mean()]) and plain.std == pytest.approx([numbers.std()])
    assert (small.mean, small.std) == (plain.mean, plain.std)


def test_normalisation_of_a_run_knows_nothing_of_its_fold(stores):
    folds = [cut.cut(stores[0], section(test=0.0, folds=4, fold=fold)) for fold in range(4)]
    for data in folds:
        numbers = np.array(sorted(members(data, "train"))) / 255
        assert data.mean == pytest.approx([numbers.mean()]) and data.std == pytest.approx([numbers.std()])
    assert len({data.mean for data in folds}) > 1
    small = cut.cut(stores[0], section(test=0.0, folds=4, limit=8))
    assert small.mean == folds[0].mean


def test_the_hash_is_of_content_and_cut(stores):
    of = lambda which=0, **keys: cut.cut(stores[which], section(**keys)).hash
    assert of(test=0.0, seed=1) == of(test=0.0, seed=2)  # nothing was drawn
    assert len({of(), of(seed=1), of(validation=0.1), of(test=0.3), of(which=1), of(limit=8)}) == 6


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda found: np.array(found, np.int32)),
    key=st.integers(0, 2**64 - 1),
)
def test_every_prefix_of_the_order_is_stratified(labels, key):
    order = cut.order(labels, key)
    assert sorted(order.tolist()) == list(range(len(labels)))
    counts = np.bincount(labels)
    for end in range(1, len(labels) + 1):
        share = np.bincount(labels[order[:end]], minlength=len(counts))
        ideal = counts * end / len(labels)
        assert (share <= np.ceil(ideal) + 1).all() and (share >= np.floor(ideal) - (counts > 0).sum()).all()
    present = np.count_nonzero(counts)
    assert len(set(labels[order[:present]])) == present


def test_batches_are_functions_of_seed_and_step(stores):
    train = cut.cut(stores[0], section(test=0.0)).split("train")
    whole = train.batch(3, 7, 16)
    assert (
        whole["image"].shape == (16, 2, 3, 1) and whole["image"].dtype == np.uint8 and whole["label"].dtype == np.int32
    )
    assert np.array_equal(LABELS[whole["image"][:, 0, 0, 0]], whole["label"])
    rows = train.batch(3, 7, 16, slice(4, 9))
    assert all(np.array_equal(rows[name], whole[name][4:9]) for name in whole)
    assert not np.array_equal(train.batch(4, 7, 16)["image"], whole["image"])


def test_each_epoch_shows_every_image_once_in_its_own_order(stores):
    train = cut.cut(stores[0], section(test=0.0)).split("train")
    seen = np.concatenate([train.batch(0, k, 30)["image"][:, 0, 0, 0] for k in range(10)])
    epochs = seen.reshape(3, 100)
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_splits_that_do_not_exist(stores):
    data = cut.cut(stores[0], section(test=0.0))
    for name, message in {
        "validation": "data.validation: 0",
        "test": "data.test: 0",
        "held": "no split 'held'",
    }.items():
        with pytest.raises(BadInput, match=message):
            data.split(name)
    with pytest.raises(BadInput, match="100 images are less than one batch of 128"):
        data.split("train").batch(0, 0, 128)
    with pytest.raises(IndexError):
        data.split("train").images(np.array([100]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test": 1.0}, "data.test: must be a share in [0, 1), got 1.0"),
        ({"test": -0.1}, "data.test: must be a share"),
        ({"validation": 1.5}, "data.validation: must be a share"),
        ({"validation": 0.001}, "data.validation: 0.001 of 80 images is none"),
        ({"test": 0.999}, "data.test: 0.999 of 100 images is all of them"),
        ({"test": 0.97}, "data.test: leaves no training image of class"),
        ({"test": 0.0, "validation": 0.98}, "data.validation: leaves no training image of class"),
        ({"folds": 1}, "data.folds: must be 0 (off) or at least 2, got 1"),
        ({"folds": -2}, "data.folds: must be 0"),
        ({"folds": 5, "fold": 5}, "data.fold: 5 is not one of the 5 folds 0 to 4"),
        ({"fold": -1}, "data.fold: -1, but data.folds is 0"),
        ({"folds": 9}, "data.folds: 9 folds of a class with 8 images"),
        ({"folds": 5, "validation": 0.1}, "data.validation: a fold is the validation split"),
        ({"limit": 0}, "data.limit: must be at least 1"),
        ({"limit": 3}, "data.limit: 3 images cannot hold 4 classes"),
        ({"limit": 81}, "data.limit: 81 images, but there are 80 to train on"),
        ({"which": 1, "test": 0.1}, "data.test: dataset official has an official test split"),
        ({"which": 1, "test": 0.0}, "data.test: dataset official has an official test split"),
    ],
)
def test_cuts_that_are_refused(stores, keys, message):
    assert message in refused(stores, **keys)
