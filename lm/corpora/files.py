"""Any text on this machine: plain files, JSONL and Parquet, compressed or not, found by patterns."""

import bz2
import contextlib
import glob
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from lm.corpora.source import Document, Source, decode
from training import extras
from training.cache import digest
from training.errors import BadInput, nearest

ARGUMENTS = ("paths", "text_key", "target_key", "separator", "encoding")


def source(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `files`, known by the names, sizes and times of its files.

    Args:
      args: `paths`, patterns with commas between them (`**` goes through folders); `text_key`, the key of a JSONL line
        or the column of a Parquet table that holds the text ("text"); `target_key`, the same of the other side of pairs:
        a translation, or a label; `separator`, what parts the documents of a plain file (none: a file is a document);
        `encoding` ("utf-8").
      cache: not used.

    Raises:
      BadInput: no paths, or a pattern that fits no file.
    """
    if not args.get("paths"):
        raise BadInput("data.corpus_args.paths: corpus files needs it, as in 'texts/**/*.txt,more.jsonl.zst'")
    found = expand(args["paths"])
    states = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    options = {key: args[key] for key in ARGUMENTS[1:] if key in args}
    identity = {"files": len(found), "sha256": digest(states), **options}
    return Source("files", identity, lambda: documents(found, **options), 2 if args.get("target_key") else 1)


def expand(patterns: str, key: str = "data.corpus_args.paths") -> list[Path]:
    """The files that patterns with commas between them name, sorted, each once; `key` is what messages name.

    Raises:
      BadInput: a pattern names no file, or a folder.
    """
    found: set[Path] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = [Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]
        files = {path for path in matches if path.is_file()}
        if not files:
            kind = "is a folder; give a pattern, as in " + f"{pattern}/**/*.txt" if matches else "no such file"
            raise BadInput(f"{key}: {pattern}: {kind}")
        found |= files
    return sorted(found)


def documents(
    paths: list[Path], text_key: str = "text", target_key: str = "", separator: str = "", encoding: str = "utf-8"
) -> Iterator[Document]:
    """The documents of files, named after file and line; pairs after their source, so that copies stay together.

    Raises:
      BadInput: a file that cannot be read or is not what its name says; names it.
    """
    keys = [text_key, target_key] if target_key else [text_key]
    for path in paths:
        suffixes = [suffix for suffix in path.suffixes if suffix not in OPENERS]
        kind = suffixes[-1] if suffixes else ""
        with reading(path):
            if kind == ".parquet":
                yield from _parquet(path, keys)
            elif kind in (".jsonl", ".ndjson"):
                yield from _jsonl(path, keys, encoding)
            elif target_key:
                raise BadInput(f"data.corpus_args.target_key: {path} has no keys; pairs are JSONL or Parquet")
            else:
                yield from _plain(path, separator, encoding)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """One line that names the file, for whatever is wrong with reading or unpacking it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadInput(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def cut(name: str, text: str, separator: str) -> Iterator[Document]:
    """The parts of a text between separators, in which \\n and \\t may be written as such; all of it without one."""
    separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    if not separator:
        yield name, text
        return
    for place, part in enumerate(text.split(separator)):
        if part.strip():
            yield f"{name}#{place}", part


def _plain(path: Path, separator: str, encoding: str) -> Iterator[Document]:
    with opened(path) as file:
        yield from cut(str(path), decode(file.read(), encoding, path), separator)


def _document(where: str, texts: list[Any], said: list[str]) -> Document:
    """A document, or a pair, whose label may be a number; `said` is what messages say of what is no text."""
    texts = [texts[0], *(str(other) if isinstance(other, int) else other for other in texts[1:])]
    for text, complaint in zip(texts, said, strict=True):
        if not isinstance(text, str):
            raise BadInput(complaint)
        if len(texts) > 1 and not text.strip():
            raise BadInput(f"{where}: an empty side, where a pair has two")
    return (where, texts[0]) if len(texts) == 1 else (texts[0], *texts)


def _jsonl(path: Path, keys: list[str], encoding: str) -> Iterator[Document]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(decode(line, encoding, Path(where)))
            except json.JSONDecodeError as error:
                raise BadInput(f"{where}: not JSON ({error.msg})") from None
            found = row if isinstance(row, dict) else {}
            said = [f"{where}: no text under the key {key!r}{nearest(key, list(found))}" for key in keys]
            yield _document(where, [found.get(key) for key in keys], said)


def _parquet(path: Path, columns: list[str]) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        with opened(path) as file:
            table = pyarrow.parquet.ParquetFile(io.BytesIO(file.read()) if path.suffix in OPENERS else file)
            names = table.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise BadInput(f"{path}: no column {column!r}{nearest(column, names)}")
            row = 0
            for batch in table.iter_batches(columns=columns, batch_size=1024):
                for texts in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    said = [f"{path}: row {row} of column {column!r} is no text" for column in columns]
                    yield _document(f"{path}:{row}", list(texts), said)
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path}: not Parquet ({error})") from None


def opened(path: Path) -> io.BufferedIOBase:
    """A file opened for reading bytes, unpacked as its ending says."""
    return OPENERS.get(path.suffix, lambda p: open(p, "rb"))(path)


class _Zst(io.RawIOBase):
    """The bytes of a zst file, frame by frame; unlike the package's own reader it notices a file that was cut short."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 17)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("zst data end in the middle of a frame")
                return 0
            self._unpack()
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self) -> None:
        extras.require("text compressed as .zst", "zstandard")
        import zstandard

        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(self._packed))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from None
        self._packed = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame


def _packed(module: Any) -> Callable[[Path], io.BufferedIOBase]:
    return lambda path: cast(io.BufferedIOBase, module.open(path))


OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    ".zst": lambda path: cast(io.BufferedIOBase, io.BufferedReader(_Zst(path))),
    ".gz": _packed(gzip),
    ".dz": _packed(gzip),  # gzip with an index, as dictd writes it
    ".bz2": _packed(bz2),
    ".xz": _packed(lzma),
}
