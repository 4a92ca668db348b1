"""The persistent compilation cache: local, capped, shared by every process of this user."""

import contextlib
from pathlib import Path

import jax

from training import cache

LARGEST = 2 << 30  # bytes
LEAST_SECONDS = 0.2  # compilations below are not worth a file


def folder() -> Path:
    """Where compiled programs are kept: `$ISOFLOP_CACHE/compiled`, else `~/.cache/isoflop/compiled`."""
    return cache.folder() / "compiled"


def persist(path: Path | None = None, largest: int = LARGEST) -> Path:
    """Keep compiled programs on disk for this process and later ones, after trimming what is there to the cap.

    Args:
      path: the folder; `folder()` by default. It should be local: many small files.
      largest: bytes; beyond that the entries that have not been used for longest go.
    """
    path = path or folder()
    path.mkdir(parents=True, exist_ok=True)
    trim(path, largest)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return path


def trim(path: Path, largest: int) -> int:
    """Delete the entries that have not been used for longest until at most `largest` bytes remain; returns those bytes.

    JAX has a cap of its own, but it locks the whole cache at every read and write, and our workers read at once.
    """
    entries = []
    for entry in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            stat = entry.stat()
            entries.append((max(stat.st_atime, stat.st_mtime), stat.st_size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= largest:
            break
        entry.unlink(missing_ok=True)
        total -= size
    return total
