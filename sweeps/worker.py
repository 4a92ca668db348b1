"""One worker of a sweep: claims points from the sweep directory, one after another, until nothing is left for it.

Any launcher that can start a process can call `work` on a shared directory; `sweeps.worker_process` is the process around
it. This module imports JAX, so a process must be pinned to its cores before it imports this.
"""

import contextlib
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sweeps import branches, lease, plan_storage, run_batching, sweep_dir
from sweeps.branches import Readiness
from sweeps.sweep_dir import Entry, Sweep
from sweeps.worker_job import WorkerJob, WorkerStopped, describe_error
from training import loop, signals
from training.config import resolve
from training.run_session import RunSpec

Report = Callable[..., None]  # called with an event ("begin", "progress", "end", "error") and its values
# As many holders of one run may die, one after another, before it is given up, whichever invocation started them. The
# count is in its leases; evictions count too, hence the generous limit.
MAX_DEATHS_OF_A_RUN = 10
PROGRESS_SECONDS = 0.5  # between two reports of progress
TRUNK_SECONDS = 1.0  # between two looks at a trunk that another worker is at


@dataclasses.dataclass
class Queue:
    """The points that are left for a worker, in the order in which it would like them.

    First a point whose compiled step it has, then one of a shape that no one has begun, then any; the shape with the
    most work first, and in it the longest run first, so that the sweep ends evenly.

    Attributes:
        entries: the points by run id.
        folder: the run directory of a run id.
        compiled: compile keys of the shapes that this worker has begun.
        begun: run ids that were reported as begun.
    """

    entries: dict[str, Entry]
    folder: Callable[[str], Path]
    compiled: set[str] = dataclasses.field(default_factory=set)
    begun: set[str] = dataclasses.field(default_factory=set)

    def begin(self, entry: Entry, report: Report) -> None:
        """Report that a point is begun, once."""
        if entry.run_id not in self.begun:
            self.begun.add(entry.run_id)
            report("begin", run_id=entry.run_id)

    def ranked(self) -> list[Entry]:
        """The points from the best on."""
        flops: dict[str, float] = {}
        for entry in self.entries.values():
            flops[entry.compile_key] = flops.get(entry.compile_key, 0.0) + entry.own_flops
        begun = {entry.compile_key for entry in self.entries.values() if self.folder(entry.run_id).exists()}

        def rank(entry: Entry) -> tuple[Any, ...]:
            key = entry.compile_key
            return key not in self.compiled, key in begun, -flops[key], key, -entry.flops

        return sorted(self.entries.values(), key=rank)


def work(job: WorkerJob, report: Report) -> None:
    """Run points of a sweep directory until none of them is left to begin.

    A process that loses the lease of a run is ended at once, by `os._exit(75)` from a thread (`sweeps.lease`): call this
    in a process that does nothing else.

    Raises:
        Interrupted, WorkerStopped: by a signal; everything can be continued.
    """
    signals.late()
    sweep = sweep_dir.read(Path(job.path))
    queue = Queue({run_id: sweep.entries[run_id] for run_id in job.run_ids}, sweep.run)
    while True:
        while _run_next(sweep, queue, job, report):
            pass
        if _wait_for_trunks(sweep, queue, job, report):
            time.sleep(TRUNK_SECONDS)
            continue
        if not any(lease.is_undecided(sweep.run(run_id)) for run_id in queue.entries):
            return
        time.sleep(lease.seconds() / lease.RENEWALS)  # until it is known whether their holders, elsewhere, are alive


def _run_next(sweep: Sweep, queue: Queue, job: WorkerJob, report: Report) -> bool:
    """Run the best free point and those batched with it; False where others hold all that is left, and will end it.

    Raises:
        WorkerStopped: a signal came when the run had made its last step.
    """
    with contextlib.ExitStack() as leases:
        ready = [e for e in queue.ranked() if branches.look(sweep, e, job.session).readiness is Readiness.READY]
        claimed = _claim(sweep, queue, job.session, ready, 1, leases)
        if not claimed:
            return False
        first = claimed[0]
        queue.compiled.add(first.compile_key)
        if _can_batch(sweep, first, job):
            others = [e for e in ready if e.run_id in queue.entries]
            others = [e for e in others if e.compile_key == first.compile_key and _can_batch(sweep, e, job)]
            if job.run_batch is None and others:
                queue.begin(first, report)  # measuring its batches may be the end of this process
            size = _batch_size(sweep, [first, *others], job)
            claimed += _claim(sweep, queue, job.session, others, size - 1, leases)
        for entry in claimed:
            queue.begin(entry, report)
        _train(sweep, claimed, job.session, report)
    if (number := signals.late()) is not None:
        raise WorkerStopped(number)
    return True


def _wait_for_trunks(sweep: Sweep, queue: Queue, job: WorkerJob, report: Report) -> bool:
    """Whether a branch waits for its trunk; those that wait in vain are recorded as failed, with their trunk's name.

    Args:
        sweep: the sweep directory.
        queue: the points that are left; loses those that failed.
        job: of this worker.
        report: of failures.
    """
    waits = False
    for entry in [entry for entry in queue.ranked() if entry.trunk]:
        held = entry.trunk in queue.entries or lease.is_claimed(sweep.run(entry.trunk))
        readiness, reason = branches.look(sweep, entry, job.session)
        if readiness is Readiness.READY:  # only just, or another worker is at it
            waits = waits or not lease.is_claimed(sweep.run(entry.run_id))
            continue
        if readiness is Readiness.WAITING and held:
            waits = True
            continue
        reason = reason or f"not run: its trunk {entry.trunk} was not"
        with lease.claim(sweep.run(entry.run_id)) as claimed:
            if claimed:
                del queue.entries[entry.run_id]
                if _is_wanted(sweep.run(entry.run_id), job.session):
                    sweep_dir.fail(sweep.run(entry.run_id), reason, "", job.session)
                    report("error", run_id=entry.run_id, message=reason)
    return waits


def _claim(
    sweep: Sweep, queue: Queue, session: str, entries: Iterable[Entry], limit: int, leases: contextlib.ExitStack
) -> list[Entry]:
    """Claim points, from the first on; those that others hold are passed over.

    Args:
        sweep: the sweep directory.
        queue: loses the points that were claimed, also those that turn out to need no run.
        session: as in `WorkerJob`.
        entries: the candidates.
        limit: how many to claim at most.
        leases: holds the claims until it is closed.
    """
    claimed: list[Entry] = []
    for entry in entries:
        if len(claimed) == limit:
            break
        with contextlib.ExitStack() as claims:
            if not claims.enter_context(lease.claim(sweep.run(entry.run_id))):
                continue
            del queue.entries[entry.run_id]
            if _is_wanted(sweep.run(entry.run_id), session) and not _give_up(sweep.run(entry.run_id), session):
                claimed.append(entry)
                leases.push(claims.pop_all())
    return claimed


def _give_up(run: Path, session: str) -> bool:
    """Whether worker after worker died in a run that was just claimed: it is recorded as failed then."""
    deaths = lease.deaths(run)
    if deaths >= MAX_DEATHS_OF_A_RUN:
        sweep_dir.fail(run, f"{deaths} workers died in it, one after another", "", session)
    return deaths >= MAX_DEATHS_OF_A_RUN


def _can_batch(sweep: Sweep, entry: Entry, job: WorkerJob) -> bool:
    """Whether a point may be batched with others: not where a worker died that was at it."""
    return entry.run_id not in job.unbatched and not lease.deaths(sweep.run(entry.run_id))


def _batch_size(sweep: Sweep, entries: list[Entry], job: WorkerJob) -> int:
    """How many of some points of one shape to run at once."""
    if job.run_batch is not None or len(entries) == 1:
        return job.run_batch or 1
    occupied = ("running", *sweep_dir.ENDED)
    free = [entry for entry in entries if entry is entries[0] or sweep_dir.state(sweep, entry.run_id) not in occupied]
    share = -(-len(free) // job.workers)
    try:
        config = resolve(plan_storage.run_config(sweep, entries[0]))
        return run_batching.choose_size(config, share, sum(entry.own_flops for entry in free[:share]))
    except Exception:  # what is wrong with the point is said when it is run; what is not, in the worker's log
        traceback.print_exc()
        return 1


def _is_wanted(run: Path, session: str) -> bool:
    """Whether a run that was just claimed is still to be made: another worker may have ended it, or failed in it."""
    if (run / "result.json").exists():
        return False
    return (sweep_dir.failure(run) or {}).get("session") != session


def _train(sweep: Sweep, entries: list[Entry], session: str, report: Report) -> None:
    """Train runs of one shape to their ends; what goes wrong in one is recorded, and is no reason to stop.

    What failed in a batch is tried alone before it is reported: the batch may have been too large.

    Args:
        sweep: the sweep directory.
        entries: the points, whose leases this process holds.
        session: is recorded with a failure.
        report: of their ends.
    """
    began = time.monotonic()
    outcomes: list[Any] = [None] * len(entries)
    specs: list[RunSpec | None] = [None] * len(entries)
    for i, entry in enumerate(entries):
        run = sweep.run(entry.run_id)
        (run / "error.json").unlink(missing_ok=True)
        try:
            specs[i] = RunSpec(
                branches.configure(sweep, entry, plan_storage.run_config(sweep, entry)),
                run,
                (_progress_logger(entry.run_id, report),),
                extra={"sweep": sweep.name, **entry.labels},
                check=functools.partial(lease.check, run),
            )
        except Exception as error:
            outcomes[i] = error
    ready = [(i, spec) for i, spec in enumerate(specs) if spec is not None]
    for (i, spec), outcome in zip(ready, loop.train([spec for _, spec in ready]), strict=True):
        again_alone = isinstance(outcome, Exception) and len(ready) > 1
        outcomes[i] = loop.train([spec])[0] if again_alone else outcome
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Exception):
            message = describe_error(outcome)
            trace = "".join(traceback.format_exception(outcome))
            sweep_dir.fail(sweep.run(entry.run_id), message, trace, session)
            report("error", run_id=entry.run_id, message=message)
        else:
            seconds = time.monotonic() - began
            report("end", run_id=entry.run_id, status=outcome["status"], loss=outcome["loss"], seconds=seconds)
            branches.release(sweep, entry.trunk or entry.run_id)


def _progress_logger(run_id: str, report: Report) -> Callable[[int, dict[str, Any]], None]:
    last_report = 0.0

    def log(step: int, metrics: dict[str, Any]) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > PROGRESS_SECONDS:
            last_report = time.monotonic()
            report("progress", run_id=run_id, step=step, loss=metrics.get("loss"))

    return log
