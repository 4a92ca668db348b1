"""Letters and digits in many typefaces, rendered from Debian's fonts: 62 classes, tested on families never seen."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from training import cache
from training.debian import VERSION, fetch
from training.errors import BadInput
from training.types import Value
from vision.datasets.source import Arguments, Examples, Source, of_arrays

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
SIZE = 32  # pixels, by default
MARGIN = 2  # pixels at each edge
DISTINCT = 58  # of the 62; fonts whose small letters are capitals have 36
TEST = 0.2  # expected share of the families that is for testing
SUFFIXES = (".ttf", ".otf")
TEXT_FONTS = """
adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus adf-oldania adf-romande
adf-solothurn adf-switzera adf-tribun adf-universalis adf-verana anonymous-pro averia-gwf b612 beteckna cabin cantarell
comfortaa comic-neue courier-prime crosextra-caladea crosextra-carlito dejavu-extra dosis dustin ebgaramond essays1743
eurofurence fantasque-sans fanwood freefont-ttf go goudybookletter hack inconsolata isabella jetbrains-mono junction jura
karla lato liberation lindenhill linuxlibertine lobstertwo manrope monofur mononoki oldstandard open-sans opendyslexic play
quattrocento quicksand roboto-slab sil-gentium-basic
"""
PACKAGES = tuple(f"fonts-{name}" for name in TEXT_FONTS.split())


def source(args: Arguments, cache_dir: Path) -> Source:
    """The dataset `glyphs`, known by the fonts' files.

    Args:
      args: `packages`, names of Debian packages with commas between them (`PACKAGES`), or `path`, a folder of fonts;
        `size`, the side of an image (32).
      cache_dir: the packages are unpacked there.

    Raises:
      BadInput: both packages and a path.
    """
    if "path" in args and "packages" in args:
        raise BadInput("data.dataset_args.packages: dataset glyphs takes its fonts from them or from a path, not both")
    size = args.get("size", SIZE)
    names = [name.strip() for name in args.get("packages", ",".join(PACKAGES)).split(",") if name.strip()]

    def folders() -> list[Path]:
        if "path" in args:
            return [Path(args["path"]).expanduser()]
        return [fetch(name, cache_dir, "data.dataset_args.packages") for name in names]

    def identity() -> Value:
        if "path" not in args:
            return {folder.name: (folder / VERSION).read_text() for folder in folders()}
        return {path.name: cache.sha256(path) for path in fonts(folders())}

    return Source("glyphs", (size, size, 1), CLASSES, identity, lambda: examples(fonts(folders()), size))


def fonts(folders: Sequence[Path]) -> list[Path]:
    """The font files in folders and below them.

    Raises:
      BadInput: there is none.
    """
    found = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in SUFFIXES and p.is_file()]
    if not found:
        raise BadInput(f"data.dataset_args: no font ({' or '.join(SUFFIXES)}) in {', '.join(map(str, folders))}")
    return found


def examples(paths: Sequence[Path], size: int) -> dict[str, Examples]:
    """The glyphs of fonts, split by family: by the hash of its name's first word, so that the faces of a typeface, and a
    sans and a serif drawn together, are on one side.

    Raises:
      BadInput: a file that is no font, or too few families for two splits.
    """
    drawn: dict[bytes, tuple[str, np.ndarray]] = {}
    for path in paths:
        for family, glyphs in _rendered(path, size):
            drawn.setdefault(hashlib.sha256(glyphs.tobytes()).digest(), (family.split()[0].lower(), glyphs))
    split: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for family, glyphs in drawn.values():
        held = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") < TEST * 2**64
        split["test" if held else "train"].append(glyphs)
    for name, found in split.items():
        if not found:
            raise BadInput(f"dataset glyphs: none of the {len(drawn)} fonts is of a family for the {name} split")
    labels = np.arange(len(CLASSES), dtype=np.int32)
    return {name: of_arrays(np.concatenate(found), np.tile(labels, len(found))) for name, found in split.items()}


def _rendered(path: Path, size: int) -> Iterator[tuple[str, UInt8[np.ndarray, "62 size size 1"]]]:
    """A font's family and glyphs, if it has all of them; white on black, on one baseline, as large as all can be."""
    from fontTools.ttLib import TTFont

    try:
        with TTFont(path, lazy=True) as table:
            known = table.getBestCmap() or {}
        if not all(ord(letter) in known for letter in CLASSES):
            return
        font = ImageFont.truetype(path, 4 * size, layout_engine=ImageFont.Layout.BASIC)
        boxes = np.array([font.getbbox(letter, anchor="ls") for letter in CLASSES])
        top, bottom = boxes[:, 1].min(), boxes[:, 3].max()
        scale = (size - 2 * MARGIN) / max(bottom - top, (boxes[:, 2] - boxes[:, 0]).max(), 1)
        font = font.font_variant(size=4 * size * scale)
        baseline = (size - (top + bottom) * scale) / 2
        glyphs = np.stack([_drawn(letter, font, baseline, size) for letter in CLASSES])
    except Exception as error:  # whatever fontTools and FreeType raise of a broken file
        raise BadInput(f"{path}: not a font that can be read ({type(error).__name__}: {error})") from None
    if len(np.unique(glyphs, axis=0)) >= DISTINCT and glyphs.any(axis=(1, 2, 3)).all():
        yield font.getname()[0] or path.stem, glyphs


def _drawn(letter: str, font: ImageFont.FreeTypeFont, baseline: float, size: int) -> UInt8[np.ndarray, "size size 1"]:
    left, _, right, _ = font.getbbox(letter, anchor="ls")
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).text(((size - left - right) / 2, baseline), letter, fill=255, font=font, anchor="ls")
    return np.asarray(image)[..., None]
