"""Who works on a run: a lease that its holder renews, on any shared file system.

`<run>/leases/<generation>` is made whole and exclusively, by a hard link; whoever made the highest generation holds the
run. It says who that is, on which boot of which machine, counts heartbeats, and says at last that it is released. On one
machine a lock of `<run>/claim`, which the kernel releases when its holder dies, tells at once who is alive. Of a holder on
another machine only its heartbeats are believed: a lease that has not changed for `seconds()` on the clock of the one who
looks, which no change of the date moves, is taken over. A holder that finds a higher generation than its own, or could not
renew its lease for as long, leaves its process at once, writing nothing; at worst two work on one run for one beat, which
the files of a run survive (lines of metrics name their attempt, all else is written whole).
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOST = 75  # exit code of a process that lost a lease
FOLDER = "leases"
BEATS = 6  # in the life of a lease
WORKER = uuid.uuid4().hex  # this process
# What is taken from a file that a crash tore, where there are no hard links, or that was taken over this moment.
UNKNOWN = {"worker": "", "boot": "", "beat": -1, "released": False, "deaths": 0}


def seconds() -> float:
    """For how long a lease that is not renewed is respected: `$ISOFLOP_LEASE_SECONDS`, else a minute."""
    return float(os.environ.get("ISOFLOP_LEASE_SECONDS", 60.0))


def boot() -> str:
    """The machine, since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():x}"


@contextlib.contextmanager
def claim(run: Path) -> Iterator[bool]:
    """Try to hold a run; False where a live process holds it, or one that may be alive."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "claim", "a") as file:
        local = _lock(file)
        lease = None if local is False else _taken(run, exact=local is True)
        if lease is None:
            yield False
            return
        _heart.add(lease)
        try:
            yield True
        finally:
            _heart.remove(lease)
            lease.write(released=True)


def check(run: Path) -> None:
    """Leave this process where it held a run and has lost it: to be called before what ends a run is written, since a
    process that was stopped may go on before its heart does."""
    _heart.check(run)


def is_claimed(run: Path) -> bool:
    """Whether a run seems to be worked on, for people to see: of another machine's lease by how old its file is."""
    try:
        with open(run / "claim") as file:
            if _lock(file, fcntl.LOCK_SH, tries=1) is False:
                return True
    except FileNotFoundError:
        return False
    _, found = _newest(run)
    if found is None or found["released"] or found["boot"] == boot():
        return False
    with contextlib.suppress(OSError):
        return time.time() - (run / FOLDER).stat().st_mtime < seconds()
    return False


def doubtful(run: Path) -> bool:
    """Whether it has yet to be seen if the holder of a run, on another machine, is alive."""
    _, found = _newest(run)
    if found is None or found["released"] or found["boot"] == boot():
        return False
    return not _look(run, found).alive


def deaths(run: Path) -> int:
    """How many holders died in a run, one after another: of a run that this process holds, or that is free."""
    _, found = _newest(run)
    if found is None:
        return 0
    return found["deaths"] + (not found["released"] and found["worker"] != WORKER)


class Lease:
    """A lease that this process holds."""

    def __init__(self, run: Path, generation: int, deaths: int):
        self._folder, self._generation = run / FOLDER, generation
        self._content = {
            "worker": WORKER,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot": boot(),
            "deaths": deaths,
            "beat": 0,
            "released": False,
        }
        self._renewed = _now()

    def make(self) -> bool:
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
        for old in self._folder.iterdir():
            if old.name.isdigit() and int(old.name) < self._generation:
                old.unlink(missing_ok=True)
        return True

    def of(self, run: Path) -> bool:
        """Whether this is a lease of a run."""
        return self._folder == run / FOLDER

    def superseded(self) -> bool:
        """Whether another has taken the run over."""
        return self._path(self._generation + 1).exists() or not self._path(self._generation).exists()

    def beat(self) -> bool:
        """Renew the lease; False where it is lost."""
        try:
            if self.superseded():
                return False
            self.write(released=False)
        except OSError:  # slow or read-only for a while
            return _now() - self._renewed < seconds()
        self._renewed = _now()
        return True

    def write(self, released: bool) -> None:
        """Write the next beat. No fsync: a beat that a crash loses was nobody's."""
        self._content |= {"beat": self._content["beat"] + 1, "released": released}
        temporary = self._temporary()
        with contextlib.suppress(OSError) if released else contextlib.nullcontext():
            temporary.write_text(json.dumps(self._content))
            os.replace(temporary, self._path(self._generation))

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation:08d}"

    def _temporary(self) -> Path:
        return self._folder / f".{self._content['worker']}"

    def __str__(self) -> str:
        return str(self._path(self._generation))


class _Heart:
    """The thread that renews the leases of this process."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def check(self, run: Path) -> None:
        with self._lock:
            for lease in self._leases:
                if lease.of(run) and lease.superseded():
                    leave(lease)

    def _run(self) -> None:
        while True:
            time.sleep(seconds() / BEATS)
            with self._lock:
                if not self._leases:
                    self._thread = None
                    return
                for lease in self._leases:
                    if not lease.beat():
                        leave(lease)


def leave(lease: Lease) -> None:
    """End this process, which has lost a lease: whatever it would still write is another's to write."""
    print(f"{lease}: lost to another worker", file=sys.stderr, flush=True)
    os._exit(LOST)


_heart = _Heart()
_seen: dict[Path, "_Seen"] = {}


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What a lease said when this process last looked, since when, and whether it has been seen to change."""

    content: dict[str, Any]
    since: float
    alive: bool


def _look(run: Path, content: dict[str, Any]) -> _Seen:
    """Remember what a lease says now."""
    before = _seen.get(run)
    if before is None or before.content != content:
        same = before is not None and before.content["worker"] == content["worker"]
        _seen[run] = _Seen(content, time.monotonic(), same)
    return _seen[run]


def _lock(file: Any, kind: int = fcntl.LOCK_EX, tries: int = 5) -> bool | None:
    """Try to lock a file; False where a live process has it, None where the file system knows no locks."""
    for attempt in range(tries):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < tries:
                time.sleep(0.005)  # someone may only have looked, as `is_claimed` does
        except OSError:
            return None
        else:
            return True
    return False


def _taken(run: Path, exact: bool) -> Lease | None:
    """The next lease of a run, where there is none that counts; `exact`: no live process of this machine holds it."""
    generation, found = _newest(run)
    died = found is not None and not found["released"]
    if found is not None and died and not (exact and found["boot"] == boot()):
        still = time.monotonic() - _look(run, found).since
        if still < seconds():
            return None
    lease = Lease(run, generation + 1, found["deaths"] + 1 if found is not None and died else 0)
    return lease if lease.make() else None


def _newest(run: Path) -> tuple[int, dict[str, Any] | None]:
    """The highest generation of a run's leases, and what it says; 0 and None where there is none."""
    try:
        names = [entry.name for entry in os.scandir(run / FOLDER) if entry.name.isdigit()]
    except FileNotFoundError:
        return 0, None
    if not names:
        return 0, None
    name = max(names, key=int)
    try:
        found = json.loads((run / FOLDER / name).read_text())
        if UNKNOWN.keys() <= found.keys():
            return int(name), found
    except (OSError, ValueError, AttributeError):
        pass
    return int(name), UNKNOWN


def _now() -> float:
    """Seconds that pass while a machine sleeps, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
