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


class SweepProgress:
    """The events of a sweep, summed up.

    Attributes:
        sweep: the sweep directory.
        total: runs of the plan.
        done: runs that have ended or failed.
        placements: of the workers.
        running: step and loss of each run that a worker is at, by worker and run id.
    """

    def __init__(self) -> None:
        self.sweep: Any = None
        self.total = self.done = 0
        self.placements: tuple[Any, ...] = ()
        self.running: dict[int, dict[str, dict[str, Any]]] = {}
        self._flops_left: dict[str, float] = {}
        self._flops_at_start = 0.0
        self._began = time.monotonic()

    def add(self, event: dict[str, Any]) -> None:
        """Take account of one event of `sweeps.execute.execute`."""
        kind = event["event"]
        if kind == "start":
            self.sweep, self.total, self.placements = event["sweep"], event["total"], event["placements"]
            self._flops_left = {run_id: self.sweep.entries[run_id].own_flops for run_id in event["left"]}
            self._flops_at_start = sum(self._flops_left.values())
            self.done = self.total - len(self._flops_left)
        elif kind == "begin":
            self.running.setdefault(event["worker"], {})[event["run_id"]] = {"step": 0, "loss": None}
        elif kind == "progress" and event["run_id"] in self.running.get(event["worker"], {}):
            self.running[event["worker"]][event["run_id"]].update(step=event["step"], loss=event["loss"])
        elif kind in ("end", "error"):
            self.running.get(event["worker"], {}).pop(event["run_id"], None)
            self._flops_left.pop(event["run_id"], None)
            self.done += 1
        elif kind == "gone":
            self.running.pop(event["worker"], None)

    def share(self, worker: int, run_id: str) -> float:
        """The share of a run's steps that a worker has made, from 0 to 1."""
        return self.running[worker][run_id]["step"] / max(self.sweep.entries[run_id].steps, 1)

    def eta(self) -> float | None:
        """Seconds left, in proportion to FLOPs; None until a hundredth of them is done."""
        under_way = sum(
            self.share(worker, run_id) * self._flops_left.get(run_id, 0.0)
            for worker, runs in self.running.items()
            for run_id in runs
        )
        flops_left = sum(self._flops_left.values()) - under_way
        flops_done = self._flops_at_start - flops_left
        elapsed = time.monotonic() - self._began
        return elapsed * flops_left / flops_done if flops_done > 0.01 * self._flops_at_start else None


@contextlib.contextmanager
def progress_display(console: Console | None = None) -> Iterator[OnEvent]:
    """A receiver of the events of `sweeps.execute.execute` that shows them."""
    console = console or Console(file=sys.stderr, highlight=False)
    progress = SweepProgress()
    if not console.is_terminal:
        yield lambda event: _line(console, progress, event)
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    task = bar.add_task("sweep")
    with Live(bar, console=console, refresh_per_second=4, transient=True) as live:

        def show(event: dict[str, Any]) -> None:
            if event["event"] in ("end", "error", "stopping", "note"):
                _line(console, progress, event)
            else:
                progress.add(event)
            name = progress.sweep.name if progress.sweep else "sweep"
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=f"{name}{_left(progress.eta())}",
            )
            live.update(Group(*(_worker(progress, i) for i in range(len(progress.placements))), bar))

        yield show


def _worker(progress: SweepProgress, index: int) -> Text:
    name = f"{progress.placements[index]!s:>8}  "
    runs = progress.running.get(index)
    if not runs:
        return Text(f"{name}...", style="dim")
    slowest = min(runs, key=lambda run_id: progress.share(index, run_id))  # of a batch
    entry, loss = progress.sweep.entries[slowest], runs[slowest]["loss"]
    others = f"  and {len(runs) - 1} more in a pack" if len(runs) > 1 else ""
    loss_text = "" if loss is None else f"  loss {loss:.4f}"
    return Text(
        f"{name}{slowest}  N {entry.params:,}  step {runs[slowest]['step']:,}/{entry.steps:,} "
        f"{progress.share(index, slowest):4.0%}{loss_text}{others}"
    )


def _line(console: Console, progress: SweepProgress, event: dict[str, Any]) -> None:
    progress.add(event)
    kind = event["event"]
    if kind == "start":
        already = f", {progress.done} done before" if progress.done else ""
        where = ", ".join(map(str, progress.placements))
        console.print(
            f"sweep {progress.sweep.name}: {progress.total} runs{already}{f'; workers on {where}' if where else ''}"
        )
    elif kind == "end":
        entry = progress.sweep.entries[event["run_id"]]
        loss = event["status"] if event["loss"] is None else f"loss {event['loss']:.4f}"
        console.print(
            f"{progress.done:>4}/{progress.total}  {event['run_id']}  N {entry.params:,}  {entry.steps:,} steps"
            f"  {event['seconds']:.1f} s  {loss}{_left(progress.eta())}"
        )
    elif kind == "error":
        console.print(
            f"{progress.done:>4}/{progress.total}  {event['run_id']}  failed: {event['message']}", markup=False
        )
    elif kind == "note":
        console.print(event["text"], markup=False)
    elif kind == "stopping":
        console.print("stopping: the workers save and leave (once more to stop at once)")


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"  {duration(seconds)} left"
