"""What a running sweep shows on standard error: bars on a terminal, a line a run elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from isoflop.commands._tables import duration
from sweeps.launch import OnEvent


class Tally:
    """The events of a sweep, summed: runs and FLOPs done, what each worker is at, and when it will all be over."""

    def __init__(self) -> None:
        self.sweep: Any = None
        self.total = self.done = 0
        self.placements: tuple[Any, ...] = ()
        self.at: dict[int, dict[str, dict[str, Any]]] = {}  # by worker, and by the runs that it is at
        self._left: dict[str, float] = {}
        self._first = 0.0
        self._began = time.monotonic()

    def take(self, event: dict[str, Any]) -> None:
        """Take one event of `sweeps.execute.execute`."""
        kind = event["event"]
        if kind == "start":
            self.sweep, self.total, self.placements = event["sweep"], event["total"], event["placements"]
            self._left = {run_id: self.sweep.entries[run_id].flops for run_id in event["left"]}
            self._first = sum(self._left.values())
            self.done = self.total - len(self._left)
        elif kind == "begin":
            self.at.setdefault(event["worker"], {})[event["run_id"]] = {"step": 0, "loss": None}
        elif kind == "progress" and event["run_id"] in self.at.get(event["worker"], {}):
            self.at[event["worker"]][event["run_id"]].update(step=event["step"], loss=event["loss"])
        elif kind in ("end", "error"):
            self.at.get(event["worker"], {}).pop(event["run_id"], None)
            self._left.pop(event["run_id"], None)
            self.done += 1
        elif kind == "gone":
            self.at.pop(event["worker"], None)

    def share(self, worker: int, run_id: str) -> float:
        """How much of a run a worker has done."""
        return self.at[worker][run_id]["step"] / max(self.sweep.entries[run_id].steps, 1)

    def eta(self) -> float | None:
        """Seconds left, by FLOPs; None before there is anything to go by."""
        under_way = sum(
            self.share(worker, run_id) * self._left.get(run_id, 0.0) for worker, at in self.at.items() for run_id in at
        )
        left = sum(self._left.values()) - under_way
        done = self._first - left
        elapsed = time.monotonic() - self._began
        return elapsed * left / done if done > 0.01 * self._first else None


@contextlib.contextmanager
def progress_display(console: Console | None = None) -> Iterator[OnEvent]:
    """A receiver of the events of `sweeps.execute.execute` that shows them."""
    console = console or Console(file=sys.stderr, highlight=False)
    tally = Tally()
    if not console.is_terminal:
        yield lambda event: _line(console, tally, event)
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    task = bar.add_task("sweep")
    with Live(bar, console=console, refresh_per_second=4, transient=True) as live:

        def show(event: dict[str, Any]) -> None:
            if event["event"] in ("end", "error", "stopping", "note"):
                _line(console, tally, event)
            else:
                tally.take(event)
            left = tally.eta()
            name = tally.sweep.name if tally.sweep else "sweep"
            bar.update(task, total=tally.total, completed=tally.done, description=f"{name}{_left(left)}")
            live.update(Group(*(_worker(tally, i) for i in range(len(tally.placements))), bar))

        yield show


def _worker(tally: Tally, index: int) -> Text:
    name = f"{tally.placements[index]!s:>8}  "
    at = tally.at.get(index)
    if not at:
        return Text(f"{name}...", style="dim")
    run_id = min(
        at, key=lambda run_id: tally.share(index, run_id)
    )  # of a pack, that which is the furthest from its end
    entry, loss = tally.sweep.entries[run_id], at[run_id]["loss"]
    pack = f"  and {len(at) - 1} more in a pack" if len(at) > 1 else ""
    shown = "" if loss is None else f"  loss {loss:.4f}"
    return Text(
        f"{name}{run_id}  N {entry.params:,}  step {at[run_id]['step']:,}/{entry.steps:,} "
        f"{tally.share(index, run_id):4.0%}{shown}{pack}"
    )


def _line(console: Console, tally: Tally, event: dict[str, Any]) -> None:
    tally.take(event)
    kind = event["event"]
    if kind == "start":
        already = f", {tally.done} done before" if tally.done else ""
        where = ", ".join(map(str, tally.placements))
        console.print(
            f"sweep {tally.sweep.name}: {tally.total} runs{already}{f'; workers on {where}' if where else ''}"
        )
    elif kind == "end":
        entry = tally.sweep.entries[event["run_id"]]
        loss = event["status"] if event["loss"] is None else f"loss {event['loss']:.4f}"
        console.print(
            f"{tally.done:>4}/{tally.total}  {event['run_id']}  N {entry.params:,}  {entry.steps:,} steps"
            f"  {event['seconds']:.1f} s  {loss}{_left(tally.eta())}"
        )
    elif kind == "error":
        console.print(f"{tally.done:>4}/{tally.total}  {event['run_id']}  failed: {event['message']}", markup=False)
    elif kind == "note":
        console.print(event["text"], markup=False)
    elif kind == "stopping":
        console.print("stopping: the workers save and leave (once more to stop at once)")


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"  {duration(seconds)} left"
