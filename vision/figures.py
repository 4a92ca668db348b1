"""What a classifier looks at, as figures: first-layer filters, attention, and which classes it takes for which."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILTERS = 64  # shown at most, the largest first


def filters(kernel: Float[np.ndarray, "height width channels filters"]) -> "Figure":
    """The filters of a first layer, each between its own extremes; of grey or three channels in colour, else their mean."""
    height, width, channels, _ = kernel.shape
    order = np.argsort(-np.square(kernel).sum(axis=(0, 1, 2)))[:FILTERS]
    columns = int(np.ceil(np.sqrt(len(order))))
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(6, 6 * np.ceil(len(order) / columns) / columns * height / width + 0.4), layout="constrained"
    )
    grid = figure.subplots(int(np.ceil(len(order) / columns)), columns, squeeze=False)
    for place in grid.ravel():
        place.set_axis_off()
    for place, index in zip(grid.ravel(), order, strict=False):
        one = kernel[..., index] if channels == 3 else kernel[..., index].mean(axis=2)
        place.imshow((one - one.min()) / max(float(np.ptp(one)), 1e-12), cmap="gray", interpolation="nearest")
    figure.suptitle(
        f"{len(order)} of {kernel.shape[3]} first-layer filters, {height} x {width}, the largest first", fontsize=9
    )
    return figure


def attention(
    images: Float[np.ndarray, "images height width channels"],
    maps: Float[np.ndarray, "depth images down across"],
) -> "Figure":
    """Where each block looks, by image: the attention that each patch receives, over the mean of its block."""
    count, depth = len(images), len(maps)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * (depth + 1), 1.15 * count + 0.5), layout="constrained")
    grid = figure.subplots(count, depth + 1, squeeze=False)
    for row, image in enumerate(images):
        for column, place in enumerate(grid[row]):
            place.set_xticks([])
            place.set_yticks([])
            shown = image if image.shape[2] == 3 else image[..., 0]
            extent = (0, image.shape[1], image.shape[0], 0)
            place.imshow(shown, cmap="gray", extent=extent, vmin=0, vmax=1)
            if column:
                received = maps[column - 1, row] / maps[column - 1, row].mean()
                place.imshow(
                    received, cmap="viridis", extent=extent, vmin=0, vmax=3, alpha=0.7, interpolation="nearest"
                )
            if not row:
                place.set_title("image" if not column else f"block {column}", fontsize=8)
    figure.suptitle("attention that a patch receives\n(yellow: three times its share)", fontsize=8)
    return figure


def confusion(table: Int[np.ndarray, "classes classes"], names: tuple[str, ...]) -> "Figure":
    """The share of each class's images (rows) that are taken for each class (columns); numbers up to 12 classes."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.42 * min(len(names), 20)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size, size), layout="constrained")
    place: Any = figure.subplots()
    place.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 62:
        place.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        place.set_yticks(range(len(names)), names, fontsize=7)
    place.set_xlabel("predicted")
    place.set_ylabel("label")
    for (row, column), value in np.ndenumerate(table):
        if value and len(names) <= 12:
            dark = share[row, column] > 0.5
            place.text(
                column, row, str(value), ha="center", va="center", fontsize=7, color="white" if dark else "black"
            )
    return figure
