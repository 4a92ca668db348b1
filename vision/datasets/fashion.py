"""Fashion-MNIST from its Debian package, in MNIST's file format (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from training.debian import fetch
from training.errors import BadInput
from vision.datasets.pixels import fit
from vision.datasets.source import Arguments, Examples, Source, of_arrays

PACKAGE = "dataset-fashion-mnist"
FOLDER = "usr/share/datasets/fashion-mnist"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# Images and labels of each split, with the MD5 of the packed files.
FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
        "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
        "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
    },
}
SIDE = 28  # pixels, as they come
UNSIGNED_BYTES = 8  # the type code of IDX files that hold pixels and labels


def source(args: Arguments, cache_dir: Path) -> Source:
    """The dataset `fashion`: 60,000 and 10,000 images, the official split.

    Args:
      args: `path`, a folder that holds the four files; without it they are fetched. `size`: see `pixels.decode`.
      cache_dir: the package is unpacked there.
    """

    size = args.get("size", SIDE)

    def examples() -> dict[str, Examples]:
        folder = (
            Path(args["path"]).expanduser() if "path" in args else fetch(PACKAGE, cache_dir, "data.dataset") / FOLDER
        )
        return {
            split: read(*[checked(folder / name, md5) for name, md5 in files.items()], size=size)
            for split, files in FILES.items()
        }

    identity = FILES if size == SIDE else {"size": size, **FILES}
    return Source("fashion", (size, size, 1), CLASSES, lambda: identity, examples)


def checked(path: Path, md5: str) -> Path:
    """The path of a file whose content is known.

    Raises:
      BadInput: it is missing, or its MD5 is another.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    if found != md5:
        raise BadInput(f"{path}: damaged, its MD5 is {found}, not {md5}")
    return path


def read(images: Path, labels: Path, size: int = SIDE) -> Examples:
    """The examples of two IDX files, the images resized.

    Raises:
      BadInput: one is no such file, or they hold different counts.
    """
    pixels, numbers = idx(images, 3), idx(labels, 1)
    if len(pixels) != len(numbers):
        raise BadInput(f"{labels}: {len(numbers)} labels for the {len(pixels)} images of {images.name}")
    if numbers.max(initial=0) >= len(CLASSES):
        raise BadInput(f"{labels}: label {numbers.max()} is outside the {len(CLASSES)} classes")
    if size != SIDE:
        pixels = np.stack([np.asarray(fit(Image.fromarray(image), size)) for image in pixels])
    return of_arrays(pixels[..., None], numbers.astype(np.int32))


def idx(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file, packed with gzip.

    The file begins with two zero bytes, the type and the number of axes, then their lengths as big-endian integers
    (LeCun, Cortes, Burges 1998, The MNIST database).

    Raises:
      BadInput: it is no such file; says why.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: damaged ({getattr(error, 'strerror', None) or error})") from None
    if raw[:4] != bytes([0, 0, UNSIGNED_BYTES, axes]):
        raise BadInput(f"{path}: not an IDX file of bytes with {axes} axes (it begins with {raw[:4].hex()})")
    start = 4 + 4 * axes
    shape = np.frombuffer(raw[4:start].ljust(4 * axes, b"\0"), ">u4").tolist()
    if len(raw) - start != np.prod(shape):
        raise BadInput(f"{path}: damaged, {len(raw) - start} bytes where its header says {'x'.join(map(str, shape))}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
