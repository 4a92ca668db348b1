"""Events of a sweep whose workers run on other machines, made from the files of the sweep directory."""

import time
from collections.abc import Callable

from sweeps import status, sweep_dir
from sweeps.launch.launcher import OnEvent
from sweeps.sweep_dir import Sweep

POLL_SECONDS = 1.0  # between two readings of the files


def watch(
    sweep: Sweep, run_ids: list[str], workers: int, on_event: OnEvent, alive: Callable[[], bool], signals: list[int]
) -> int:
    """Report what becomes of points until no worker is alive, or a signal comes; returns how many of them ended.

    Args:
        sweep: the sweep directory.
        run_ids: the points.
        workers: how many there are; a run that is worked on is shown at one of them, not always the true one.
        on_event: as in `sweeps.launch.launcher.Launcher.launch`.
        alive: whether any worker is, or is still to come.
        signals: holds the signals that came.
    """
    pending = dict.fromkeys(run_ids)
    worker_of: dict[str, int] = {}
    began: dict[str, float] = {}
    ended = 0
    while True:
        last = bool(signals) or not alive()
        for run_id in list(pending):
            state = sweep_dir.state(sweep, run_id)
            if state == "running" and run_id not in worker_of:
                free = [i for i in range(workers) if i not in worker_of.values()]
                worker_of[run_id], began[run_id] = (free or [0])[0], time.monotonic()
                on_event({"event": "begin", "run_id": run_id, "worker": worker_of[run_id]})
            elif state == "running":
                line = status.last_line(sweep.run(run_id), sweep.path)
                progress = {"step": line.get("step", 0), "loss": line.get("loss")}
                on_event({"event": "progress", "run_id": run_id, "worker": worker_of[run_id], **progress})
            elif state in sweep_dir.ENDED:
                del pending[run_id]
                ended += 1
                result = sweep_dir.result(sweep.run(run_id)) or {}
                seconds = time.monotonic() - began.get(run_id, time.monotonic() - (result.get("wall_seconds") or 0.0))
                outcome = {"status": state, "loss": result.get("loss"), "seconds": seconds}
                on_event({"event": "end", "run_id": run_id, "worker": worker_of.pop(run_id, 0), **outcome})
            elif state == "failed" and (run_id in worker_of or last):
                del pending[run_id]
                message = (sweep_dir.failure(sweep.run(run_id)) or {}).get("message")
                on_event({"event": "error", "run_id": run_id, "worker": worker_of.pop(run_id, 0), "message": message})
            elif run_id in worker_of:  # its worker is gone; another will go on
                on_event({"event": "gone", "run_ids": [run_id], "worker": worker_of.pop(run_id), "code": None})
        if last or not pending:
            return ended
        on_event({"event": "tick"})
        time.sleep(POLL_SECONDS)
