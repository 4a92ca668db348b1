"""The process around a worker: pinned to its cores before JAX is imported, ended politely by signals.

`python -m sweeps.worker_process` is that of the local launcher. It reads its job, one line of JSON, from its standard input,
and writes an event a line to its standard output. Its standard input stays open: when it ends, the parent is gone, and the
worker saves and leaves.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sweeps import placement
from sweeps.worker_job import WorkerJob, WorkerStopped, describe_error
from training.signals import Interrupted, leave

GRACE = 60.0  # seconds that a worker without a parent gets to save


def serve(job: WorkerJob, report: Callable[..., None]) -> int | None:
    """Be a worker in this process, which answers signals meanwhile.

    Args:
        job: what to do.
        report: as in `sweeps.worker.work`.

    Returns:
        The number of the signal that stopped it; None where none did.
    """
    with _raising_signals():
        try:
            placement.pin(job.cores)
            # JAX is imported here, and not at the top of this file, since libraries count the cores when they are loaded.
            # Collections of garbage meanwhile free nothing: without them the import takes 1.02 instead of 1.17 CPU seconds
            # (medians of seven alternating runs of `import sweeps.worker` with and without `gc.disable()`).
            gc.disable()
            from sweeps import worker
            from training.process import configure_process

            configure_process()
            worker.work(job, report)
        except Interrupted as error:
            return error.number
        except WorkerStopped as error:
            return error.args[0]
    return None


def serve_submitted(job: WorkerJob) -> tuple[int | None, bool]:
    """Be a worker in a process that a cluster started; events are printed.

    Returns:
        What `serve` returns, and whether any run made progress meanwhile.
    """
    kind, _ = placement.accelerators()
    cores = placement.usable_cores()
    if kind == "cpu" and len(cores) == 1:
        os.environ.update(placement.Placement(cores=tuple(cores)).environment())
    progressed = False

    def report(event: str, **values: Any) -> None:
        nonlocal progressed
        progressed = progressed or event in ("progress", "end")
        if event != "progress":
            print(json.dumps({"event": event, **values}), flush=True)

    return serve(job, report), progressed


@contextlib.contextmanager
def _raising_signals() -> Iterator[None]:
    """Raise `WorkerStopped` in the main thread at a signal, where a run's loop does not catch it; a second one ends all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def stop(number: int, frame: object) -> None:
        del frame
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise WorkerStopped(number)

    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main() -> int:
    """The process of the local launcher; returns its exit code."""
    job = WorkerJob.from_json(sys.stdin.readline())
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not end up among the events

    def report(event: str, **values: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, and this process is about to leave
            events.write(json.dumps({"event": event, **values}) + "\n")

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        stopped = serve(job, report)
    except Exception as error:
        report("broken", message=describe_error(error))
        traceback.print_exc()
        return 1
    return 0 if stopped is None else 128 + stopped


def _leave_with_parent() -> None:
    """End this process, politely, once its standard input has ended: its parent is no more."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    leave(main())
