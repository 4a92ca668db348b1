"""Image datasets by name: each is prepared on first use as memory-mapped arrays, and cut by the config.

To add one, write a function (arguments, cache folder) -> Source and give it a row in `DATASETS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training import cache
from training.errors import BadInput, nearest
from training.types import Record
from vision.datasets import catalogue, cut, fashion, folder, glyphs, packaged, procedural, store
from vision.datasets.dataset import Dataset, Split
from vision.datasets.procedural import Procedural
from vision.datasets.source import Arguments, Source

__all__ = ["Dataset", "Procedural", "Split", "defaults", "head", "load", "open_source", "prepare"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A dataset that comes without TFDS's catalogue.

    Args:
      summary: one line for people.
      source: opens it, given its arguments and the cache folder.
      arguments: the keys of `data.dataset_args` that it reads.
    """

    summary: str
    source: Callable[[Arguments, Path], Source] | Callable[[Mapping[str, Any], Path], Procedural]
    arguments: tuple[str, ...] = ()


DATASETS: dict[str, Row] = {
    "fashion": Row("Fashion-MNIST, 60,000 and 10,000 of 28 x 28", fashion.source, ("path", "size")),
    **{
        table.name: Row(f"{table.count:,} handwritten digits of {table.side} x {table.side}", packaged.opener(table))
        for table in packaged.TABLES
    },
    "folder": Row("any folder of image files, a subfolder a class", folder.source, ("path", "size", "channels")),
    "glyphs": Row("62 letters and digits in Debian's fonts", glyphs.source, ("packages", "path", "size")),
    "procedural": Row("endless drawn images whose Bayes error is known", procedural.source, procedural.ARGUMENTS),
}

# All keys of `data.dataset_args`, with their types.
ARGUMENTS: dict[str, type] = {
    **dict.fromkeys(("path", "packages", *catalogue.ARGUMENTS), str),
    **{field.name: field.type for field in dataclasses.fields(Procedural)},  # type: ignore[dict-item]
    "size": int,
}


def defaults() -> ConfigDict:
    """The config section `data`."""
    return ConfigDict(
        {
            "dataset": "fashion",  # a row of DATASETS, or a name of TFDS's catalogue
            "dataset_args": {name: placeholder(kind) for name, kind in ARGUMENTS.items()},
            "seed": 0,  # of the splits and subsets below, and of the order of the training data
            "test": placeholder(float),  # share held out where there is no official test split; None: 0.2
            "validation": 0.0,  # share of the training images held out for choosing
            "folds": 0,  # cross-validation: fold i of K is the validation split
            "fold": 0,
            "limit": placeholder(int),  # train on that many images only
            "cache_dir": placeholder(str),  # None: $ISOFLOP_CACHE, else ~/.cache/isoflop
        }
    )


def open_source(data: ConfigDict) -> Source | Procedural:
    """The dataset that a config's section `data` names, before anything is prepared.

    Raises:
      BadInput: there is no such dataset, or an argument that it does not read.
    """
    name = data.dataset
    given = cast(Arguments, {key: value for key, value in data.dataset_args.items() if value is not None})
    row = DATASETS.get(name)
    allowed = row.arguments if row else catalogue.ARGUMENTS
    for key in given:
        if key not in allowed:
            if guess := nearest(name, DATASETS) if row is None else "":
                raise BadInput(f"data.dataset: no dataset {name!r}{guess}")
            reads = f"it reads {', '.join(allowed)}" if allowed else "it reads none"
            raise BadInput(f"data.dataset_args.{key}: dataset {name} has no such argument ({reads})")
    size = given.get("size")
    if size is not None and size < 1:
        raise BadInput(f"data.dataset_args.size: must be at least 1, got {size}")
    return row.source(given, cache.folder(data.cache_dir)) if row else catalogue.source(name, given, DATASETS)


def head(data: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """Height, width and channels of an image, and the number of classes; nothing is fetched or prepared.

    Raises:
      BadInput: as `open_source`.
    """
    source = open_source(data)
    return source.image, len(source.classes)


def load(data: ConfigDict, show: bool = True, verify: bool = False) -> Dataset:
    """The dataset of a config's section `data`, prepared first where it is not there yet.

    Args:
      data: as `defaults`.
      show: a progress bar, where standard error is a terminal.
      verify: hash every file of what is there.

    Raises:
      BadInput: whatever is wrong with the section, the source, its files or what was prepared.
    """
    cut.check(data)
    source = open_source(data)
    if isinstance(source, Procedural):
        return procedural.dataset(source, data, cache.folder(data.cache_dir))
    return cut.cut(store.prepare(source, cache.folder(data.cache_dir) / "images", show, verify), data)


def prepare(data: ConfigDict, verify: bool = False) -> Record:
    """What `isoflop prepare` shows of a config's section `data`, prepared first where it is not there yet; see
    `training.task.Family.prepare`."""
    found = load(data, verify=verify)
    return {
        "name": found.name,
        "path": str(found.path) if found.path else None,
        **{key: value for key, value in found.facts().items() if not key.endswith("_images")},
        "classes": list(found.classes),
        "splits": {name: {"images": split.size} for name, split in found.splits.items()},
    }
