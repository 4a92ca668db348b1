"""A sheet of what augmentation does to images: the images as they are, then a row for each setting or operation.

Examples:
  python -m vision.sheet --dataset=mnist5k --out=sheet.png
  python -m vision.sheet --images cat.jpg dog.jpg --size=96 --operations --out=operations.png
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from training.errors import BadInput
from vision import augment, datasets
from vision.augment import Augment, operations
from vision.datasets import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = Float[np.ndarray, "count height width channels"]
Rows = dict[str, tuple[Images, list[str]]]  # by label, with a note under each image or none

SUFFIXES = (".png", ".svg", ".pdf")
SIDE = 0.9  # inches of an image's width
GAP = 0.16  # between images, in widths


def settings(side: int) -> list[Augment]:
    """Each augmentation alone, strong enough to see on images of so many pixels, and many together."""
    crop = max(side // 8, 1)
    return [
        *(Augment(), Augment(flip=True), Augment(crop=crop), Augment(resized_crop=0.2), Augment(rotate=30.0)),
        *(Augment(shear=20.0), Augment(zoom=0.4), Augment(colour=0.6), Augment(randaugment=2), Augment(erase=1.0)),
        *(Augment(mixup=1.0), Augment(cutmix=1.0)),
        Augment(flip=True, crop=crop, rotate=15.0, colour=0.4, erase=0.25, mixup=0.2, cutmix=1.0),
    ]


def label(spec: Augment) -> str:
    """What is on, with its value."""
    on = {name: value for name, value in spec._asdict().items() if value and name != "magnitude"}
    on |= {"magnitude": spec.magnitude} if spec.randaugment else {}
    words = [name if value is True else f"{name} {value:g}" for name, value in on.items()]
    return "\n".join(", ".join(words[i : i + 2]) for i in range(0, len(words), 2)) or "original"


def augmented(images: Images, specs: list[Augment], seed: int = 0) -> Rows:
    """The images under each augmentation, as one batch; the notes say what share of its own target an image keeps."""
    targets, rows = np.eye(len(images), dtype=np.float32), {}
    for spec in specs:
        changed, shares = jax.jit(augment.apply, static_argnums=0)(spec, jax.random.key(seed), images, targets)
        mixed = spec.mixup or spec.cutmix
        rows[label(spec)] = np.asarray(changed), [f"{share:.0%} own" for share in np.diagonal(shares)] if mixed else []
    return rows


def operated(images: Images, magnitude: float) -> Rows:
    """The images under each operation of RandAugment's table, one way and the other by turns."""
    signs = jnp.where(jnp.arange(len(images)) % 2 == 0, 1.0, -1.0)
    names = operations.table(images.shape[-1])
    every = jax.jit(lambda images: [operations.operate(name, images, magnitude, signs) for name in names])
    return {name: (np.asarray(row), []) for name, row in zip(names, every(images), strict=True)}


def draw(rows: Rows) -> "Figure":
    """The rows below each other, labelled."""
    count, height, width, channels = next(iter(rows.values()))[0].shape
    gap = max(round(GAP * width), 1)
    sheet = np.ones((len(rows) * (height + gap) - gap, count * (width + gap) - gap, channels))
    place = lambda row, column: (row * (height + gap), column * (width + gap))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE * sheet.shape[1] / width, SIDE * sheet.shape[0] / width))
    axes = figure.add_axes((0, 0, 1, 1))
    for row, (images, notes) in enumerate(rows.values()):
        for column, image in enumerate(images):
            y, x = place(row, column)
            sheet[y : y + height, x : x + width] = image
        for column, note in enumerate(notes):
            y, x = place(row, column)
            axes.text(x + width / 2, y + height + gap / 2, note, ha="center", va="center", fontsize=6)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([place(row, 0)[0] + height / 2 for row in range(len(rows))], list(rows), fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def write(rows: Rows, path: Path) -> None:
    """The rows as a figure: PNG, SVG or PDF by the file's suffix, one of `SUFFIXES`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.15)


def from_files(paths: list[Path], side: int) -> Images:
    """Pictures as square colour images.

    Raises:
      BadInput: a file is no picture.
    """
    return np.stack([pixels.decode(path, str(path), side, "RGB") for path in paths]).astype(np.float32) / 255


def from_dataset(name: str, count: int) -> Images:
    """So many training images of a dataset, evenly apart.

    Raises:
      BadInput: there is no such dataset.
    """
    config = datasets.defaults()
    config.dataset = name
    split = datasets.load(config).split("train")
    return split.images(np.linspace(0, split.count - 1, count).astype(np.int64)).astype(np.float32) / 255


def main(argv: list[str] | None = None) -> int:
    """Write the sheet; 2 where the input is at fault."""
    parser = argparse.ArgumentParser(
        prog="python -m vision.sheet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", default="mnist5k", help="as data.dataset of a config (default: %(default)s)")
    source.add_argument("--images", type=Path, nargs="+", metavar="FILE", help="pictures instead of a dataset")
    parser.add_argument(
        "--size", type=int, default=64, help="pixels that pictures are resized to (default: %(default)s)"
    )
    parser.add_argument("--columns", type=int, default=8, help="images a row (default: %(default)s)")
    parser.add_argument("--operations", action="store_true", help="the operations of RandAugment, each by itself")
    parser.add_argument(
        "--magnitude", type=float, default=9.0, help="of the operations, 0 to 10 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the figure: .png, .svg or .pdf")
    given = parser.parse_args(argv)
    if min(given.columns, given.size) < 1 or not 0 <= given.magnitude <= 10:
        parser.error("--columns and --size must be at least 1, --magnitude in [0, 10]")
    try:
        if given.out.suffix.lower() not in SUFFIXES:
            raise BadInput(f"--out: {given.out} ends in none of {', '.join(SUFFIXES)}")
        images = from_files(given.images, given.size) if given.images else from_dataset(given.dataset, given.columns)
    except BadInput as error:
        print(error, file=sys.stderr)
        return error.exit_code
    images = np.resize(images, (given.columns, *images.shape[1:]))
    rows = {"original": (images, [])}
    rows |= (
        operated(images, given.magnitude)
        if given.operations
        else augmented(images, settings(min(images.shape[1:3])), given.seed)
    )
    write(rows, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
