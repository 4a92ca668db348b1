"""The source of Python's standard library: real text that every interpreter carries, about 11 MB."""

import functools
import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm.corpora.source import Document, Source, decode, read_bytes

# Tests hold made-up text in every encoding; site-packages is not the library; idlelib is an application.
SKIPPED = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}


def files() -> list[Path]:
    """The library's modules, sorted by name; `_sysconfigdata*`, which the build writes, is none."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [
            Path(folder, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def source(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `stdlib`; its identity is the hash of the very files, which vary with the interpreter."""
    stamps = tuple((path, stat.st_size, stat.st_mtime_ns) for path in files() for stat in [path.stat()])
    return Source("stdlib", {"python": platform.python_version(), "sha256": _hash(stamps)}, documents)


@functools.lru_cache(1)
def _hash(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Once a process, which opens its corpus for every run: hashing takes as long as ten steps of a small one."""
    root = Path(sysconfig.get_paths()["stdlib"])
    content = hashlib.sha256()
    for path, *_ in stamps:
        content.update(f"{path.relative_to(root).as_posix()}\0".encode())
        content.update(hashlib.sha256(read_bytes(path)).digest())
    return content.hexdigest()


def documents() -> Iterator[Document]:
    """One document a module, decoded as the module itself declares (PEP 263)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in files():
        raw = read_bytes(path)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        yield path.relative_to(root).as_posix(), decode(raw, encoding, path)
