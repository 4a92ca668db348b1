"""The local launcher: worker processes on this machine, watched until the sweep is done."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sweeps import lease, plan as plans, store
from sweeps.placement import Place, places
from training.errors import BadInput, RunFailed
from training.task import resolve as family_of

COMMAND = (sys.executable, "-m", "sweeps.worker")
DEATHS = 2  # as many workers may die in one point, or before their first, before it is given up
GRACE = 60.0  # seconds that workers get to save after a signal

View = Callable[[dict[str, Any]], None]


class Stopped(RuntimeError):
    """The sweep was stopped by a signal; the same command continues it."""

    def __init__(self, number: int, ended: int, total: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with {ended} of {total} runs done; the same command continues the sweep")
        self.exit_code = 128 + number


@dataclasses.dataclass
class Worker:
    """A worker process, and the points that it is at: several where it trains a pack."""

    index: int
    place: Place
    process: subprocess.Popen[str]
    run_ids: set[str] = dataclasses.field(default_factory=set)


def run(
    plan: plans.Plan,
    path: Path | str,
    only: tuple[str, ...] = (),
    workers: int | None = None,
    view: View = lambda event: None,
    command: Sequence[str] | None = None,
    pack: int | None = None,
) -> dict[str, Any]:
    """Run every point of a plan that has not ended, and return what became of all of them.

    Args:
      plan: the points.
      path: the sweep directory; ended runs in it are never run again, cut ones go on.
      only: run only points in these states ("missing", "interrupted", "failed"); all of them, if empty.
      workers: processes; by default as `placement.places` says.
      view: called with every event, each with the `worker` it came from, and once a turn with {"event": "tick"}.
      command: starts a worker; `COMMAND` by default.
      pack: how many runs of a shape a worker trains as one program; by default what `sweeps.pack.choose` finds.
    Returns:
      `sweep`, `path`, `states` (runs by state), `failed` ({run_id, message} each), `ran`, `seconds`, `workers`.
    Raises:
      BadInput: the directory is not this sweep's, its data is missing, or `workers` is not positive.
      Stopped: by a signal, after all workers have saved and left.
      RunFailed: workers cannot start.
    """
    began = time.monotonic()
    if workers is not None and workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {workers}")
    first = plan.points[0].config
    assert first is not None
    # The data is opened, or prepared, once here: what is wrong with it ends the sweep before anything is written.
    family_of(first.task).available(first)
    sweep = store.add(Path(path).absolute(), plan)
    mine = [point.run_id for point in plan.points]
    left = [run_id for run_id in mine if _left(store.state(sweep, run_id), only)]
    largest = max((sweep.entries[run_id].params for run_id in left), default=0)
    chosen = places(workers, len(left), largest) if left else ()
    view({"event": "start", "sweep": sweep, "left": left, "total": len(mine), "places": chosen})
    ran = _Launcher(sweep, left, view, command or COMMAND, pack).run(chosen) if left else 0
    states = {run_id: store.state(sweep, run_id) for run_id in mine}
    failed = [
        {"run_id": run_id, "message": (store.failure(sweep.run(run_id)) or {}).get("message")}
        for run_id, state in states.items()
        if state == "failed"
    ]
    counts = Counter(states.values())
    return {
        "sweep": sweep.name,
        "path": str(path),
        "states": {state: counts[state] for state in store.STATES if counts[state]},
        "ran": ran,
        "failed": failed,
        "workers": [str(place) for place in chosen],
        "seconds": time.monotonic() - began,
    }


def _left(state: str, only: tuple[str, ...]) -> bool:
    return state in only if only else state not in store.ENDED


class _Launcher:
    """The processes of one invocation."""

    def __init__(self, sweep: store.Sweep, left: list[str], view: View, command: Sequence[str], pack: int | None):
        self._sweep, self._left, self._view, self._command = sweep, left, view, tuple(command)
        self._pack, self._count = pack, 1
        self._alone: set[str] = set()  # points that were in a pack in which a worker died
        self._session = uuid.uuid4().hex
        self._events: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self._workers: list[Worker] = []
        self._deaths: Counter[str] = Counter()
        self._ran = 0
        self._signals: list[int] = []

    def run(self, chosen: Sequence[Place]) -> int:
        """Start a worker a place, and watch them to their end; returns the number of runs that ended."""
        self._count = len(chosen)
        with _caught(self._signals):
            try:
                for index, place in enumerate(chosen):
                    self._start(index, place)
                self._watch()
            finally:
                self._kill()
        if self._signals:
            ended = sum(store.state(self._sweep, run_id) in store.ENDED for run_id in self._left)
            raise Stopped(self._signals[0], ended, len(self._left))
        return self._ran

    def _start(self, index: int, place: Place) -> None:
        logs = self._sweep.path / "logs"
        logs.mkdir(exist_ok=True)
        with open(logs / f"worker-{index}.log", "a") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | place.environment(),
                # Ctrl-C reaches the whole group of a terminal: the workers must hear of it once, from here.
                start_new_session=True,
            )
        worker = Worker(index, place, process)
        job = {
            "path": str(self._sweep.path),
            "run_ids": self._left,
            "session": self._session,
            "cores": place.cores,
            "pack": self._pack,
            "workers": self._count,
            "alone": sorted(self._alone),
        }
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which `_watch` will see
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        self._workers.append(worker)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # torn by the worker's death
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, {"event": "gone"}))

    def _watch(self) -> None:
        asked = 0
        deadline = float("inf")
        while self._workers:
            if len(self._signals) > asked:
                if asked or time.monotonic() > deadline:
                    return
                asked, deadline = 1, time.monotonic() + GRACE
                self._view({"event": "stopping"})
                for worker in self._workers:
                    worker.process.terminate()
            if time.monotonic() > deadline:
                return
            try:
                worker, event = self._events.get(timeout=0.2)
            except queue.Empty:
                self._view({"event": "tick"})
                continue
            self._take(worker, event)

    def _take(self, worker: Worker, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "begin":
            worker.run_ids.add(event["run_id"])
        elif kind in ("end", "error"):
            worker.run_ids.discard(event["run_id"])
            self._ran += kind == "end"
        elif kind == "gone":
            self._workers.remove(worker)
            code = worker.process.wait()
            event = {"event": "gone", "run_ids": sorted(worker.run_ids), "code": code}
            if code and not self._signals:
                self._replace(worker, code)
        self._view({**event, "worker": worker.index})

    def _replace(self, worker: Worker, code: int) -> None:
        """A worker died: give up the point that kills worker after worker, and start another worker for the rest.

        Which point of a pack it was is seen when they run alone.
        """
        at = next(iter(worker.run_ids)) if len(worker.run_ids) == 1 else None
        self._alone |= worker.run_ids
        if at is not None or not worker.run_ids:
            self._deaths[at or ""] += 1
            reason = f"its worker died ({_death(code)})"
            if self._deaths[at or ""] >= DEATHS:
                if at is None:
                    log = self._sweep.path / "logs" / f"worker-{worker.index}.log"
                    raise RunFailed(f"worker {worker.index}: {reason}; {log} says why")
                run = self._sweep.run(at)
                with lease.claim(run) as held:
                    if held:
                        store.fail(run, f"{reason} {DEATHS} times", "", self._session)
        self._start(worker.index, worker.place)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()


def _death(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name


@contextlib.contextmanager
def _caught(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
