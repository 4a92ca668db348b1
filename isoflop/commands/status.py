"""`isoflop status`: what state every point of a sweep is in, read from its files alone."""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

SUMMARY = "the states of a sweep's points, from another terminal or machine too"
EXAMPLE = """
isoflop status runs/demo/sweep
isoflop status runs/demo/sweep --watch --interval=10
"""
STYLES = {"completed": "green", "running": "cyan", "failed": "red", "diverged": "yellow", "interrupted": "magenta"}
ROWS = 100  # of a table that was not asked for as a whole
UNDER_WAY = ("running", "failed", "interrupted")
PLAIN = {
    *("run_id", "state", "params_total", "flops", "step", "steps", "loss", "train_loss", "seconds", "at", "message")
}
LABEL, LABELS = 40, 20  # characters shown of a label, and labels


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_boolean(
        "all", False, f"A row for every point; by default, of more than {ROWS} points only those under way or failed.",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean("watch", False, "Follow the sweep until nothing is left to run.", flag_values=flags)
    absl_flags.DEFINE_float("interval", 2.0, "Seconds between two looks of --watch.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read the states."""
    if len(args) != 1:
        raise BadInput("status takes one sweep directory")
    if flags.watch:
        if flags.json or flags.all:
            raise BadInput(f"--watch shows a summary: leave out --{'json' if flags.json else 'all'}")
        if not 0.1 <= flags.interval <= 86400:
            raise BadInput(f"--interval: must be from 0.1 to 86400 seconds, got {flags.interval:g}")
        from isoflop.commands import _watch

        return _watch.watch(Path(args[0]), flags.interval)
    from sweeps import status, store

    sweep = store.read(Path(args[0]))
    rows = status.rows(sweep)
    seen = status.view(sweep, rows)
    fields = {name: value for name, value in dataclasses.asdict(seen).items() if name not in ("running", "failures")}
    payload = {"sweep": fields.pop("name"), **fields, "runs": rows}
    share = seen.flops_done / seen.flops_total if seen.flops_total else 1.0
    return Output(payload, "" if flags.json else table(sweep.name, rows, seen.states, share, flags.all))


def table(name: str, rows: list[dict[str, Any]], states: dict[str, int], share: float, everything: bool = False) -> Any:
    """The rows of `sweeps.status` for people, and the sums below.

    Args:
      everything: all rows, where there are many too; else those of runs that are under way or have failed.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    chosen = rows
    if len(rows) > ROWS and not everything:
        chosen = sorted((row for row in rows if row["state"] in UNDER_WAY), key=lambda r: UNDER_WAY.index(r["state"]))
        chosen = chosen[:ROWS]
    labels = list(dict.fromkeys(key for row in chosen for key in row if key not in PLAIN))[:LABELS]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("run")
    shown.add_column("state")
    for column in [*labels, "N", "FLOPs", "step", "train loss", "loss"]:
        shown.add_column(Text(clean(column)), justify="right")
    shown.add_column("")
    for row in chosen:
        shown.add_row(
            row["run_id"],
            Text(row["state"], style=STYLES.get(row["state"], "")),
            *(Text(clean(row.get(label))) for label in labels),
            f"{row['params_total']:,}",
            f"{row['flops']:.3g}",
            f"{row['step']:,}/{row['steps']:,}",
            loss(row["train_loss"]),
            loss(row["loss"]),
            Text(row["message"] or ""),
        )
    lines = [Text(f"sweep {clean(name)}: {sums(states)}; {share:.0%} of the FLOPs are done")]
    if len(chosen) < len(rows):
        lines.append(Text(f"{len(rows) - len(chosen):,} of {len(rows):,} rows are not shown (--all shows them)"))
    return Group(*([shown, ""] if chosen else []), *lines)


def sums(states: dict[str, int]) -> str:
    """How many runs are in each state."""
    return ", ".join(f"{count:,} {state}" for state, count in states.items())


def clean(value: Any) -> str:
    """A label for a terminal."""
    from sweeps.foreign import shown

    return "" if value is None else f"{value:g}" if isinstance(value, float) else shown(value, LABEL)


def loss(value: Any) -> str:
    """A loss for a terminal, empty where there is none."""
    return f"{value:.4f}" if isinstance(value, int | float) else ""
