"""Prepared images: built once, by one process, whole or not at all; a damaged file is found out."""

import json
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from training.errors import BadInput
from vision.datasets import store
from vision.datasets.source import Examples, Source

ROOT = Path(__file__).parents[2]
COUNT = 50


def examples(count=COUNT, image=(4, 4, 3), labels=None, dtype=np.uint8, asked=None):
    def read(indices):
        if asked is not None:
            asked.extend(indices.tolist())
        pixels = np.random.default_rng(0).integers(0, 256, (count, *image)).astype(dtype)
        return pixels[indices], (np.arange(count, dtype=np.int32) % 2 if labels is None else labels)[indices]

    return Examples(count, read)


def source(**changes):
    return Source("drawn", (4, 4, 3), ("a", "b"), lambda: "v1", lambda: {"train": examples(**changes)})


def test_what_is_prepared_is_what_the_source_gave(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK", 7 * 48)
    made = store.prepare(source(), tmp_path)
    images, labels = examples().read(np.arange(COUNT))
    assert np.array_equal(made.images("train"), images) and np.array_equal(made.labels("train"), labels)
    wide = images.reshape(COUNT, -1, 3).astype(int)
    assert np.array_equal(made.sums("train"), np.stack([wide.sum(1), (wide**2).sum(1)], axis=1))
    assert not made.images("train").flags.writeable and made.splits == ("train",)
    asked: list[int] = []
    assert store.prepare(source(asked=asked), tmp_path).path == made.path and asked == []


def test_a_killed_build_goes_on_where_it_was(tmp_path, monkeypatch):
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import test_store
from vision.datasets import store
store.BLOCK = 7 * 48
def dying(source, split, start, images, labels):
    if start == 21:
        os.kill(os.getpid(), signal.SIGKILL)
store._check = dying
store.prepare(test_store.source(), __import__("pathlib").Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (partial,) = tmp_path.glob("*.partial")
    with open(partial / "train-images.npy", "ab") as file:
        file.write(b"half a row")
    asked: list[int] = []
    made = store.prepare(source(asked=asked), tmp_path)
    assert asked == list(range(21, COUNT)) and not partial.exists()
    assert np.array_equal(made.images("train"), examples().read(np.arange(COUNT))[0])
    assert sorted(path.name for path in made.path.iterdir()) == [
        "manifest.json",
        *(f"train-{name}.npy" for name in ("images", "labels", "sums")),
    ]


def test_two_processes_prepare_one_store(tmp_path):
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "import pathlib, test_store; from vision.datasets import store\n"
        f"print(store.prepare(test_store.source(), pathlib.Path({str(tmp_path)!r})).path)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert printed[0] == printed[1] and [process.returncode for process in both] == [0, 0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": (4, 5, 3)}, "dataset drawn: images of uint8 (4, 5, 3), where uint8 (4, 4, 3) was expected"),
        ({"image": (4, 4, 1)}, "images of uint8 (4, 4, 1)"),
        ({"dtype": np.float32}, "images of float32 (4, 4, 3)"),
        (
            {"labels": np.arange(COUNT, dtype=np.int32)},
            "image 2 of split 'train' has the label 2, outside the 2 classes",
        ),
        ({"labels": np.full(COUNT, -1, np.int32)}, "has the label -1"),
        ({"labels": np.zeros(COUNT, np.int32)}, "dataset drawn: class 'b' has no training image"),
        ({"count": 0}, "dataset drawn: its split 'train' is empty"),
    ],
)
def test_sources_that_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput) as caught:
        store.prepare(source(**changes), tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_damaged_file_is_named(tmp_path):
    path = store.prepare(source(), tmp_path).path / "train-images.npy"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-1] + bytes([whole[-1] ^ 1]), "its hash is not"),
        (whole[:-1], "bytes instead of"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BadInput) as caught:
            store.prepare(source(), tmp_path)
        assert str(caught.value).startswith(f"{path}: damaged") and message in str(caught.value)
    path.unlink()
    with pytest.raises(BadInput, match="No such file"):
        store.prepare(source(), tmp_path)


def test_a_disk_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=99))
    with pytest.raises(BadInput, match=r"dataset drawn takes 0 MiB, and 0 are free"):
        store.prepare(source(), tmp_path)
    monkeypatch.undo()
    code = f"""
import pathlib, resource, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import test_store
from training.errors import BadInput
from vision.datasets import store
store.BLOCK = 7 * 48
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.prepare(test_store.source(), pathlib.Path({str(tmp_path)!r}))
except BadInput as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "MiB free" in done.stderr and done.stderr.count("\n") == 1
    assert np.array_equal(store.prepare(source(), tmp_path).images("train"), examples().read(np.arange(COUNT))[0])


def test_another_source_is_another_store(tmp_path):
    first = store.prepare(source(), tmp_path)
    other = store.prepare(Source("drawn", (4, 4, 3), ("a", "c"), lambda: "v1", lambda: {"train": examples()}), tmp_path)
    assert first.path != other.path and first.content("train") == other.content("train")
    assert json.loads((other.path / "manifest.json").read_text())["classes"] == ["a", "c"]
