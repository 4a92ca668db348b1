"""Prepared images: a folder of memory-mapped arrays, all of one shape, that every process of this machine shares.

Every source is decoded once, whatever its size. Normalisation and the hash of the content need a whole pass over the
images anyhow; what that pass decodes is kept, and a batch is then a gather that no step ever waits for. An ImageNet of
224 x 224 takes 193 GB, about as much as its JPEG files.

The folder holds `manifest.json` and, a split, `images.npy`, `labels.npy` and `sums.npy`: each image's sum and sum of
squares by channel, so that the mean of any part of a split costs nothing.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from training import cache
from training.errors import BadInput
from training.files import read_object, write_json
from training.types import Value
from vision.datasets.source import Examples, Source

FORMAT = 1
BLOCK = 64 << 20  # bytes of images that are written together; a build that was cut goes on from the last block


@dataclasses.dataclass(frozen=True)
class Store:
    """A prepared dataset.

    Args:
      path: its folder.
      manifest: what `manifest.json` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        """ "train" and, where the source has one, "test"."""
        return tuple(self.manifest["splits"])

    def images(self, split: str) -> UInt8[np.ndarray, "count height width channels"]:
        """The images of a split, memory-mapped."""
        return self._array(split, "images")

    def labels(self, split: str) -> Int32[np.ndarray, " count"]:
        """The labels of a split."""
        return self._array(split, "labels")

    def sums(self, split: str) -> Int[np.ndarray, "count 2 channels"]:
        """Sum and sum of squares of each image's pixels, by channel."""
        return self._array(split, "sums")

    def content(self, split: str) -> str:
        """The hash of a split's images and labels, in hex."""
        files = self.manifest["splits"][split]["files"]
        return cache.digest([entry["sha256"] for entry in files[:2]])

    def _array(self, split: str, name: str) -> np.ndarray:
        # Slices of a plain array are cheaper than of a memmap.
        return np.asarray(np.load(self.path / f"{split}-{name}.npy", mmap_mode="r"))


def prepare(source: Source, folder: Path, show: bool = True, verify: bool = False) -> Store:
    """The store of a source under `folder`, built first where it is not there yet.

    Of several processes that ask for one store, one builds it and the others wait.

    Args:
      source: the images.
      folder: of all stores.
      show: a progress bar, where standard error is a terminal.
      verify: hash every file of a store that is there.

    Raises:
      BadInput: a source that cannot be read, images of another shape, labels out of range, a class without an image, a
        full disk, or a damaged file.
    """
    definition = {
        "format": FORMAT,
        "dataset": source.name,
        "image": list(source.image),
        "classes": list(source.classes),
        "identity": source.identity(),
    }
    path = folder / f"{source.name.replace('/', '_').replace(':', '_')}-{cache.digest(definition)[:12]}"
    if not path.is_dir():
        with cache.alone(path):
            if not path.is_dir():
                _build(path, source, definition, show)
    manifest = read_object(path / "manifest.json", "format", "classes", "image", "splits")
    cache.check(path, [entry for split in manifest["splits"].values() for entry in split["files"]], verify)
    return Store(path, manifest)


def _build(path: Path, source: Source, definition: Mapping[str, Value], show: bool) -> None:
    splits = source.examples()
    each = int(np.prod(source.image))
    needed = sum(split.count for split in splits.values()) * each
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadInput(f"{path}: dataset {source.name} takes {needed >> 20:,} MiB, and {free >> 20:,} are free")
    with cache.building(path) as partial, cache.progress(show) as bar:
        task = bar.add_task(f"decoding {source.name}", total=needed)
        entries = {}
        for name, examples in splits.items():
            files = _write_split(partial, name, source, examples, lambda rows: bar.advance(task, rows * each))
            entries[name] = {"count": examples.count, "files": [cache.describe(file) for file in files]}
        write_json(partial / "manifest.json", {**definition, "splits": entries})


def _write_split(
    partial: Path, name: str, source: Source, examples: Examples, advance: Callable[[int], None]
) -> list[Path]:
    """Append a split's arrays block by block, from where an earlier build stopped."""
    if not examples.count:
        raise BadInput(f"dataset {source.name}: its split {name!r} is empty")
    height, width, channels = source.image
    columns = {
        "images": _Column(partial / f"{name}-images.npy", (examples.count, height, width, channels), np.uint8),
        "labels": _Column(partial / f"{name}-labels.npy", (examples.count,), np.int32),
        "sums": _Column(partial / f"{name}-sums.npy", (examples.count, 2, channels), np.int64),
    }
    step = max(1, BLOCK // (height * width * channels))
    done = min(column.rows() for column in columns.values())
    advance(done)
    for start in range(done, examples.count, step):
        images, labels = examples.read(np.arange(start, min(start + step, examples.count)))
        _check(source, name, start, images, labels)
        for key, rows in {"images": images, "labels": labels, "sums": _sums(images)}.items():
            columns[key].append(start, rows)
        advance(len(labels))
    labels = np.load(partial / f"{name}-labels.npy")
    absent = np.flatnonzero(np.bincount(labels, minlength=len(source.classes)) == 0)
    if name == "train" and len(absent):
        raise BadInput(f"dataset {source.name}: class {source.classes[absent[0]]!r} has no training image")
    return [column.path for column in columns.values()]


def _check(source: Source, split: str, start: int, images: np.ndarray, labels: np.ndarray) -> None:
    """Sources name the file at fault themselves; this is for those whose arrays are wrong."""
    if images.shape[1:] != source.image or images.dtype != np.uint8:
        found = f"{images.dtype} {images.shape[1:]}"
        raise BadInput(f"dataset {source.name}: images of {found}, where uint8 {source.image} was expected")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
    if len(wrong):
        raise BadInput(
            f"dataset {source.name}: image {start + wrong[0]} of split {split!r} has the label {labels[wrong[0]]}, "
            f"outside the {len(source.classes)} classes"
        )


def _sums(images: UInt8[np.ndarray, "rows height width channels"]) -> Int[np.ndarray, "rows 2 channels"]:
    values = images.reshape(len(images), -1, images.shape[-1])
    wide = values.astype(np.uint32)
    return np.stack([wide.sum(axis=1, dtype=np.int64), (wide * wide).sum(axis=1, dtype=np.int64)], axis=1)


@dataclasses.dataclass(frozen=True)
class _Column:
    """A `.npy` file that grows by rows; its size says how far it is."""

    path: Path
    shape: tuple[int, ...]
    dtype: Any

    @property
    def _row(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def _begin(self) -> int:
        """Bytes of the header, which is written where it is not there yet."""
        if not self.path.is_file():
            header = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
            cache.write(self.path, lambda file: np.lib.format.write_array_header_2_0(file, header))
        with self.path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_2_0(file)
            return file.tell()

    def rows(self) -> int:
        """Whole rows that are there."""
        return (self.path.stat().st_size - self._begin()) // self._row if self.path.is_file() else 0

    def append(self, start: int, rows: np.ndarray) -> None:
        """Write rows from row `start` on."""
        place = self._begin() + start * self._row
        with self.path.open("r+b") as file:
            file.truncate(place)
            file.seek(place)
            file.write(np.ascontiguousarray(rows, self.dtype).data)
            file.flush()
            os.fsync(file.fileno())
