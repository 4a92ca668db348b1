"""Compiling: each program once on a machine, into a persistent cache that is local, capped, and shared by all processes
of this user."""

import contextlib
import functools
import hashlib
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from training import cache
from training.errors import BadInput
from training.files import locked

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


class Program:
    """A program that was traced and lowered, and is compiled once it is called, or `ready` before.

    Attributes:
      seconds: that compiling it took; 0 before.
    """

    def __init__(self, lowered: jax.stages.Lowered, options: dict[str, Any] | None = None):
        self._lowered: jax.stages.Lowered | None = lowered
        self._options, self.seconds = options, 0.0
        self._compiled: jax.stages.Compiled | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What the program makes of its arguments."""
        return self.compiled(*arguments)

    @property
    def compiled(self) -> jax.stages.Compiled:
        """The program, compiled."""
        if self._compiled is None:
            ready([self])
        assert self._compiled is not None
        return self._compiled

    @functools.cached_property
    def memory_bytes(self) -> int:
        """What its arguments and temporaries take."""
        memory = self.compiled.memory_analysis()
        return 0 if memory is None else memory.temp_size_in_bytes + memory.argument_size_in_bytes

    def compile(self, wait: bool) -> bool:
        """Compile it, unless another process is at it: then return False, or `wait` and read what that one has made."""
        if self._lowered is None:
            return True
        began, made = time.perf_counter(), _made(self._lowered, self._options)
        with contextlib.ExitStack() as turn:
            if made is not None and not made.exists():
                try:
                    turn.enter_context(locked(made.with_suffix(".lock"), "", wait))
                except BadInput:
                    return False
                except OSError:  # a full disk: whoever compiles it too does no harm
                    made = None
                if made is not None and made.exists():
                    turn.close()  # those who waited read it at once
            self._compiled = self._lowered.compile(self._options)
            if made is not None:
                with contextlib.suppress(OSError):
                    made.touch()
        self._lowered, self.seconds = None, time.perf_counter() - began
        return True


def ready(programs: Iterable[Program]) -> None:
    """Compile programs, those last which another process of this machine is compiling: so workers that begin with one
    shape at once share the work."""
    left = list(programs)
    while left:
        free = next((each for each in left if each.compile(wait=False)), None)
        if free is None:
            left[0].compile(wait=True)
        left.remove(free or left[0])


def _made(lowered: jax.stages.Lowered, options: dict[str, Any] | None) -> Path | None:
    """The file that says that a program was compiled on this machine; None where compiled programs are not kept, and for
    a program of many hosts, which must compile it together."""
    if jax.config.jax_compilation_cache_dir is None or jax.process_count() > 1:
        return None
    where = socket.gethostname(), jax.devices()[0].device_kind, jax.__version__, os.environ.get("XLA_FLAGS")
    text = hashlib.sha256(lowered.as_text().encode())
    text.update(repr((where, sorted((options or {}).items()))).encode())
    return Path(jax.config.jax_compilation_cache_dir) / f"{text.hexdigest()}.made"
