"""Glyphs: rendered whole, on one baseline; fonts without all letters are left out; families keep to one side."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from training.errors import BadInput
from vision import datasets
from vision.datasets import glyphs

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


def section(cache: Path, **args):
    data = datasets.defaults()
    data.dataset, data.cache_dir = "glyphs", str(cache)
    for key, value in args.items():
        data.dataset_args[key] = value
    return data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return datasets.load(section(tmp_path_factory.mktemp("cache"), path=str(FONTS)))


def test_letters_and_digits(made):
    train, test = made.split("train"), made.split("test")
    assert made.image == (32, 32, 1) and len(made.classes) == 62 and made.classes[26] == "a"
    assert train.size % 62 == test.size % 62 == 0 and train.size > test.size > 0
    images, labels = train.read(np.arange(62))
    assert labels.tolist() == list(range(62)) and len(np.unique(images, axis=0)) >= glyphs.DISTINCT
    assert images.max() == 255 and images[:, [0, -1]].max() == images[:, :, [0, -1]].max() == 0
    ink = {letter: np.flatnonzero(images[label].max(axis=(1, 2)) > 64) for label, letter in enumerate(made.classes)}
    assert ink["H"][-1] == ink["x"][-1] == ink["1"][-1] < ink["p"][-1]  # one baseline
    assert ink["x"][0] > ink["H"][0]  # small letters are smaller


def test_families_keep_to_one_side(made):
    """Every face of DejaVu is on one side: faces of one family would give the test away."""
    faces = [
        next(glyphs._rendered(path, 32))[1] for path in sorted(FONTS.glob("DejaVuS*.ttf")) if "Display" not in path.name
    ]
    parts = [made.split(name).images(np.arange(made.split(name).size)) for name in ("train", "test")]
    inside = [{image.tobytes() for image in part} for part in parts]
    sides = {tuple({image.tobytes() for image in face} <= side for side in inside) for face in faces}
    assert len(faces) == 12 and len(sides) == 1 and sum(next(iter(sides))) == 1


def test_fonts_without_all_letters_and_copies_are_left_out(made, tmp_path):
    assert list(glyphs._rendered(FONTS / "STIXSizOneSymReg.ttf", 32)) == []
    paths = [FONTS / "DejaVuSans.ttf", FONTS / "STIXGeneral.ttf", FONTS / "cmr10.ttf", FONTS / "STIXSizOneSymReg.ttf"]
    for path in paths:
        shutil.copy(path, tmp_path)
    shutil.copy(paths[0], tmp_path / "copy.ttf")
    few = datasets.load(section(tmp_path / "cache", path=str(tmp_path), size=16))
    sizes = [few.split(name).size for name in ("train", "test")]
    assert sum(sizes) == 3 * 62 and few.image == (16, 16, 1)


def test_what_is_refused(tmp_path):
    def refused(**args) -> str:
        with pytest.raises(BadInput) as caught:
            datasets.load(section(tmp_path / "cache", **args))
        assert "\n" not in str(caught.value) and not list((tmp_path / "cache").rglob("*.npy"))
        return str(caught.value)

    folder = tmp_path / "fonts"
    folder.mkdir()
    assert f"no font (.ttf or .otf) in {folder}" in refused(path=str(folder))
    assert "takes its fonts from them or from a path" in refused(path=str(folder), packages="fonts-x")
    assert "data.dataset_args.packages: '--help' is no name of a Debian package" in refused(packages="--help")
    shutil.copy(FONTS / "DejaVuSans.ttf", folder)
    assert "none of the 1 fonts is of a family for the" in refused(path=str(folder))
    (folder / "broken.ttf").write_bytes((FONTS / "DejaVuSans.ttf").read_bytes()[:5000])
    assert f"{folder / 'broken.ttf'}: not a font that can be read" in refused(path=str(folder))
