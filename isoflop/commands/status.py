"""`isoflop status`: what state every point of a sweep is in, read from its files alone."""

from collections import Counter
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

SUMMARY = "the states of a sweep's points, from another terminal or machine too"
EXAMPLE = "isoflop status runs/demo/sweep"
STYLES = {"completed": "green", "running": "cyan", "failed": "red", "diverged": "yellow", "interrupted": "magenta"}


def define(flags: absl_flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read the states."""
    del flags
    if len(args) != 1:
        raise BadInput("status takes one sweep directory")
    from sweeps import store

    sweep = store.read(Path(args[0]))
    rows = store.status(sweep)
    counts = Counter(row["state"] for row in rows)
    states = {state: counts[state] for state in store.STATES if counts[state]}
    ended = sum(row["flops"] for row in rows if row["state"] in store.ENDED)
    total = sum(row["flops"] for row in rows)
    payload = {"sweep": sweep.name, "states": states, "flops_done": ended, "flops_total": total, "runs": rows}
    return Output(payload, table(sweep.name, rows, states, ended / total if total else 1.0))


def table(name: str, rows: list[dict[str, Any]], states: dict[str, int], share: float) -> Any:
    """The rows of `store.status` for people, and the sums below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    plain = {"run_id", "state", "params_total", "flops", "step", "steps", "loss", "train_loss", "message"}
    labels = list(dict.fromkeys(key for row in rows for key in row if key not in plain))
    shown = Table(box=None, pad_edge=False)
    shown.add_column("run")
    shown.add_column("state")
    for column in [*labels, "N", "FLOPs", "step", "train loss", "loss"]:
        shown.add_column(column, justify="right")
    shown.add_column("")
    for row in rows:
        shown.add_row(
            row["run_id"],
            Text(row["state"], style=STYLES.get(row["state"], "")),
            *(_short(row.get(label)) for label in labels),
            f"{row['params_total']:,}",
            f"{row['flops']:.3g}",
            f"{row['step'] or 0:,}/{row['steps']:,}",
            _loss(row["train_loss"]),
            _loss(row["loss"]),
            Text(row["message"] or ""),
        )
    sums = ", ".join(f"{count} {state}" for state, count in states.items())
    return Group(shown, "", Text(f"sweep {name}: {sums}; {share:.0%} of the FLOPs are done"))


def _short(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _loss(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""
