"""A dataset as training sees it: splits of labelled images, and batches by a keyed permutation."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from training import permutation
from training.errors import BadInput
from training.types import Record

Rows = slice | Int[np.ndarray, " rows"]


class Split(abc.ABC):
    """Labelled images by index.

    Attributes:
      name: of dataset and split, for messages.
      count: images in it; where it never ends, more than any run reads.
      endless: whether that is so.
    """

    name: str
    count: int
    endless: bool = False

    @property
    def size(self) -> int | None:
        """Images in the split, None where it never ends."""
        return None if self.endless else self.count

    @abc.abstractmethod
    def read(
        self, indices: Int[np.ndarray, " rows"]
    ) -> tuple[UInt8[np.ndarray, "rows height width channels"], Int32[np.ndarray, " rows"]]:
        """Images and labels, of indices in [0, count)."""

    def images(self, indices: Int[np.ndarray, " rows"]) -> UInt8[np.ndarray, "rows height width channels"]:
        """The images of indices in [0, count)."""
        return self.read(indices)[0]

    def labels(self, indices: Int[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
        """The labels of indices in [0, count)."""
        return self.read(indices)[1]

    def batch(self, seed: int, k: int, batch_size: int, rows: Rows = slice(None)) -> dict[str, np.ndarray]:
        """Rows of global batch k, "image" and "label"; see `training.permutation.batch`.

        Args:
          seed: names the order of the data.
          k: global step, from 0.
          batch_size: images a global batch.
          rows: which rows of the batch.

        Raises:
          BadInput: the split holds less than one batch.
        """
        if self.count < batch_size:
            raise BadInput(f"{self.name}: {self.count:,} images are less than one batch of {batch_size}")
        images, labels = self.read(permutation.batch(seed, k, batch_size, self.count, rows))
        return {"image": images, "label": labels}


@dataclasses.dataclass(frozen=True)
class Part(Split):
    """Some of the images of a prepared split.

    Args:
      name: of dataset and split, for messages.
      pixels: all images of the prepared split, often memory-mapped.
      numbers: their labels.
      chosen: which of them, in order; None: all.
    """

    name: str
    pixels: UInt8[np.ndarray, "all height width channels"]
    numbers: Int32[np.ndarray, " all"]
    chosen: Int[np.ndarray, " count"] | None = None

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.numbers if self.chosen is None else self.chosen)

    def read(self, indices: Int[np.ndarray, " rows"]) -> Any:
        if len(indices) and (np.min(indices) < 0 or np.max(indices) >= self.count):
            raise IndexError(f"{self.name}: an image outside [0, {self.count})")
        at = indices if self.chosen is None else self.chosen[indices]
        return self.pixels[at], self.numbers[at]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset of a config's section `data`.

    Args:
      name: as in the config.
      classes: their names, in the order of the labels.
      image: height, width and channels.
      mean, std: of the pixels of every image that is neither for testing nor in a fold that is held out, by channel, in
        units where white is 1.
      hash: of content and cut, in hex.
      splits: "train", and "validation" and "test" where they exist.
      missing: why a split does not exist.
      path: the folder of the prepared images; None where they are drawn as they are read.
      more: further entries of a run's record.
    """

    name: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    splits: Mapping[str, Split]
    missing: Mapping[str, str]
    path: Path | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def split(self, name: str) -> Split:
        """The split "train", "validation" or "test".

        Raises:
          BadInput: the dataset has none of that name; says why.
        """
        if name not in self.splits:
            raise BadInput(self.missing.get(name) or f"dataset {self.name}: no split {name!r}")
        return self.splits[name]

    def facts(self) -> Record:
        """Entries of a run's record; `train_images` is None where they never end."""
        sizes = {f"{name}_images": self.splits[name].size if name in self.splits else 0 for name in SPLITS}
        return {
            "dataset": self.name,
            "data_hash": self.hash,
            "image": list(self.image),
            "num_classes": len(self.classes),
            **sizes,
            **self.more,
        }


SPLITS = ("train", "validation", "test")
