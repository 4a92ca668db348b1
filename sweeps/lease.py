"""Leases: which worker holds a run, kept in files of the run directory and renewed by the holder.

`<run>/leases/<generation>` is made whole and exclusively, by a hard link, and stays; whoever made the highest generation
holds the run. The file names the worker and the boot of its machine, counts renewals, and is marked once it is released. On
one machine a lock of `<run>/claim`, which the kernel releases when its holder dies, decides at once who is alive. Of a
holder on another machine only the renewals count: a lease that has not changed for its whole lifetime, measured on the
observer's own clock, which no change of the date moves, is taken over. A holder that finds a higher generation than its own,
or could not renew its lease for most of its lifetime, ends its process at once, by `os._exit`, writing nothing.

What this relies on: files are created exclusively and renamed atomically, and another machine reads a renewal within the
lifetime of a lease. Then two workers overlap by at most one renewal interval, which the files of a run survive (lines of
metrics name their attempt, all else is written whole). It is tested on local file systems, with locks and with locks that
do not work, and on no network file system. NFS clients cache directory attributes for up to `acdirmax`, 60 s by default,
which is as long as a lease lives by default: set `$ISOFLOP_LEASE_SECONDS` to three times that, or more, on all machines.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sweeps import untrusted_files
from training.errors import BadInput

LOST = 75  # exit code of a process that lost a lease
FOLDER = "leases"
GENERATION = re.compile(r"[0-9]{8,}")  # the name of a lease
WORKER_ID = re.compile(r"[0-9a-f]{32}")
LEASE_BYTES = 1 << 16  # read of a lease, at most
RENEWALS = 6  # in the lifetime of a lease
GUARD_SHARE = 2 / 3  # of its lifetime, after which a holder that could not renew it leaves
# Errors of a directory that may be over soon.
TRANSIENT_ERRORS = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
# Taken for the content of a file that a crash tore, where there are no hard links, or that was taken over this moment.
UNKNOWN = {"worker": "", "boot": "", "beat": -1, "released": False, "deaths": 0, "seconds": 0.0}


def worker_id() -> str:
    """The identity of this process in its leases; a process forked from it has another."""
    return _process().worker


def seconds() -> float:
    """The lifetime of a lease that is not renewed, in seconds: `$ISOFLOP_LEASE_SECONDS`, else a minute.

    Raises:
        BadInput: the variable holds no positive number.
    """
    text = os.environ.get("ISOFLOP_LEASE_SECONDS", "60")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadInput(f"ISOFLOP_LEASE_SECONDS: must be a positive number of seconds, got {text!r}")
    return value


def boot() -> str:
    """The identity of this machine since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():x}"


def _lock_domain(run: Path) -> str:
    """This boot of this machine, and the file system of a run as it is mounted: all processes in it share its locks."""
    return f"{boot()}:{run.stat().st_dev}"


@contextlib.contextmanager
def claim(run: Path) -> Iterator[bool]:
    """Try to hold a run; False where a live process holds it, or one that may be alive.

    While the run is held, threads of this process renew the lease, and end the process by `os._exit(75)` if it is lost: do
    not hold runs in a process that also does something else, such as a notebook or an actor that serves others.

    Raises:
        OSError: the directory cannot be written, and did not come back within the lifetime of a lease.
    """
    with contextlib.ExitStack() as stack:
        lease = _acquire(run, stack)
        if lease is None:
            yield False
            return
        renewer = _process().renewer
        renewer.add(lease)
        try:
            yield True
        finally:
            renewer.remove(lease)
            lease.write(released=True)


def _acquire(run: Path, stack: contextlib.ExitStack) -> "Lease | None":
    deadline = _now() + seconds()
    while True:
        try:
            run.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(run / "claim", "a"))  # noqa: SIM115 - closed with the stack
            locked = _lock(file)
            return None if locked is False else _take_over(run, locked=locked is True)
        except OSError as error:
            stack.close()
            if error.errno not in TRANSIENT_ERRORS or _now() > deadline:
                raise
            time.sleep(seconds() / RENEWALS)


def check(run: Path) -> None:
    """End this process (exit code 75) if it held the lease of a run and has lost it.

    Call it before the record of the run is written: after SIGSTOP and SIGCONT the main thread may go on before the threads
    that renew the lease.
    """
    _process().renewer.check(run)


def is_claimed(run: Path) -> bool:
    """Whether a run is being worked on: read-only, and approximate for another machine (by the age of its lease).

    For display; only `claim` decides.

    Raises:
        BadInput: the file `claim` is not one that a worker made.
    """
    if untrusted_files.stamp(run / "claim", run.parents[1], LEASE_BYTES) is None:
        return False
    try:
        with open(run / "claim") as file:
            if _lock(file, fcntl.LOCK_SH, tries=1) is False:
                return True
    except FileNotFoundError:  # gone meanwhile
        return False
    _, content = _newest(run)
    if content is None or content["released"] or content["boot"] == _lock_domain(run):
        return False
    with contextlib.suppress(OSError):
        return time.time() - (run / FOLDER).stat().st_mtime < seconds()
    return False


def is_undecided(run: Path) -> bool:
    """Whether a run's holder, on another machine, can be called neither alive nor dead yet.

    So it is while it has been observed for less than the lifetime of a lease without a renewal.
    """
    _, content = _newest(run)
    if content is None or content["released"] or content["boot"] == _lock_domain(run):
        return False
    return not _observe(run, content).alive


def deaths(run: Path) -> int:
    """How many holders died in a run, one after another: of a run that this process holds, or that is free."""
    _, content = _newest(run)
    if content is None:
        return 0
    return content["deaths"] + (not content["released"] and content["worker"] != worker_id())


class Lease:
    """A lease that this process holds.

    Args:
        run: the run directory.
        generation: one more than that of the lease before.
        deaths: how many holders died in the run, one after another, before this one.
    """

    def __init__(self, run: Path, generation: int, deaths: int):
        self._folder, self._generation = run / FOLDER, generation
        self._content = {
            "worker": worker_id(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot": _lock_domain(run),
            "seconds": seconds(),
            "deaths": deaths,
            "beat": 0,
            "released": False,
        }
        self._renewed = _now()
        self._writing = threading.Lock()

    def create(self) -> bool:
        """Make the file, whole and first; False where another was faster."""
        self._folder.mkdir(exist_ok=True)
        temporary, path = self._temporary(), self._path(self._generation)
        temporary.write_text(json.dumps(self._content))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:  # no hard links here
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            try:
                with open(path, "x") as file:
                    file.write(json.dumps(self._content))
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    @property
    def overdue(self) -> bool:
        """Whether it could not be renewed for so long that another may be about to take over."""
        return _now() - self._renewed > GUARD_SHARE * self.seconds

    @property
    def seconds(self) -> float:
        """Its lifetime without a renewal."""
        return self._content["seconds"]

    def of(self, run: Path) -> bool:
        """Whether this is a lease of a run."""
        return self._folder == run / FOLDER

    def superseded(self) -> bool:
        """Whether another has taken the run over."""
        return self._path(self._generation + 1).exists() or not self._path(self._generation).exists()

    def renew(self) -> bool:
        """Renew the lease; False where it is lost."""
        began = _now()
        try:
            if self.superseded():
                return False
            self.write(released=False)
        except OSError:  # read-only for a while, or gone: see `overdue`
            return True
        self._renewed = began
        return True

    def write(self, released: bool) -> None:
        """Write the next renewal, the last where it is released. No fsync: one that a crash loses was nobody's."""
        with self._writing, contextlib.suppress(OSError) if released else contextlib.nullcontext():
            if self._content["released"]:
                return  # a renewal that was under way when the run ended
            self._content |= {"beat": self._content["beat"] + 1, "released": released}
            temporary = self._temporary()
            temporary.write_text(json.dumps(self._content))
            os.replace(temporary, self._path(self._generation))

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation:08d}"

    def _temporary(self) -> Path:
        return self._folder / f".{self._content['worker']}"

    def __str__(self) -> str:
        return str(self._path(self._generation))


class _Renewer:
    """The threads of this process that renew its leases, and that end it where they cannot be renewed."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._started = False

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            self._changed.notify_all()
            if not self._started:
                self._started = True
                for action in (self._renew, self._guard):
                    threading.Thread(target=self._repeat, args=(action,), daemon=True).start()

    def remove(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def check(self, run: Path) -> None:
        for lease in self._held():
            if lease.of(run) and lease.superseded():
                leave(lease)

    def _held(self) -> list[Lease]:
        with self._changed:
            return list(self._leases)

    def _repeat(self, action: Callable[[Lease], None]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leases)
                period = min(lease.seconds for lease in self._leases) / RENEWALS
            time.sleep(period)
            for lease in self._held():
                action(lease)

    def _renew(self, lease: Lease) -> None:
        if not lease.renew() and lease in self._held():
            leave(lease)

    def _guard(self, lease: Lease) -> None:
        """In a thread of its own: a renewal may hang for as long as a file server is away."""
        if lease.overdue:
            leave(lease)


def leave(lease: Lease) -> None:
    """End this process, which has lost a lease, without any clean-up: what it would still write is another's to write."""
    print(f"{lease}: lost to another worker", file=sys.stderr, flush=True)
    os._exit(LOST)


@dataclasses.dataclass(frozen=True)
class _ProcessState:
    """The identity of a process, and the threads that renew its leases."""

    worker: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    renewer: _Renewer = dataclasses.field(default_factory=_Renewer)


_processes: dict[int, _ProcessState] = {}  # by process id: a fork must share neither identity nor threads


def _process() -> _ProcessState:
    return _processes.get(os.getpid()) or _processes.setdefault(os.getpid(), _ProcessState())


@dataclasses.dataclass(frozen=True)
class _Observation:
    """A lease as this process last read it.

    Attributes:
        content: of the file.
        since: when this content was first read, on the clock of `_now`.
        alive: whether it changed between two readings that lie less than a lifetime apart.
        read_at: when it was last read.
    """

    content: dict[str, Any]
    since: float
    alive: bool
    read_at: float


_observations: dict[Path, _Observation] = {}  # by run


def _observe(run: Path, content: dict[str, Any]) -> _Observation:
    """Remember the content of a lease as of now."""
    before, now = _observations.get(run), _now()
    if before is not None and before.content == content:
        _observations[run] = dataclasses.replace(before, read_at=now)
    else:
        # A change proves that the holder lives only if it happened lately: not if the reading before is an hour old.
        same = before is not None and before.content["worker"] == content["worker"]
        alive = same and before is not None and now - before.read_at < _lifetime(content)
        _observations[run] = _Observation(content, now, alive, now)
    return _observations[run]


def _lifetime(content: dict[str, Any]) -> float:
    """The lifetime of a lease: the longer of what its holder counts on and of what this process is told."""
    return max(content["seconds"], seconds())


def _lock(file: Any, kind: int = fcntl.LOCK_EX, tries: int = 5) -> bool | None:
    """Try to lock a file; False where a live process has it, None where the file system knows no locks."""
    for attempt in range(tries):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < tries:
                time.sleep(0.005)  # it may only be held for a moment, as by `is_claimed`
        except OSError:
            return None
        else:
            return True
    return False


def _take_over(run: Path, locked: bool) -> Lease | None:
    """The next lease of a run; None where a holder is alive, or may be.

    Args:
        run: the run directory.
        locked: this process has the lock, so that no live process of this machine holds the run.
    """
    generation, content = _newest(run)
    unreleased = content is not None and not content["released"]
    if content is not None and unreleased and not (locked and content["boot"] == _lock_domain(run)):
        unchanged_for = _now() - _observe(run, content).since
        if unchanged_for < _lifetime(content):
            return None
    lease = Lease(run, generation + 1, content["deaths"] + 1 if content is not None and unreleased else 0)
    if not lease.create():
        return None
    if content is not None and WORKER_ID.fullmatch(str(content["worker"])):  # what it was writing when it died
        (run / FOLDER / f".{content['worker']}").unlink(missing_ok=True)
    return lease


def _newest(run: Path) -> tuple[int, dict[str, Any] | None]:
    """The highest generation of a run's leases, and its content; 0 and None where there is none."""
    try:
        names = [entry.name for entry in os.scandir(run / FOLDER) if GENERATION.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    if not names:
        return 0, None
    name = max(names, key=int)
    try:
        file = run / FOLDER / name
        if untrusted_files.stamp(file, run.parents[1], LEASE_BYTES) is not None:
            content = untrusted_files.load(file.read_text(), file)
            if UNKNOWN.keys() <= content.keys():
                return int(name), content
    except (OSError, ValueError, AttributeError, BadInput):
        pass
    return int(name), UNKNOWN


def _now() -> float:
    """Seconds that pass while a machine sleeps, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
