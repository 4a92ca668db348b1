"""Who works on a run: a lease that its holder renews, on any shared file system.

`<run>/leases/<generation>` is made whole and exclusively, by a hard link, and stays; whoever made the highest generation
holds the run. It says who that is, on which boot of which machine, counts heartbeats, and says at last that it is released.
On one machine a lock of `<run>/claim`, which the kernel releases when its holder dies, tells at once who is alive. Of a
holder on another machine only its heartbeats are believed: a lease that has not changed for as long as it lives on the clock
of the one who looks, which no change of the date moves, is taken over. A holder that finds a higher generation than its own,
or could not renew its lease for most of its life, leaves its process at once, writing nothing; at worst two work on one run
for one beat, which the files of a run survive (lines of metrics name their attempt, all else is written whole).
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

from sweeps import foreign
from training.errors import BadInput

LOST = 75  # exit code of a process that lost a lease
FOLDER = "leases"
GENERATION, NAMED = re.compile(r"[0-9]{8,}"), re.compile(r"[0-9a-f]{32}")  # a lease, and a worker
BYTES = 1 << 16  # of a lease
BEATS = 6  # in the life of a lease
MARGIN = 2 / 3  # of its life, after which a holder that could not renew it leaves
BRIEF = (
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
)  # errors of a directory that may come back
WORKER = uuid.uuid4().hex  # this process
# What is taken from a file that a crash tore, where there are no hard links, or that was taken over this moment.
UNKNOWN = {"worker": "", "boot": "", "beat": -1, "released": False, "deaths": 0, "seconds": 0.0}


def seconds() -> float:
    """For how long a lease that is not renewed is respected: `$ISOFLOP_LEASE_SECONDS`, else a minute.

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
    """The machine, since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():x}"


def _here(run: Path) -> str:
    """This boot of this machine, and the file system of a run as it is mounted: where a lock is seen by all."""
    return f"{boot()}:{run.stat().st_dev}"


@contextlib.contextmanager
def claim(run: Path) -> Iterator[bool]:
    """Try to hold a run; False where a live process holds it, or one that may be alive.

    Raises:
      OSError: the directory cannot be written, and did not come back within the life of a lease.
    """
    with contextlib.ExitStack() as stack:
        lease = _attempt(run, stack)
        if lease is None:
            yield False
            return
        _heart.add(lease)
        try:
            yield True
        finally:
            _heart.remove(lease)
            lease.write(released=True)


def _attempt(run: Path, stack: contextlib.ExitStack) -> "Lease | None":
    deadline = _now() + seconds()
    while True:
        try:
            run.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(run / "claim", "a"))  # noqa: SIM115 - closed with the stack
            local = _lock(file)
            return None if local is False else _taken(run, exact=local is True)
        except OSError as error:
            stack.close()
            if error.errno not in BRIEF or _now() > deadline:
                raise
            time.sleep(seconds() / BEATS)


def check(run: Path) -> None:
    """Leave this process where it held a run and has lost it: to be called before what ends a run is written, since a
    process that was stopped may go on before its heart does."""
    _heart.check(run)


def is_claimed(run: Path) -> bool:
    """Whether a run seems to be worked on, for people to see: of another machine's lease by how old its file is.

    Raises:
      BadInput: the file `claim` is not one that a worker made.
    """
    if foreign.stamp(run / "claim", run.parents[1], BYTES) is None:
        return False
    try:
        with open(run / "claim") as file:
            if _lock(file, fcntl.LOCK_SH, tries=1) is False:
                return True
    except FileNotFoundError:  # gone meanwhile
        return False
    _, found = _newest(run)
    if found is None or found["released"] or found["boot"] == _here(run):
        return False
    with contextlib.suppress(OSError):
        return time.time() - (run / FOLDER).stat().st_mtime < seconds()
    return False


def doubtful(run: Path) -> bool:
    """Whether it has yet to be seen if the holder of a run, on another machine, is alive."""
    _, found = _newest(run)
    if found is None or found["released"] or found["boot"] == _here(run):
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
            "boot": _here(run),
            "seconds": seconds(),
            "deaths": deaths,
            "beat": 0,
            "released": False,
        }
        self._renewed = _now()
        self._writing = threading.Lock()

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
        return True

    @property
    def overdue(self) -> bool:
        """Whether it could not be renewed for so long that another may be about to take over."""
        return _now() - self._renewed > MARGIN * self.seconds

    @property
    def seconds(self) -> float:
        """For how long it is respected without being renewed."""
        return self._content["seconds"]

    def of(self, run: Path) -> bool:
        """Whether this is a lease of a run."""
        return self._folder == run / FOLDER

    def superseded(self) -> bool:
        """Whether another has taken the run over."""
        return self._path(self._generation + 1).exists() or not self._path(self._generation).exists()

    def beat(self) -> bool:
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
        """Write the next beat, the last where it is released. No fsync: a beat that a crash loses was nobody's."""
        with self._writing, contextlib.suppress(OSError) if released else contextlib.nullcontext():
            if self._content["released"]:
                return  # a beat that was under way when the run ended
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


class _Heart:
    """The threads of this process that renew its leases, and that leave where they cannot be renewed."""

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
                for act in (self._renew, self._guard):
                    threading.Thread(target=self._beat, args=(act,), daemon=True).start()

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

    def _beat(self, act: Callable[[Lease], None]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leases)
                period = min(lease.seconds for lease in self._leases) / BEATS
            time.sleep(period)
            for lease in self._held():
                act(lease)

    def _renew(self, lease: Lease) -> None:
        if not lease.beat() and lease in self._held():
            leave(lease)

    def _guard(self, lease: Lease) -> None:
        """Apart from the writing, which may hang for as long as a server is away."""
        if lease.overdue:
            leave(lease)


def leave(lease: Lease) -> None:
    """End this process, which has lost a lease: whatever it would still write is another's to write."""
    print(f"{lease}: lost to another worker", file=sys.stderr, flush=True)
    os._exit(LOST)


_heart = _Heart()
_seen: dict[Path, "_Seen"] = {}


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What a lease said when this process last looked, and when that was, since when, and whether it was seen to change."""

    content: dict[str, Any]
    since: float
    alive: bool
    looked: float


def _look(run: Path, content: dict[str, Any]) -> _Seen:
    """Remember what a lease says now."""
    before, now = _seen.get(run), _now()
    if before is not None and before.content == content:
        _seen[run] = dataclasses.replace(before, looked=now)
    else:
        # A change proves life only where it happened lately: not where the one before was seen an hour ago.
        same = before is not None and before.content["worker"] == content["worker"]
        alive = same and before is not None and now - before.looked < _life(content)
        _seen[run] = _Seen(content, now, alive, now)
    return _seen[run]


def _life(content: dict[str, Any]) -> float:
    """For how long a lease is respected: as long as its holder counts on, and as those who look are told to."""
    return max(content["seconds"], seconds())


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
    if found is not None and died and not (exact and found["boot"] == _here(run)):
        still = _now() - _look(run, found).since
        if still < _life(found):
            return None
    lease = Lease(run, generation + 1, found["deaths"] + 1 if found is not None and died else 0)
    if not lease.make():
        return None
    if found is not None and NAMED.fullmatch(str(found["worker"])):  # what it was writing when it died
        (run / FOLDER / f".{found['worker']}").unlink(missing_ok=True)
    return lease


def _newest(run: Path) -> tuple[int, dict[str, Any] | None]:
    """The highest generation of a run's leases, and what it says; 0 and None where there is none."""
    try:
        names = [entry.name for entry in os.scandir(run / FOLDER) if GENERATION.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    if not names:
        return 0, None
    name = max(names, key=int)
    try:
        file = run / FOLDER / name
        if foreign.stamp(file, run.parents[1], BYTES) is not None:
            found = foreign.load(file.read_text(), file)
            if UNKNOWN.keys() <= found.keys():
                return int(name), found
    except (OSError, ValueError, AttributeError, BadInput):
        pass
    return int(name), UNKNOWN


def _now() -> float:
    """Seconds that pass while a machine sleeps, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
