"""Prose and documentation from Debian packages, fetched with apt and unpacked into the cache: nothing is installed."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm.corpora.files import OPENERS, opened
from lm.corpora.source import Document, Source
from training.debian import VERSION, fetch
from training.errors import BadInput

TEXT = (".txt", ".rst", ".md", ".dict")  # not .html: packages that have it also have its source
PASSAGE = 1 << 16  # characters; longer files are cut at blank lines into documents of about this length
KEY = "data.corpus_args.packages"


def source(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `debian`, known by the packages' versions.

    Args:
      args: `packages`, names with commas between them, as in "anarchism,python3.11-doc".
      cache: the packages are unpacked in its folder `debian`.

    Raises:
      BadInput: no packages, or one that cannot be fetched.
    """
    names = [name.strip() for name in args.get("packages", "").split(",") if name.strip()]
    if not names:
        raise BadInput(f"{KEY}: corpus debian needs it, as in 'anarchism,dict-gcide,python3.11-doc'")
    folders = [fetch(name, cache, KEY) for name in names]
    identity = {folder.name: (folder / VERSION).read_text() for folder in folders}
    return Source("debian", identity, lambda: documents(folders))


def documents(folders: list[Path]) -> Iterator[Document]:
    """The text files of unpacked packages, each content once."""
    seen: set[bytes] = set()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            text = _text(path)
            content = hashlib.sha256(text.encode()).digest()
            if text and content not in seen:
                seen.add(content)
                name = path.relative_to(folder.parent).as_posix()
                yield from ((f"{name}#{place}", part) for place, part in enumerate(passages(text)))


def passages(text: str, length: int = PASSAGE) -> Iterator[str]:
    """A text cut at blank lines into parts of about `length` characters; one without blank lines stays whole."""
    part: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        part.append(paragraph)
        size += len(paragraph) + 2
        if size >= length:
            yield "\n\n".join(part)
            part, size = [], 0
    if any(paragraph.strip() for paragraph in part):
        yield "\n\n".join(part)


def _text(path: Path) -> str:
    """The text of a file; empty for what is no prose. Old files in Latin-1 are read as such."""
    name = path.name.removesuffix(path.suffix) if path.suffix in OPENERS else path.name
    wordnet = path.parent.name == "wordnet" and name.startswith("data.")
    if not (name.endswith(TEXT) or wordnet):
        return ""
    with opened(path) as file:
        raw = file.read()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return glosses(text) if wordnet else text


def glosses(data: str) -> str:
    """The words and definitions of a WordNet data file, one synset a paragraph."""
    found = []
    for line in data.splitlines():
        fields, bar, gloss = line.partition(" | ")
        if bar and not line.startswith(" "):
            columns = fields.split(" ")
            words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
            found.append(f"{', '.join(words).replace('_', ' ')}: {gloss.strip()}")
    return "\n\n".join(found)
