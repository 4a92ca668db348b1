"""One worker of a sweep: claims points from the sweep directory, one after another, until nothing is left for it.

`python -m sweeps.worker` reads its job, one line of JSON, from its standard input, and writes an event a line to its
standard output. Its standard input stays open: when it ends, the parent is gone, and the worker saves and leaves. The
loop, `work`, needs nothing of this: any launcher that can start a process can call it on a shared directory.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# JAX and everything that imports it come in only after the process has been pinned: see `main`.

Report = Callable[..., None]
GRACE = 60.0  # seconds that a worker without a parent gets to save
DEATHS = 10  # holders that may die in a point, one after another, wherever they were started; evictions count
QUIET = 0.5  # seconds between two reports of progress


class Stopped(BaseException):
    """A signal between two runs, or before the first step of one."""


@dataclasses.dataclass
class Queue:
    """The points that are left for this worker, in the order in which it would like them.

    First a point whose compiled step it has, then one of a group that no one has begun, then any; the group with the
    most work first, and in it the longest run first, so that the sweep ends evenly.
    """

    entries: dict[str, Any]
    folder: Callable[[str], Path]
    mine: set[str] = dataclasses.field(default_factory=set)
    begun: set[str] = dataclasses.field(default_factory=set)

    def begin(self, entry: Any, report: Report) -> None:
        """Report that a point is begun, once."""
        if entry.run_id not in self.begun:
            self.begun.add(entry.run_id)
            report("begin", run_id=entry.run_id)

    def ranked(self) -> list[Any]:
        """The points from the best on."""
        work: dict[str, float] = {}
        for entry in self.entries.values():
            work[entry.group] = work.get(entry.group, 0.0) + entry.flops
        begun = {entry.group for entry in self.entries.values() if self.folder(entry.run_id).exists()}

        def rank(entry: Any) -> tuple[Any, ...]:
            return entry.group not in self.mine, entry.group in begun, -work[entry.group], entry.group, -entry.flops

        return sorted(self.entries.values(), key=rank)


@dataclasses.dataclass(frozen=True)
class Packing:
    """How many runs of a shape a worker takes at once.

    Attributes:
      size: a number of runs; None: what `sweeps.pack.choose` finds.
      workers: among whom the points of a shape are shared out.
      alone: points that are not packed, since a worker died in a pack with them.
    """

    size: int | None = 1
    workers: int = 1
    alone: frozenset[str] = frozenset()


def work(
    path: Path,
    run_ids: Iterable[str],
    session: str,
    report: Report,
    packing: Packing = Packing(),
) -> None:
    """Run points of a sweep directory until none of them is left to begin.

    Args:
      path: the sweep directory.
      run_ids: the points that may be run.
      session: names this invocation of the sweep; a point that failed in it is not tried again.
      report: called with an event ("begin", "progress", "end", "error") and its values.
      packing: how many of them at once.
    Raises:
      Interrupted, Stopped: by a signal; everything can be continued.
    """
    from sweeps import lease, store
    from training import signals

    signals.late()
    sweep = store.read(path)
    queue = Queue({run_id: sweep.entries[run_id] for run_id in run_ids}, sweep.run)
    while True:
        while _next(sweep, queue, session, report, packing):
            pass
        if not any(lease.doubtful(sweep.run(run_id)) for run_id in queue.entries):
            return
        time.sleep(lease.seconds() / lease.BEATS)  # until it is seen whether their holders, elsewhere, are alive


def _next(sweep: Any, queue: Queue, session: str, report: Report, packing: Packing) -> bool:
    """Run the best point that is free, and those that go with it; False where others hold all that is left, and will
    end it.

    Raises:
      Stopped: a signal came when the run had made its last step.
    """
    from training import signals

    with contextlib.ExitStack() as held:
        taken = _take(sweep, queue, session, queue.ranked(), 1, held)
        if not taken:
            return False
        first = taken[0]
        queue.mine.add(first.group)
        if _packable(sweep, first, packing):
            others = [e for e in queue.ranked() if e.group == first.group and _packable(sweep, e, packing)]
            if packing.size is None and others:
                queue.begin(first, report)  # measuring its packs may be the end of this process
            size = _size(sweep, [first, *others], packing)
            taken += _take(sweep, queue, session, others, size - 1, held)
        for entry in taken:
            queue.begin(entry, report)
        _run(sweep, taken, session, report)
    if (number := signals.late()) is not None:
        raise Stopped(number)
    return True


def _take(
    sweep: Any, queue: Queue, session: str, entries: Iterable[Any], most: int, held: contextlib.ExitStack
) -> list[Any]:
    """Claim up to `most` of some points, from the first on; claims are held until `held` is closed."""
    from sweeps import lease

    taken: list[Any] = []
    for entry in entries:
        if len(taken) == most:
            break
        with contextlib.ExitStack() as claims:
            if not claims.enter_context(lease.claim(sweep.run(entry.run_id))):
                continue
            del queue.entries[entry.run_id]
            if _wanted(sweep.run(entry.run_id), session) and not _given_up(sweep.run(entry.run_id), session):
                taken.append(entry)
                held.push(claims.pop_all())
    return taken


def _given_up(run: Path, session: str) -> bool:
    """Whether worker after worker died in a point that was just claimed: it is recorded as failed then."""
    from sweeps import lease, store

    died = lease.deaths(run)
    if died >= DEATHS:
        store.fail(run, f"{died} workers died in it, one after another", "", session)
    return died >= DEATHS


def _packable(sweep: Any, entry: Any, packing: Packing) -> bool:
    """Whether a point may go into a pack: not where a worker died that was at it."""
    from sweeps import lease

    return entry.run_id not in packing.alone and not lease.deaths(sweep.run(entry.run_id))


def _size(sweep: Any, entries: list[Any], packing: Packing) -> int:
    """How many of some points of one shape to run at once."""
    from sweeps import pack, store
    from training.config import resolve

    if packing.size is not None or len(entries) == 1:
        return packing.size or 1
    gone = ("running", *store.ENDED)
    free = [entry for entry in entries if entry is entries[0] or store.state(sweep, entry.run_id) not in gone]
    share = -(-len(free) // packing.workers)
    try:
        return pack.choose(resolve(sweep.config(entries[0])), share, sum(entry.flops for entry in free[:share]))
    except Exception:  # what is wrong with the point is said when it is run; what is not, in the worker's log
        traceback.print_exc()
        return 1


def _wanted(run: Path, session: str) -> bool:
    """Whether a point that was just claimed is still to be run: another worker may have ended it, or failed in it."""
    from sweeps import store

    if (run / "result.json").exists():
        return False
    return (store.failure(run) or {}).get("session") != session


def _run(sweep: Any, entries: list[Any], session: str, report: Report) -> None:
    """Runs of one shape to their ends; what goes wrong in one is recorded, and is no reason to stop.

    What failed in a pack is tried alone, before anything is said of it: the pack may have been too large.
    """
    from sweeps import lease, store
    from training import loop

    began = time.monotonic()
    outcomes: list[Any] = [None] * len(entries)
    jobs: list[Any] = [None] * len(entries)
    for i, entry in enumerate(entries):
        run = sweep.run(entry.run_id)
        (run / "error.json").unlink(missing_ok=True)
        try:
            jobs[i] = loop.Job(
                sweep.config(entry),
                run,
                (_observer(entry.run_id, report),),
                extra={"sweep": sweep.name, **entry.labels},
                check=functools.partial(lease.check, run),
            )
        except Exception as error:
            outcomes[i] = error
    able = [i for i, job in enumerate(jobs) if job is not None]
    for i, outcome in zip(able, loop.together([jobs[i] for i in able]), strict=True):
        alone = isinstance(outcome, Exception) and len(able) > 1
        outcomes[i] = loop.together([jobs[i]])[0] if alone else outcome
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Exception):
            message = _said(outcome)
            trace = "".join(traceback.format_exception(outcome))
            store.fail(sweep.run(entry.run_id), message, trace, session)
            report("error", run_id=entry.run_id, message=message)
        else:
            seconds = time.monotonic() - began
            report("end", run_id=entry.run_id, status=outcome["status"], loss=outcome["loss"], seconds=seconds)


def _observer(run_id: str, report: Report) -> Callable[[int, dict[str, Any]], None]:
    told = [0.0]

    def observe(step: int, metrics: dict[str, Any]) -> None:
        if time.monotonic() - told[0] > QUIET:
            told[0] = time.monotonic()
            report("progress", run_id=run_id, step=step, loss=metrics.get("loss"))

    return observe


def serve(
    path: Path, run_ids: Iterable[str], session: str, packing: Packing, report: Report, cores: Sequence[int] = ()
) -> int | None:
    """Be a worker in this process, which answers signals meanwhile; returns the one that stopped it, None where none did.

    Args: as in `work`, and
      cores: to be pinned to.
    """
    from sweeps import placement

    with _answering():
        try:
            placement.pin(cores)
            prepare()
            from training.signals import Interrupted

            try:
                work(path, run_ids, session, report, packing)
            except Interrupted as error:
                return error.number
        except Stopped as error:
            return error.args[0]
    return None


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Raise `Stopped` in the main thread at a signal, where the loop of a run does not catch it; a second one ends all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def stop(number: int, frame: object) -> None:
        del frame
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main() -> int:
    """The process of the local launcher: reads its job from standard input, and writes events to standard output."""
    job = json.loads(sys.stdin.readline())
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not end up among the events

    def report(event: str, **values: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: `_watch` sees to that
            events.write(json.dumps({"event": event, **values}) + "\n")

    threading.Thread(target=_watch, daemon=True).start()
    packing = Packing(job["pack"], job["workers"], frozenset(job["alone"]))
    try:
        stopped = serve(Path(job["path"]), job["run_ids"], job["session"], packing, report, job["cores"])
    except Exception as error:
        report("broken", message=_said(error))
        traceback.print_exc()
        return 1
    return 0 if stopped is None else 128 + stopped


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _watch() -> None:
    """End this process, politely, once its standard input has ended: its parent is no more."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def prepare() -> None:
    """Process-wide settings: no collection of garbage looks at what is imported, the allocator keeps its memory, compiled
    programs are kept on disk, with one core no step is called before the last one has ended: it would not begin sooner,
    and a second set of temporaries slows both."""
    gc.disable()
    import jax

    from sweeps import pack, placement  # noqa: F401 - with all that a run needs
    from training import allocator, compilation, loop  # noqa: F401

    gc.freeze()
    gc.enable()
    allocator.keep_freed_memory()
    compilation.persist()
    if len(placement.usable_cores()) == 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


if __name__ == "__main__":
    from training.signals import leave

    leave(main())
