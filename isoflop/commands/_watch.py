"""`isoflop status --watch`: a sweep as a live summary, from its files alone, so that any machine that sees them will do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isoflop.cli import Output
from isoflop.commands.status import STYLES, clean, loss, sums
from sweeps import foreign, status, store
from sweeps.status import View

RUNS = 20  # running ones that are shown
FAILURES = 5


def watch(path: Path, interval: float) -> Output:
    """Show a sweep every `interval` seconds until nothing is left to run, or Ctrl-C: live on a terminal, else a line."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    look = _looker(path)
    seen = look()
    try:
        if not console.is_terminal:
            while True:
                print(line(seen), flush=True)
                if seen.over:
                    return Output({})
                time.sleep(interval)
                seen = look()
        with Live(summary(seen), console=console, auto_refresh=False) as live:
            while not seen.over:
                time.sleep(interval)
                seen = look()
                live.update(summary(seen), refresh=True)
    except KeyboardInterrupt:
        pass
    return Output({})


def _looker(path: Path) -> Callable[[], View]:
    """Reads the sweep again at each call, and of the runs only what has changed."""
    ended = status.known(path)
    read: dict[Any, store.Sweep] = {}

    def look() -> View:
        file = path / "sweep.json"
        stamp = foreign.stamp(file, path, foreign.METRICS_BYTES)
        if stamp is None or stamp not in read:
            read.clear()
            read[stamp] = store.read(path)
        return status.view(read[stamp], status.rows(read[stamp], ended))

    return look


def line(seen: View) -> str:
    """A view in one line."""
    parts = [time.strftime("%H:%M:%S"), f"sweep {clean(seen.name)}: {sums(seen.states)}", _flops(seen)]
    return "; ".join([*parts, *_pace(seen)])


def summary(seen: View) -> Any:
    """A view for a terminal: states, FLOPs, pace, the runs that are running, the newest failures."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = sum(seen.states.values())
    counts = Text(f"sweep {clean(seen.name)}: {total:,} runs: ")
    for i, (state, count) in enumerate(seen.states.items()):
        counts.append(f"{', ' if i else ''}{count:,} {state}", style=STYLES.get(state, ""))
    bar = ProgressBar(total=seen.flops_total or 1.0, completed=seen.flops_spent if seen.flops_total else 1.0, width=60)
    shown: list[Any] = [counts, Columns([bar]), Text("; ".join([_flops(seen), *_pace(seen)]))]
    if seen.running:
        table = Table(box=None, pad_edge=False)
        for name, side in {"running": "left", "N": "right", "FLOPs": "right", "step": "right", "loss": "right"}.items():
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        for row in seen.running[:RUNS]:
            steps = f"{row['step']:,}/{row['steps']:,}"
            cells = (f"{row['params_total']:,}", f"{row['flops']:.3g}", steps, loss(row["train_loss"]))
            table.add_row(row["run_id"], *cells)
        shown += ["", table, *_more(len(seen.running) - RUNS)]
    if seen.failures:
        shown += ["", Text("newest failures", style=STYLES["failed"])]
        shown += [Text(f"{row['run_id']}  {row['message'] or ''}") for row in seen.failures[:FAILURES]]
        shown += _more(len(seen.failures) - FAILURES)
    return Group(*shown)


def _more(count: int) -> list[str]:
    return [f"and {count:,} more"] if count > 0 else []


def _flops(seen: View) -> str:
    share = seen.flops_spent / seen.flops_total if seen.flops_total else 1.0
    return f"{seen.flops_spent:.3g} of {seen.flops_total:.3g} FLOPs spent ({share:.1%})"


def _pace(seen: View) -> list[str]:
    found = []
    if seen.rate is not None:
        found.append(f"{seen.rate:.3g} FLOP/s a run")
    if seen.eta is not None:
        found.append(f"{_duration(seen.eta)} left")
    return found


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"
