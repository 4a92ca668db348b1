"""A corpus as a TFDS dataset in array_record files, prepared and read without TensorFlow."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from lm.corpora.source import Document, Source
from training.cache import FULL, digest
from training.errors import BadInput
from training.files import locked
from training.tfds import quiet

PARTS = {1: ("text",), 2: ("source", "target")}  # the features that hold the texts of a document


class Text(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Documents with their names; one builder config a source, so that each identity has its own folder."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, source: Source, data_dir: Path):
        self._source, self._names = source, ("name", *PARTS[source.parts])
        self.refused: BadInput | None = None  # what was wrong with the source; TFDS words errors its own way
        config = tfds.core.BuilderConfig(name=f"{source.name}-{digest(source.identity)[:12]}")
        with quiet():
            super().__init__(data_dir=str(data_dir), config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(dict.fromkeys(self._names, tfds.features.Text())),
            description=f"The corpus {self._source.name}.",
            disable_shuffling=True,  # the token store shuffles, by content
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, str]]]]:
        return {"train": self._generate_examples(self._source.documents())}

    def _generate_examples(self, documents: Iterator[Document]) -> Iterator[tuple[int, dict[str, str]]]:
        count = 0
        try:
            for name, *parts in documents:
                if all(texts := [clean(part) for part in parts]):
                    yield count, dict(zip(self._names, (name, *texts), strict=True))
                    count += 1
            if not count:
                raise BadInput(f"corpus {self._source.name}: empty, there is no text in it")
        except BadInput as error:
            self.refused = error
            raise


class Documents:
    """Random access to the texts of a TFDS data source.

    Args:
      name: what messages call the corpus.
      data: a data source of examples.
      features: the paths of the texts in an example, as in "text" or "article/text".
      group: the feature by which documents are kept together in one split; None: their texts.
      names: of the classes where the last feature is a label.
    """

    def __init__(
        self,
        name: str,
        data: Any,
        features: Sequence[str],
        group: str | None = None,
        names: Sequence[str] | None = None,
    ):
        self.name, self.parts, self._data, self._names = name, len(features), data, names
        self._paths, self._group = [feature.split("/") for feature in features], group

    def __len__(self) -> int:
        return len(self._data)

    def texts(self, indices: Sequence[int]) -> list[str]:
        """The texts of documents one after another, all parts of each, valid Unicode and without NUL."""
        rows = [[_text(example, path) for path in self._paths] for example in self._examples(indices)]
        if self._names is not None:
            rows = [[*texts, self._names[int(label)]] for *texts, label in rows]
        return [clean(text) for row in rows for text in row]

    def groups(self, indices: Sequence[int]) -> list[str] | None:
        """What decides the split of documents; None: their texts do."""
        group = self._group
        return None if group is None else [_text(example, group.split("/")) for example in self._examples(indices)]

    def _examples(self, indices: Sequence[int]) -> Any:
        return self._data.__getitems__([int(i) for i in indices])


def _text(example: Any, path: list[str]) -> str:
    for key in path:
        example = example[key]
    return example.decode() if isinstance(example, bytes) else str(example)


def clean(text: str) -> str:
    """Text without NUL, which ends documents among bytes, and without lone surrogates, which have no UTF-8."""
    return text.replace("\0", "").encode(errors="replace").decode()


def prepare(source: Source, data_dir: Path) -> Documents:
    """The documents of a source, written as a dataset under `data_dir` unless they are there already.

    Raises:
      BadInput: the source is empty or unreadable.
      OSError: the disk is full.
    """
    builder: Any = Text(source, data_dir)
    folder = Path(builder.data_dir)
    with locked(data_dir / f"{folder.parent.name}.lock", "", wait=True), quiet():
        for left_by_a_kill in folder.parent.glob("incomplete.*"):
            shutil.rmtree(left_by_a_kill)
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise builder.refused or _disk_full(error, folder) or error from None
        data = builder.as_data_source(split="train")
    return Documents(source.name, data, PARTS[source.parts], "name" if source.parts > 1 else None)


def _disk_full(error: Exception, folder: Path) -> OSError | None:
    """The error of a full disk, which array_record reports by its text alone."""
    for code in FULL:
        if os.strerror(code) in str(error):
            return OSError(code, os.strerror(code), str(folder))
    return None
