"""The local launcher: worker processes on this machine, each on its own cores or accelerator, watched to their end."""

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
from collections.abc import Sequence
from typing import Any

from sweeps import lease, placement, store
from sweeps.launch.launcher import Options, View
from sweeps.placement import Place
from training.errors import BadInput, RunFailed

COMMAND = (sys.executable, "-m", "sweeps.worker")
DEATHS = 2  # as many workers may die in one point, or before their first, before it is given up
GRACE = 60.0  # seconds that workers get to save after a signal


def check(options: Options) -> None:
    """Raise BadInput where an option is not for this launcher."""
    if options.engine or options.detach:
        named = f"--engine {next(iter(options.engine))}" if options.engine else "--detach"
        raise BadInput(f"{named}: the local launcher has no engine behind it; give --launcher=slurm or ray")


def places(sweep: store.Sweep, left: list[str], options: Options) -> tuple[Place, ...]:
    """Where each worker will be."""
    entries = [sweep.entries[run_id] for run_id in left]
    return placement.places(options.workers, [e.flops for e in entries], max(e.params for e in entries))


def launch(sweep: store.Sweep, left: list[str], options: Options, view: View, signals: list[int]) -> int:
    """Run points in worker processes; see `sweeps.launch.launcher.Launcher`.

    Raises:
      RunFailed: workers cannot start.
    """
    return _Processes(sweep, left, options, view, signals).run(places(sweep, left, options))


@dataclasses.dataclass
class Worker:
    """A worker process, and the points that it is at: several where it trains a pack."""

    index: int
    place: Place
    process: subprocess.Popen[str]
    run_ids: set[str] = dataclasses.field(default_factory=set)
    broken: str | None = None  # what it said before it died


class _Processes:
    """The processes of one invocation."""

    def __init__(self, sweep: store.Sweep, left: list[str], options: Options, view: View, signals: list[int]):
        self._sweep, self._left, self._view, self._signals = sweep, left, view, signals
        self._command, self._pack, self._count = options.command or COMMAND, options.pack, 1
        self._alone: set[str] = set()  # points that were in a pack in which a worker died
        self._session = uuid.uuid4().hex
        self._events: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self._workers: list[Worker] = []
        self._deaths: Counter[str] = Counter()
        self._ran = 0

    def run(self, chosen: Sequence[Place]) -> int:
        """Start a worker a place, and watch them to their end; returns the number of runs that ended."""
        self._count = len(chosen)
        try:
            for index, place in enumerate(chosen):
                self._start(index, place)
            self._watch()
        finally:
            self._kill()
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
        elif kind == "broken":
            worker.broken = event["message"]
            return
        elif kind == "gone":
            self._workers.remove(worker)
            code = worker.process.wait()
            event = {"event": "gone", "run_ids": sorted(worker.run_ids), "code": code}
            if code and not self._signals:
                self._replace(worker, code)
        self._view({**event, "worker": worker.index})

    def _replace(self, worker: Worker, code: int) -> None:
        """A worker died: give up the point that kills worker after worker, and start another worker for the rest.

        Which point of a pack it was is seen when they run alone. A worker that lost a lease did not die of its point.
        """
        if code == lease.LOST:
            return self._start(worker.index, worker.place)
        at = next(iter(worker.run_ids)) if len(worker.run_ids) == 1 else None
        self._alone |= worker.run_ids
        if at is not None or not worker.run_ids:
            self._deaths[at or ""] += 1
            reason = f"its worker died ({worker.broken or _death(code)})"
            if self._deaths[at or ""] >= DEATHS:
                if at is None:
                    log = self._sweep.path / "logs" / f"worker-{worker.index}.log"
                    raise RunFailed(f"worker {worker.index}: {reason}; {log} says why")
                run = self._sweep.run(at)
                with lease.claim(run) as held:
                    if held:
                        store.fail(run, f"{reason} {DEATHS} times", "", self._session)
        return self._start(worker.index, worker.place)

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
