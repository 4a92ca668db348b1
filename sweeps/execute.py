"""A sweep from start to end: which of its points are to be run, by which launcher, and with what outcome."""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps import branches, launch, plan as plans, plan_storage, sweep_dir
from sweeps.launch import OnEvent, Options
from training.errors import BadInput
from training.task import resolve as family_of


class Stopped(RuntimeError):
    """The sweep was stopped by a signal; the same command continues it."""

    def __init__(self, number: int, ended: int, total: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with {ended} of {total} runs done; the same command continues the sweep")
        self.exit_code = 128 + number


def execute(
    plan: plans.Plan,
    path: Path | str,
    states: tuple[str, ...] = (),
    on_event: OnEvent = lambda event: None,
    launcher: str = "local",
    options: Options = Options(),  # noqa: B008 - a value, never changed
) -> dict[str, Any]:
    """Run every point of a plan that has not ended, and return what became of all of them.

    Args:
        plan: the points.
        path: the sweep directory; ended runs in it are never run again, cut ones go on.
        states: run only points in these states ("missing", "interrupted", "failed"); all of them, if empty.
        on_event: called with every event, each with the `worker` it came from, and once a turn with {"event": "tick"}.
        launcher: what starts the workers, by its name in `sweeps.launch`.
        options: how many workers, and how they work.

    Returns:
        `sweep`, `path`, `states` (runs by state), `failed` ({run_id, message} each), `left` (points that were to be run and
        are neither ended nor worked on), `ran`, `seconds`, `workers`.

    Raises:
        BadInput: the directory is not this sweep's, its data is missing, or an option is wrong.
        Stopped: by a signal, after all workers have saved and left.
        RunFailed: workers cannot start.
    """
    began = time.monotonic()
    if options.workers is not None and options.workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {options.workers}")
    module = launch.launcher(launcher)
    module.check(options)
    first = plan.points[0].config
    assert first is not None
    # The data is opened, or prepared, once here: what is wrong with it ends the sweep before anything is written.
    family_of(first.task).available(first)
    sweep = plan_storage.add_points(Path(path).absolute(), plan)
    planned = [point.run_id for point in plan.points]
    remaining = [run_id for run_id in planned if _is_to_run(sweep_dir.state(sweep, run_id), states)]
    remaining = branches.with_trunks(sweep, remaining)
    placements = module.placements(sweep, remaining, options) if remaining else ()
    total = len(planned)
    on_event({"event": "start", "sweep": sweep, "left": remaining, "total": total, "placements": placements})
    ran = 0
    if remaining:
        with _collected_signals() as signals:
            ran = module.launch(sweep, remaining, options, on_event, signals)
        if signals:
            ended = sum(sweep_dir.state(sweep, run_id) in sweep_dir.ENDED for run_id in remaining)
            raise Stopped(signals[0], ended, len(remaining))
    state_of = {run_id: sweep_dir.state(sweep, run_id) for run_id in planned}
    failed = [
        {"run_id": run_id, "message": (sweep_dir.failure(sweep.run(run_id)) or {}).get("message")}
        for run_id, state in state_of.items()
        if state == "failed"
    ]
    counts = Counter(state_of.values())
    return {
        "sweep": sweep.name,
        "path": str(path),
        "states": {state: counts[state] for state in sweep_dir.STATES if counts[state]},
        "ran": ran,
        "failed": failed,
        "left": [run_id for run_id in remaining if state_of[run_id] in ("missing", "interrupted")],
        "workers": list(placements),
        "seconds": time.monotonic() - began,
    }


def _is_to_run(state: str, states: tuple[str, ...]) -> bool:
    return state in states if states else state not in sweep_dir.ENDED


@contextlib.contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
