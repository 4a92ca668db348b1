"""`isoflop status --watch`: a sweep as a live summary, from its files alone, so that any machine that has them will do."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isoflop.cli import Output
from isoflop.commands._tables import STYLES, duration, label_text, loss_text, state_counts
from sweeps import status, sweep_dir, untrusted_files
from sweeps.status import Summary

MAX_RUNNING = 20  # runs shown
MAX_FAILURES = 5  # shown


def watch(path: Path, interval: float, where: Sequence[str] = ()) -> Output:
    """Show a sweep until nothing is left to run, or Ctrl-C: live on a terminal, else a line at a time.

    Args:
        path: the sweep directory.
        interval: seconds between two readings.
        where: only points that meet these conditions.
    """
    console = Console(highlight=False)
    read = _reader(path, where)
    summary = read()
    try:
        if not console.is_terminal:
            while True:
                print(line(summary), flush=True)
                if summary.over:
                    return Output({})
                time.sleep(interval)
                summary = read()
        with Live(screen(summary), console=console, auto_refresh=False) as live:
            while not summary.over:
                time.sleep(interval)
                summary = read()
                live.update(screen(summary), refresh=True)
    except KeyboardInterrupt:
        pass
    return Output({})


def _reader(path: Path, where: Sequence[str]) -> Callable[[], Summary]:
    """Reads the sweep again at each call, and of the runs only what has changed."""
    ended = status.collected_records(path)
    sweeps: dict[Any, sweep_dir.Sweep] = {}  # the last one, by the stamp of its file

    def read() -> Summary:
        file = path / "sweep.json"
        stamp = untrusted_files.stamp(file, path, untrusted_files.METRICS_BYTES)
        if stamp is None or stamp not in sweeps:
            sweeps.clear()
            sweeps[stamp] = sweep_dir.read(path)
        return status.summarize(*status.select(sweeps[stamp], status.rows(sweeps[stamp], ended), where))

    return read


def line(summary: Summary) -> str:
    """A summary in one line."""
    name = label_text(summary.name)
    parts = [time.strftime("%H:%M:%S"), f"sweep {name}: {state_counts(summary.states)}", _flops(summary)]
    return "; ".join([*parts, *_pace(summary)])


def screen(summary: Summary) -> Any:
    """A summary for a terminal: states, FLOPs, pace, the runs that are running, the newest failures."""
    total = sum(summary.states.values())
    counts = Text(f"sweep {label_text(summary.name)}: {total:,} runs: ")
    for i, (state, count) in enumerate(summary.states.items()):
        counts.append(f"{', ' if i else ''}{count:,} {state}", style=STYLES.get(state, ""))
    spent = summary.flops_spent if summary.flops_total else 1.0
    bar = ProgressBar(total=summary.flops_total or 1.0, completed=spent, width=60)
    parts: list[Any] = [counts, Columns([bar]), Text("; ".join([_flops(summary), *_pace(summary)]))]
    if summary.running:
        table = Table(box=None, pad_edge=False)
        for name, side in {"running": "left", "N": "right", "FLOPs": "right", "step": "right", "loss": "right"}.items():
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        for row in summary.running[:MAX_RUNNING]:
            steps = f"{row['step']:,}/{row['steps']:,}"
            cells = (f"{row['params_total']:,}", f"{row['flops']:.3g}", steps, loss_text(row["train_loss"]))
            table.add_row(row["run_id"], *cells)
        parts += ["", table, *_more(len(summary.running) - MAX_RUNNING)]
    if summary.failures:
        parts += ["", Text("newest failures", style=STYLES["failed"])]
        parts += [Text(f"{row['run_id']}  {row['message'] or ''}") for row in summary.failures[:MAX_FAILURES]]
        parts += _more(len(summary.failures) - MAX_FAILURES)
    return Group(*parts)


def _more(count: int) -> list[str]:
    return [f"and {count:,} more"] if count > 0 else []


def _flops(summary: Summary) -> str:
    share = summary.flops_spent / summary.flops_total if summary.flops_total else 1.0
    return f"{summary.flops_spent:.3g} of {summary.flops_total:.3g} FLOPs spent ({share:.1%})"


def _pace(summary: Summary) -> list[str]:
    parts = []
    if summary.rate is not None:
        parts.append(f"{summary.rate:.3g} FLOP/s a run")
    if summary.eta is not None:
        parts.append(f"{duration(summary.eta)} left")
    return parts
