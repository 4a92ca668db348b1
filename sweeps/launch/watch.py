"""What a launcher whose workers are elsewhere shows: read from the files of the sweep, as anyone could."""

import time
from collections.abc import Callable

from sweeps import status, store
from sweeps.launch.launcher import View

SECONDS = 1.0  # between two looks


def watch(
    sweep: store.Sweep, left: list[str], workers: int, view: View, alive: Callable[[], bool], signals: list[int]
) -> int:
    """Tell what becomes of points until no worker is alive, or a signal comes; returns how many of them ended.

    Args:
      workers: how many there are; a run that is worked on is shown at one of them, not always the true one.
      alive: whether any of them is, or is still to come.
    """
    open_, at, began = dict.fromkeys(left), {}, {}
    ended = 0
    while True:
        last = bool(signals) or not alive()
        for run_id in list(open_):
            state = store.state(sweep, run_id)
            if state == "running" and run_id not in at:
                free = [i for i in range(workers) if i not in at.values()]
                at[run_id], began[run_id] = (free or [0])[0], time.monotonic()
                view({"event": "begin", "run_id": run_id, "worker": at[run_id]})
            elif state == "running":
                line = status.last_line(sweep.run(run_id), sweep.path)
                progress = {"step": line.get("step", 0), "loss": line.get("loss")}
                view({"event": "progress", "run_id": run_id, "worker": at[run_id], **progress})
            elif state in store.ENDED:
                del open_[run_id]
                ended += 1
                result = store.result(sweep.run(run_id)) or {}
                seconds = time.monotonic() - began.get(run_id, time.monotonic() - (result.get("wall_seconds") or 0.0))
                told = {"status": state, "loss": result.get("loss"), "seconds": seconds}
                view({"event": "end", "run_id": run_id, "worker": at.pop(run_id, 0), **told})
            elif state == "failed" and (run_id in at or last):
                del open_[run_id]
                message = (store.failure(sweep.run(run_id)) or {}).get("message")
                view({"event": "error", "run_id": run_id, "worker": at.pop(run_id, 0), "message": message})
            elif run_id in at:  # its worker is gone; another will go on
                view({"event": "gone", "run_ids": [run_id], "worker": at.pop(run_id), "code": None})
        if last or not open_:
            return ended
        view({"event": "tick"})
        time.sleep(SECONDS)
