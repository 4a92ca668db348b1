"""What a dataset is before it is prepared: what is known of it at once, and examples that can be read by index."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
from jaxtyping import Int, Int32, UInt8

from training.types import Value

Read = Callable[
    [Int[np.ndarray, " rows"]],
    tuple[UInt8[np.ndarray, "rows height width channels"], Int32[np.ndarray, " rows"]],
]


class Arguments(TypedDict, total=False):
    """What a config's `data.dataset_args` can give: each dataset reads some of these."""

    path: str
    packages: str
    size: int
    channels: int
    train_split: str
    test_split: str
    image_key: str
    label_key: str
    data_dir: str


@dataclasses.dataclass(frozen=True)
class Examples:
    """One split of a source.

    Args:
      count: images in it.
      read: images and labels by index.
    """

    count: int
    read: Read


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images somewhere on this machine, or to be fetched.

    Args:
      name: what messages and folders call it.
      image: height, width and channels of an image.
      classes: their names, in the order of the labels.
      identity: gives a JSON value; sources with equal identities hold the same examples.
      examples: opens the splits "train" and, where the source has one, "test".
    """

    name: str
    image: tuple[int, int, int]
    classes: tuple[str, ...]
    identity: Callable[[], Value]
    examples: Callable[[], Mapping[str, Examples]]


def of_arrays(
    images: UInt8[np.ndarray, "count height width channels"], labels: Int32[np.ndarray, " count"]
) -> Examples:
    """Examples that lie in memory."""
    return Examples(len(labels), lambda indices: (images[indices], labels[indices]))
