"""The sheet of augmentations: a row for each, labelled, the originals first."""

import numpy as np
import pytest
from PIL import Image

from vision import sheet
from vision.augment import Augment, operations


def pictures(channels):
    return np.random.default_rng(0).random((4, 8, 10, channels), np.float32)


def test_settings_show_every_field_alone_and_the_originals_first():
    specs = sheet.settings(32)
    labels = [sheet.label(spec) for spec in specs]
    assert labels[0] == "original" and len(set(labels)) == len(labels)
    for name in set(Augment._fields) - {"magnitude"}:
        assert any(label.split()[0].rstrip(",") == name for label in labels[1:-1]), name
    assert sheet.label(Augment(randaugment=2, erase=0.5, flip=True)) == "flip, randaugment 2\nerase 0.5, magnitude 9"


def test_rows_hold_the_augmented_images_and_the_shares():
    images = pictures(3)
    rows = sheet.augmented(images, [Augment(), Augment(mixup=1.0)], seed=1)
    assert list(rows) == ["original", "mixup 1"]
    np.testing.assert_array_equal(rows["original"][0], images)
    mixed, notes = rows["mixup 1"]
    shares = np.array([float(note.split("%")[0]) / 100 for note in notes])[:, None, None, None]
    np.testing.assert_allclose(mixed, shares * images + (1 - shares) * np.roll(images, -1, axis=0), atol=0.006)


def test_a_row_for_each_operation():
    assert tuple(sheet.operated(pictures(1), 5.0)) == operations.table(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_is_drawn_to_scale(tmp_path, channels):
    images = np.zeros((4, 8, 10, channels), np.float32)
    images[..., 0] = 1.0
    sheet.write({"original": (images, []), "again": (images, ["a", "b", "c", "d"])}, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as written:
        pixels = np.asarray(written.convert("RGB"))
    height, width, _ = pixels.shape
    assert width > 200 * 4 * sheet.SIDE and height > 200 * 2 * sheet.SIDE * 8 / 10
    if channels == 3:  # eight red images cover what eight images should
        red = (pixels == [255, 0, 0]).all(axis=-1).sum()
        assert red == pytest.approx(8 * (200 * sheet.SIDE) ** 2 * 8 / 10, rel=0.03)


def test_the_command_writes_a_sheet_of_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sheet, "settings", lambda side: [Augment()])
    for name in ("a", "b"):
        Image.fromarray((pictures(3)[0] * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in ("a", "b")]
    assert sheet.main(["--images", *files, "--size=12", "--columns=3", f"--out={tmp_path / 'sheet.png'}"]) == 0
    with Image.open(tmp_path / "sheet.png") as written:
        assert written.width > 500
    (tmp_path / "b.png").write_text("no picture")
    assert sheet.main(["--images", *files, f"--out={tmp_path / 'none.png'}"]) == 2
    assert str(tmp_path / "b.png") in capsys.readouterr().err and not (tmp_path / "none.png").exists()
    assert sheet.main(["--dataset=digits", "--out=sheet.doc"]) == 2
    assert capsys.readouterr().err == "--out: sheet.doc ends in none of .png, .svg, .pdf\n"


def test_the_command_knows_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "settings", lambda side: [Augment()])
    assert sheet.main(["--dataset=digits", f"--out={tmp_path / 'sheet.png'}"]) == 0
    assert (tmp_path / "sheet.png").is_file()
