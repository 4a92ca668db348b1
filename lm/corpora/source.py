"""What a corpus is before it is a dataset: an identity that is cheap to know, and an iterator over documents."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.errors import BadInput

Document = tuple[str, ...]  # name, text; of a corpus of pairs, the name of what must not be torn apart, source, target


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents somewhere on this machine.

    Args:
      name: what messages and folders call it.
      identity: a JSON value; sources with equal identities hold the same documents.
      documents: yields (name, text), or (group, source, target), in an order that the identity fixes.
      parts: texts of a document: 1, or 2 of a pair.
    """

    name: str
    identity: Any
    documents: Callable[[], Iterator[Document]]
    parts: int = 1


def decode(raw: bytes, encoding: str, path: Path) -> str:
    """The text of a file's bytes.

    Raises:
      BadInput: they are no such text; names the file and the place.
    """
    try:
        return raw.decode(encoding)
    except LookupError:
        raise BadInput(f"corpus: no text encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not {encoding} text (byte {error.start}: {error.reason})") from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
      BadInput: it cannot be read; names it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
