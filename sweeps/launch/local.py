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

from sweeps import lease, placement, sweep_dir
from sweeps.launch.launcher import OnEvent, Options
from sweeps.placement import Placement
from sweeps.sweep_dir import Sweep
from sweeps.worker_job import WorkerJob
from training.errors import BadInput, RunFailed

COMMAND = (sys.executable, "-m", "sweeps.worker_process")
# As many workers of one invocation may die in one point before it is given up, or before their first point before the sweep
# is. `sweeps.worker.MAX_DEATHS_OF_A_RUN` bounds the deaths in a point over all invocations and machines.
MAX_DEATHS = 2
GRACE = 60.0  # seconds that workers get to save after a signal


def check(options: Options) -> None:
    """Raise BadInput where an option is not for this launcher."""
    if options.launcher_options or options.detach:
        flag = f"--launcher_option {next(iter(options.launcher_options))}" if options.launcher_options else "--detach"
        raise BadInput(f"{flag}: is not for the local launcher; give --launcher=slurm or ray")


def placements(sweep: Sweep, run_ids: list[str], options: Options) -> tuple[Placement, ...]:
    """The cores or the accelerator of each worker.

    Where runs are to go on that began with one number of CPU threads, workers have as many cores: with more of them the
    last digits of a loss would change.

    Args:
        sweep, run_ids, options: as in `sweeps.launch.launcher.Launcher.placements`.
    """
    entries = [sweep.entries[run_id] for run_id in run_ids]
    begun = {sweep_dir.first_threads(sweep.run(run_id)) for run_id in run_ids} - {None}
    threads = begun.pop() if len(begun) == 1 else None
    return placement.placements(
        options.workers, [e.own_flops for e in entries], max(e.params for e in entries), threads
    )


def launch(sweep: Sweep, run_ids: list[str], options: Options, on_event: OnEvent, signals: list[int]) -> int:
    """Run points in worker processes; returns how many ended.

    Args:
        sweep, run_ids, options, on_event, signals: as in `sweeps.launch.launcher.Launcher.launch`.

    Raises:
        RunFailed: workers cannot start.
    """
    return _Processes(sweep, run_ids, options, on_event, signals).run(placements(sweep, run_ids, options))


@dataclasses.dataclass
class Worker:
    """A worker process.

    Attributes:
        index: its number.
        placement: its cores or accelerator.
        process: the process.
        run_ids: the points that it is at: several where it trains a batch.
        error: what it reported before it died.
    """

    index: int
    placement: Placement
    process: subprocess.Popen[str]
    run_ids: set[str] = dataclasses.field(default_factory=set)
    error: str | None = None


class _Processes:
    """The worker processes of one invocation; the arguments are those of `launch`."""

    def __init__(self, sweep: Sweep, run_ids: list[str], options: Options, on_event: OnEvent, signals: list[int]):
        self._sweep, self._run_ids, self._on_event, self._signals = sweep, run_ids, on_event, signals
        self._command, self._run_batch, self._count = options.command or COMMAND, options.run_batch, 1
        self._unbatched: set[str] = set()  # points that were in a batch in which a worker died
        self._session = uuid.uuid4().hex
        self._events: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self._workers: list[Worker] = []
        self._deaths: Counter[str] = Counter()  # of workers, by the point; "": before their first
        self._ended = 0

    def run(self, placements: Sequence[Placement]) -> int:
        """Start a worker a placement, and watch them to their end; returns the number of runs that ended."""
        self._count = len(placements)
        try:
            for index, placement in enumerate(placements):
                self._start(index, placement)
            self._watch()
        finally:
            self._kill()
        return self._ended

    def _start(self, index: int, placement: Placement) -> None:
        logs = self._sweep.path / "logs"
        logs.mkdir(exist_ok=True)
        with open(logs / f"worker-{index}.log", "a") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | placement.environment(),
                # Ctrl-C reaches the whole group of a terminal: the workers must hear of it once, from here.
                start_new_session=True,
            )
        worker = Worker(index, placement, process)
        job = WorkerJob(
            str(self._sweep.path),
            tuple(self._run_ids),
            self._session,
            self._run_batch,
            self._count,
            tuple(sorted(self._unbatched)),
            placement.cores,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which `_watch` will find
            process.stdin.write(job.to_json() + "\n")
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
        asked_to_stop = 0
        deadline = float("inf")
        while self._workers:
            if len(self._signals) > asked_to_stop:
                if asked_to_stop or time.monotonic() > deadline:
                    return
                asked_to_stop, deadline = 1, time.monotonic() + GRACE
                self._on_event({"event": "stopping"})
                for worker in self._workers:
                    worker.process.terminate()
            if time.monotonic() > deadline:
                return
            try:
                worker, event = self._events.get(timeout=0.2)
            except queue.Empty:
                self._on_event({"event": "tick"})
                continue
            self._handle(worker, event)

    def _handle(self, worker: Worker, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "begin":
            worker.run_ids.add(event["run_id"])
        elif kind in ("end", "error"):
            worker.run_ids.discard(event["run_id"])
            self._ended += kind == "end"
        elif kind == "broken":
            worker.error = event["message"]
            return
        elif kind == "gone":
            self._workers.remove(worker)
            code = worker.process.wait()
            event = {"event": "gone", "run_ids": sorted(worker.run_ids), "code": code}
            if code and not self._signals:
                self._replace(worker, code)
        self._on_event({**event, "worker": worker.index})

    def _replace(self, worker: Worker, code: int) -> None:
        """A worker died: give up the point that kills worker after worker, and start another worker for the rest.

        Which point of a batch it was is found out by running them alone. A worker that lost a lease did not die of its
        point.
        """
        if code == lease.LOST:
            return self._start(worker.index, worker.placement)
        run_id = next(iter(worker.run_ids)) if len(worker.run_ids) == 1 else None
        self._unbatched |= worker.run_ids
        if run_id is not None or not worker.run_ids:
            self._deaths[run_id or ""] += 1
            reason = f"its worker died ({worker.error or _cause(code)})"
            if self._deaths[run_id or ""] >= MAX_DEATHS:
                if run_id is None:
                    log = self._sweep.path / "logs" / f"worker-{worker.index}.log"
                    raise RunFailed(f"worker {worker.index}: {reason}; {log} says why")
                run = self._sweep.run(run_id)
                with lease.claim(run) as held:
                    if held:
                        sweep_dir.fail(run, f"{reason} {MAX_DEATHS} times", "", self._session)
        return self._start(worker.index, worker.placement)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name
