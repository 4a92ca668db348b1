"""Image datasets of TFDS's catalogue (mnist, cifar10, imagenet2012, ...), opened without TensorFlow."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from training import tfds
from training.errors import BadInput, nearest
from vision.datasets import pixels
from vision.datasets.source import Arguments, Examples, Source

ARGUMENTS = ("size", "train_split", "test_split", "image_key", "label_key", "data_dir")
HELD_OUT = ("test", "validation")  # the first that has labels; ImageNet's test split has none


def source(name: str, args: Arguments, known: Iterable[str]) -> Source:
    """A catalogue dataset with an image and a label.

    Args:
      name: as in TFDS, "cifar10" or "imagenet_resized/64x64".
      args: `size`, see `pixels.decode`, needed where images differ in size; `train_split` ("train") and `test_split`, in
        TFDS's notation; `image_key` and `label_key`, where there are several; `data_dir`, where TFDS keeps the data.
      known: our own datasets, to guess what a mistyped name meant.

    Raises:
      BadInput: no such dataset or feature, or images of different sizes without `size`.
    """
    from tensorflow_datasets import features as kinds

    builder = tfds.builder("dataset", name, args.get("data_dir"), known)
    image_key = _feature(name, builder.info, "image_key", args.get("image_key"), kinds.Image)
    label_key = _feature(name, builder.info, "label_key", args.get("label_key"), kinds.ClassLabel)
    feature, size = builder.info.features[image_key], args.get("size")
    height, width, channels = feature.shape
    if channels not in pixels.MODES or feature.np_dtype != np.uint8:
        raise BadInput(
            f"dataset {name}: its images are {feature.np_dtype} with {channels} channels, not bytes with 1, 3 or 4"
        )
    if size is None and None in (height, width):
        raise BadInput(f"data.dataset_args.size: the images of {name} differ in size; give one, as in 224")
    shape = (height, width, channels) if size is None else (size, size, channels)

    def opened(split: str) -> Any:
        from tensorflow_datasets import decode

        return tfds.source("dataset", name, builder, split, {image_key: decode.SkipDecoding()})

    def examples() -> dict[str, Examples]:
        tfds.prepare("dataset", name, builder)
        wanted = {"train": opened(args.get("train_split", "train"))}
        if "test_split" in args:
            wanted["test"] = opened(args["test_split"])
        else:
            candidates = (opened(split) for split in HELD_OUT if split in builder.info.splits)
            labelled = next((data for data in candidates if int(data[0][label_key]) >= 0), None)
            wanted |= {} if labelled is None else {"test": labelled}
        return {split: _examples(name, data, image_key, label_key, shape, size) for split, data in wanted.items()}

    chosen = {key: value for key, value in args.items() if key != "data_dir"}
    identity = {"tfds": tfds.release(), "name": name, **chosen}
    return Source(name, shape, tuple(builder.info.features[label_key].names), lambda: identity, examples)


def _examples(
    name: str, data: Any, image_key: str, label_key: str, shape: tuple[int, int, int], size: int | None
) -> Examples:
    def read_one(example: Any) -> np.ndarray:
        content = example[image_key]
        if not isinstance(content, bytes):  # an image that is not stored as a file
            image = Image.fromarray(content.squeeze(-1) if shape[2] == 1 else content)
            return np.asarray(pixels.fit(image, size)).reshape(shape)
        found = pixels.decode(content, f"dataset {name}: an image", size, pixels.MODES[shape[2]])
        if found.shape != shape:
            raise BadInput(
                f"dataset {name}: an image of {found.shape} among those of {shape}; give data.dataset_args.size"
            )
        return found

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = data.__getitems__(indices.tolist())
        return np.stack(pixels.read_all(read_one, found)), np.array([e[label_key] for e in found], np.int32)

    return Examples(len(data), read)


def _feature(name: str, info: Any, key: str, wanted: str | None, kind: Any) -> str:
    """The feature of a kind: the wanted one, else the one that TFDS itself learns from, else the only one."""
    found = [feature for feature, value in info.features.items() if isinstance(value, kind)]
    preferred = [feature for feature in info.supervised_keys or () if feature in found]
    if wanted is None and len(preferred or found) == 1:
        return (preferred or found)[0]
    if wanted is not None and wanted in found:
        return wanted
    what = key.removesuffix("_key")
    if not found:
        raise BadInput(f"dataset {name}: has no {what} feature (has {', '.join(info.features)})")
    raise BadInput(
        f"data.dataset_args.{key}: dataset {name} has the {what} features {', '.join(found)}"
        + (nearest(wanted, found) if wanted else "; choose one")
    )
