"""A sweep from start to end: what is left of it, who runs that, and what became of it."""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps import launch, plan as plans, store
from sweeps.launch import Options, View
from training.errors import BadInput
from training.task import resolve as family_of


class Stopped(RuntimeError):
    """The sweep was stopped by a signal; the same command continues it."""

    def __init__(self, number: int, ended: int, total: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with {ended} of {total} runs done; the same command continues the sweep")
        self.exit_code = 128 + number


def run(
    plan: plans.Plan,
    path: Path | str,
    only: tuple[str, ...] = (),
    view: View = lambda event: None,
    launcher: str = "local",
    options: Options = Options(),  # noqa: B008 - a value, never changed
) -> dict[str, Any]:
    """Run every point of a plan that has not ended, and return what became of all of them.

    Args:
      plan: the points.
      path: the sweep directory; ended runs in it are never run again, cut ones go on.
      only: run only points in these states ("missing", "interrupted", "failed"); all of them, if empty.
      view: called with every event, each with the `worker` it came from, and once a turn with {"event": "tick"}.
      launcher: who starts the workers, by its name in `sweeps.launch`.
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
    engine = launch.launcher(launcher)
    engine.check(options)
    first = plan.points[0].config
    assert first is not None
    # The data is opened, or prepared, once here: what is wrong with it ends the sweep before anything is written.
    family_of(first.task).available(first)
    sweep = store.add(Path(path).absolute(), plan)
    mine = [point.run_id for point in plan.points]
    left = [run_id for run_id in mine if _left(store.state(sweep, run_id), only)]
    places = engine.places(sweep, left, options) if left else ()
    view({"event": "start", "sweep": sweep, "left": left, "total": len(mine), "places": places})
    ran = 0
    if left:
        with _caught() as signals:
            ran = engine.launch(sweep, left, options, view, signals)
        if signals:
            ended = sum(store.state(sweep, run_id) in store.ENDED for run_id in left)
            raise Stopped(signals[0], ended, len(left))
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
        "left": [run_id for run_id in left if states[run_id] in ("missing", "interrupted")],
        "workers": list(places),
        "seconds": time.monotonic() - began,
    }


def _left(state: str, only: tuple[str, ...]) -> bool:
    return state in only if only else state not in store.ENDED


@contextlib.contextmanager
def _caught() -> Iterator[list[int]]:
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
