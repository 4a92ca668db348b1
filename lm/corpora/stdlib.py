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
    return [root / name for name in _names(str(root))]


def source(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `stdlib`; its identity is the hash of the very files, which vary with the interpreter."""
    root = str(sysconfig.get_paths()["stdlib"])
    stamps = tuple(
        (name, found.st_size, found.st_mtime_ns)
        for name in _names(root)
        for found in [os.stat(os.path.join(root, name))]
    )
    return Source("stdlib", {"python": platform.python_version(), "sha256": _hash(root, stamps)}, documents)


def _names(root: str) -> list[str]:
    """The paths of the modules below a folder, with "/" between their parts."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        below = "" if folder == root else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        found += [below + name for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]
    return sorted(found)


@functools.lru_cache(1)
def _hash(root: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Once a process, which opens its corpus for every run: hashing takes as long as ten steps of a small one."""
    content = hashlib.sha256()
    for name, *_ in stamps:
        content.update(f"{name}\0".encode())
        content.update(hashlib.sha256(read_bytes(Path(root, name))).digest())
    return content.hexdigest()


def documents() -> Iterator[Document]:
    """One document a module, decoded as the module itself declares (PEP 263)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in files():
        raw = read_bytes(path)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        yield path.relative_to(root).as_posix(), decode(raw, encoding, path)
