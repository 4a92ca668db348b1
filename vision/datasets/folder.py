"""A folder of image files, one subfolder a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training import cache
from training.errors import BadInput
from training.types import Value
from vision.datasets import pixels
from vision.datasets.source import Arguments, Examples, Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN, TEST = "train", ("test", "val")

Files = dict[str, list[tuple[Path, int]]]  # split -> files with their labels


def source(args: Arguments, cache_dir: Path) -> Source:
    """The dataset `folder`, known by the names, sizes and times of its files.

    Args:
      args: `path`, a folder of `train/<class>/*` and perhaps `test/<class>/*` (or `val`), or of `<class>/*`, which has
        no test split of its own. Hidden files and those that are no images by their ending do not count. `size`: see
        `pixels.decode`; `channels`: 1 makes all images grey, 3 gives all of them colours. Without these, all images must
        have one shape.
      cache_dir: not used.

    Raises:
      BadInput: no path, no classes, an empty class, other channels than 1 or 3, or a first image that cannot be read.
    """
    if "path" not in args:
        raise BadInput("data.dataset_args.path: dataset folder needs it, a folder of train/<class>/* or <class>/*")
    root, size, channels = Path(args["path"]).expanduser(), args.get("size"), args.get("channels")
    if channels not in (None, 1, 3):
        raise BadInput(f"data.dataset_args.channels: dataset folder wants 1 or 3, got {channels}")
    mode = None if channels is None else pixels.MODES[channels]
    classes, files = find(root)
    first = files["train"][0][0]
    shape = pixels.decode(first, str(first), size, mode).shape

    def read_file(path: Path) -> np.ndarray:
        found = pixels.decode(path, str(path), size, mode)
        if found.shape != shape:
            key = "size" if found.shape[2] == shape[2] else "channels"
            said = f"{path} is {_said(found.shape)}, but {first} is {_said(shape)}"
            raise BadInput(f"{said}; data.dataset_args.{key} makes them one")
        return found

    def examples(named: Sequence[tuple[Path, int]]) -> Examples:
        labels = np.array([label for _, label in named], np.int32)

        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.stack(pixels.read_all(read_file, [named[i][0] for i in indices.tolist()])), labels[indices]

        return Examples(len(named), read)

    def identity() -> Value:
        stats = [(path, path.stat()) for split in files.values() for path, _ in split]
        states = [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        made = {} if channels is None else {"channels": channels}
        return {"root": str(root.resolve()), "files": len(states), "sha256": cache.digest(states), **made}

    return Source(
        "folder", shape, classes, identity, lambda: {split: examples(found) for split, found in files.items()}
    )


def find(root: Path) -> tuple[tuple[str, ...], Files]:
    """The classes of a folder, sorted by name, and the files of each split.

    Raises:
      BadInput: no folder, no class, an empty class, or other classes in the test split.
    """
    if not root.is_dir():
        raise BadInput(f"data.dataset_args.path: no folder {root}")
    split = (root / TRAIN).is_dir()
    folders = {"train": root / TRAIN if split else root}
    held = next((root / name for name in TEST if (root / name).is_dir()), None)
    if split and held:
        folders["test"] = held
    by_class = {name: _classes(folder) for name, folder in folders.items()}
    classes = tuple(by_class["train"])
    if not classes:
        raise BadInput(f"{folders['train']}: holds no folder of a class")
    for found in by_class.values():
        if tuple(found) != classes:
            odd = sorted(set(found) ^ set(classes))[0]
            raise BadInput(
                f"{folders['test']}: its classes are not those of {folders['train']} ({odd!r} is in one alone)"
            )
    numbered = {name: enumerate(found.values()) for name, found in by_class.items()}
    return classes, {
        name: [(path, label) for label, paths in found for path in paths] for name, found in numbered.items()
    }


def _classes(folder: Path) -> dict[str, list[Path]]:
    found = {
        inner.name: sorted(path for path in inner.iterdir() if _is_image(path))
        for inner in sorted(folder.iterdir())
        if inner.is_dir() and not inner.name.startswith(".")
    }
    for name, paths in found.items():
        if not paths:
            raise BadInput(f"{folder / name}: an empty class, there is no image in it")
    return found


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} with {shape[2]} channel{'s' * (shape[2] > 1)}"
