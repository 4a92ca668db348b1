"""A prepared dataset cut into training, validation and test images: stratified by class, nested, named by a seed."""

import hashlib

import numpy as np
from jaxtyping import Int, Int32
from ml_collections import ConfigDict

from training import cache
from training.errors import BadInput
from training.permutation import fold, permute
from vision.datasets.dataset import Dataset, Part
from vision.datasets.store import Store

TEST = 0.2  # share of the images of a dataset without an official split
PURPOSES = {"data.test": 0, "data.validation": 1, "data.limit": 2, "data.folds": 3}


def cut(store: Store, data: ConfigDict) -> Dataset:
    """The dataset of a config's section `data`.

    Raises:
      BadInput: a share, a fold or a limit that the images do not allow.
    """
    name, classes = store.manifest["dataset"], tuple(store.manifest["classes"])
    official = "test" in store.splits
    check(data)
    if official and data.test is not None:
        raise BadInput(f"data.test: dataset {name} has an official test split; leave it out")
    labels = store.labels("train")
    kept, test = np.arange(len(labels)), np.arange(0)
    if not official:
        test, kept = _part(labels, kept, TEST if data.test is None else data.test, "data.test", data.seed)
    train, validation = kept, np.arange(0)
    if data.folds:
        validation, train = _fold(labels, kept, data)
    elif data.validation:
        validation, train = _part(labels, kept, data.validation, "data.validation", data.seed)
    if data.limit is not None:
        train = _limited(labels, train, len(classes), data)
    for key, part in (("data.test", kept), ("data.folds" if data.folds else "data.validation", train)):
        absent = np.flatnonzero(np.bincount(labels[part], minlength=len(classes)) == 0)
        if len(absent):
            raise BadInput(f"{key}: leaves no training image of class {classes[absent[0]]!r} of dataset {name}")
    pixels = store.images("train")
    parts = {"train": train, "validation": validation} | ({} if official else {"test": test})
    splits: dict[str, Part] = {
        split: Part(f"dataset {name} ({split})", pixels, labels, part if len(part) < len(labels) else None)
        for split, part in parts.items()
        if len(part)
    }
    if official:
        splits["test"] = Part(f"dataset {name} (test)", store.images("test"), store.labels("test"))
    # A fold that is held out is what its run is judged by, and no part of what the run knows.
    seen = np.setdiff1d(kept, validation) if data.folds else kept
    sums = store.sums("train")[seen].sum(axis=0)
    mean, square = sums / (len(seen) * np.prod(store.manifest["image"][:2]) * np.array([[255.0], [255.0**2]]))
    return Dataset(
        name=name,
        classes=classes,
        image=tuple(store.manifest["image"]),
        mean=tuple(mean.tolist()),
        std=tuple(np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1 / 255).tolist()),
        hash=cache.digest(
            [
                {split: store.content(split) for split in store.splits},
                {split: hashlib.sha256(part.astype("<i8").tobytes()).hexdigest() for split, part in parts.items()},
            ]
        ),
        splits=splits,
        missing={
            "validation": "data.validation: 0, so there is no validation split",
            "test": f"data.test: 0, so dataset {name} has no test split",
        },
        path=store.path,
    )


def check(data: ConfigDict) -> None:
    """Raise BadInput where the keys of the section contradict each other, whatever the images."""
    for key in ("test", "validation"):
        if data[key] is not None and not 0 <= data[key] < 1:
            raise BadInput(f"data.{key}: must be a share in [0, 1), got {data[key]}")
    if data.folds == 1 or data.folds < 0:
        raise BadInput(f"data.folds: must be 0 (off) or at least 2, got {data.folds}")
    if not 0 <= data.fold < max(data.folds, 1):
        raise BadInput(
            f"data.fold: {data.fold} is not one of the {data.folds} folds 0 to {data.folds - 1}"
            if data.folds
            else f"data.fold: {data.fold}, but data.folds is 0"
        )
    if data.folds and data.validation:
        raise BadInput("data.validation: a fold is the validation split; give either it or data.folds")
    if data.limit is not None and data.limit < 1:
        raise BadInput(f"data.limit: must be at least 1, got {data.limit}")


def order(labels: Int32[np.ndarray, " count"], key: int) -> Int[np.ndarray, " count"]:
    """Places in an order whose every prefix holds the classes in proportion, to within one image each.

    Each class is shuffled; image r of its n stands at r / n, so that one of every class comes first.

    Args:
      labels: of the images.
      key: names the shuffle.
    """
    shuffled = permute(np.arange(len(labels)), len(labels), key) if len(labels) else np.arange(0)
    by_class = np.argsort(labels[shuffled], kind="stable")
    counts = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled[np.argsort(rank / counts[labels[shuffled]], kind="stable")]


def _ordered(labels: np.ndarray, members: np.ndarray, key: str, seed: int) -> np.ndarray:
    return members[order(labels[members], fold(seed, PURPOSES[key]))]


def _part(labels: np.ndarray, members: np.ndarray, share: float, key: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A share of the members, and the others; both ascending."""
    count = round(share * len(members))
    if share and not 0 < count < len(members):
        raise BadInput(f"{key}: {share} of {len(members)} images is {'none' if not count else 'all of them'}")
    ordered = _ordered(labels, members, key, seed)
    return np.sort(ordered[:count]), np.sort(ordered[count:])


def _fold(labels: np.ndarray, members: np.ndarray, data: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Fold `data.fold`, and the other folds; each holds every class in proportion, to within one image."""
    smallest = np.bincount(labels[members])
    smallest = int(smallest[smallest > 0].min())
    if data.folds > smallest:
        raise BadInput(f"data.folds: {data.folds} folds of a class with {smallest} images")
    shuffled = _ordered(labels, members, "data.folds", data.seed)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.arange(len(by_class)) % data.folds == data.fold
    return np.sort(by_class[held]), np.sort(by_class[~held])


def _limited(labels: np.ndarray, members: np.ndarray, classes: int, data: ConfigDict) -> np.ndarray:
    """The first images of the order; a smaller limit is a part of a larger one."""
    if data.limit > len(members):
        raise BadInput(f"data.limit: {data.limit} images, but there are {len(members)} to train on")
    if data.limit < classes:
        raise BadInput(f"data.limit: {data.limit} images cannot hold {classes} classes")
    return np.sort(_ordered(labels, members, "data.limit", data.seed)[: data.limit])
