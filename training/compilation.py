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
from typing import Any, Protocol, runtime_checkable

import jax

from training import cache
from training.errors import BadInput
from training.files import locked

LARGEST = 2 << 30  # bytes
LEAST_SECONDS = 0.2  # compilations below are not worth a file
PATIENCE, POLL = 300.0, 0.02  # seconds: until what another process compiles is compiled here too, and between two looks
_hits: list[str] = []  # programs that this process has read from the cache


def _hear(event: str, **_: object) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _hits.append(event)


jax.monitoring.register_event_listener(_hear)


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
      seconds: that compiling it took, or reading it from the cache; 0 before.
      fresh: whether it was compiled by this process.
    """

    def __init__(self, lowered: jax.stages.Lowered, options: dict[str, Any] | None = None):
        self._lowered: jax.stages.Lowered | None = lowered
        self._options, self.seconds, self.fresh = options, 0.0, False
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

    def compile(self, leave: bool = False) -> bool:
        """Compile it, or read it from the cache; with `leave`, return False where another process is compiling it."""
        if self._lowered is None:
            return True
        began, made = time.perf_counter(), self._made
        with contextlib.ExitStack() as turn:
            if leave and made is not None and not made.exists():
                try:
                    turn.enter_context(locked(made.with_suffix(".lock"), ""))
                except BadInput:
                    return False
                except OSError:  # a full disk: whoever compiles it too does no harm
                    pass
            before = len(_hits)
            self._compiled = self._lowered.compile(self._options)
            self.fresh = len(_hits) == before
            if made is not None:
                with contextlib.suppress(OSError):
                    made.touch()
        self._lowered, self.seconds = None, time.perf_counter() - began
        return True

    @functools.cached_property
    def _made(self) -> Path | None:
        """The file that says that it was compiled on this machine; None where compiled programs are not kept, and for a
        program of many hosts, which compile it together."""
        folder, lowered = jax.config.jax_compilation_cache_dir, self._lowered
        if folder is None or lowered is None or jax.process_count() > 1:
            return None
        where = socket.gethostname(), jax.devices()[0].device_kind, jax.__version__, os.environ.get("XLA_FLAGS")
        text = hashlib.sha256(lowered.as_text().encode())
        text.update(repr((where, sorted((self._options or {}).items()))).encode())
        return Path(folder) / f"{text.hexdigest()}.made"


@runtime_checkable
class Jitted(Protocol):
    """What can be lowered, as `training.step.Jitted`."""

    options: dict[str, str | bool] | None

    def lower(self) -> jax.stages.Lowered:
        """The function, traced."""
        ...


@functools.lru_cache(maxsize=128)
def program(jitted: Jitted) -> Program:
    """The program of a jitted function, one for all who ask: it is compiled once in this process, and by one of the
    processes of this machine that share a cache."""
    return Program(jitted.lower(), jitted.options)


def ready(programs: Iterable[Program]) -> None:
    """Compile programs, those last that another process of this machine is compiling, so that workers share the work.

    After `PATIENCE` seconds without progress they are compiled here all the same: the other process may be suspended."""
    left, patient = list(programs), time.monotonic()
    while left:
        leave = time.monotonic() < patient + PATIENCE
        done = [each for each in left if each.compile(leave)]
        if done:
            left, patient = [each for each in left if each not in done], time.monotonic()
        else:
            time.sleep(POLL)
