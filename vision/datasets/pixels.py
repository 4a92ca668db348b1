"""Files of images to arrays of bytes, each fitted to one shape, many at once."""

import concurrent.futures
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from training.errors import BadInput

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
# Palettes and bitmaps are unpacked; every other mode must have eight bits a channel.
UNPACKED = {"P": "RGB", "PA": "RGBA", "1": "L"}
BYTES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises of bad files


def decode(
    content: Path | bytes, where: str, size: int | None = None, mode: str | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of an image file.

    Args:
      content: the file, or what is in it.
      where: what messages call it.
      size: None: as it is. Else the shorter side is resized to it (bicubic, antialiased) and the middle of the longer
        one is kept, as images are cropped for evaluation (Krizhevsky et al. 2012).
      mode: Pillow's mode to convert to, as in "RGB"; None: its own.

    Raises:
      BadInput: it cannot be read, or has more than eight bits a channel.
    """
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
            if size is not None:
                image.draft(None, (size, size))  # JPEG: decoded at the least scale that is large enough
            own = UNPACKED.get(image.mode, image.mode)
            if own not in BYTES:  # Pillow would cut them off at 255
                raise BadInput(f"{where}: pixels of mode {image.mode}; want eight bits a channel")
            fitted = fit(image.convert(mode or own), size)
            return np.asarray(fitted).reshape(fitted.height, fitted.width, -1)
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{where}: not an image that can be read ({_first_line(error)})") from None


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """An image with its shorter side resized to `size` and cropped in the middle; as it is without a size."""
    if size is None or image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box)


def read_all(read: Callable[[Any], np.ndarray], items: Sequence[Any]) -> list[np.ndarray]:
    """What `read` makes of each item, by a thread a core: Pillow decodes without holding the interpreter."""
    return list(_pool().map(read, items))


_pools: dict[int, concurrent.futures.ThreadPoolExecutor] = {}


def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """One pool a process; a forked child makes its own."""
    if os.getpid() not in _pools:
        _pools[os.getpid()] = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    return _pools[os.getpid()]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
