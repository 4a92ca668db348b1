"""`isoflop status`: what state every point of a sweep is in, read from its files alone."""

import dataclasses
from pathlib import Path

from absl import flags as absl_flags
from rich.console import Group
from rich.text import Text

from isoflop.cli import Output
from isoflop.commands._tables import MAX_ROWS, points_table
from isoflop.commands._watch import watch
from sweeps import base_configs, status, sweep_dir
from training.errors import BadInput

EXAMPLE = """
isoflop status runs/demo/sweep
isoflop status runs/demo/sweep --where="state == 'failed' and budget <= 1e11"
isoflop status runs/demo/sweep --watch --interval=10
"""


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_boolean(
        "all", False, f"A row for every point; by default, of more than {MAX_ROWS} points only those under way or failed.",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "where",
        [],
        "Only points for which this holds, as in \"state == 'failed' and budget <= 1e11\", in the language of fit --where.",
        flag_values=flags,
    )
    absl_flags.DEFINE_boolean("watch", False, "Follow the sweep until nothing is left to run.", flag_values=flags)
    absl_flags.DEFINE_float("interval", 2.0, "Seconds between two readings of --watch.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read the states."""
    if len(args) != 1:
        raise BadInput("status takes one sweep directory")
    if flags.watch:
        if flags.json or flags.all:
            raise BadInput(f"--watch shows a summary: leave out --{'json' if flags.json else 'all'}")
        if not 0.1 <= flags.interval <= 86400:
            raise BadInput(f"--interval: must be from 0.1 to 86400 seconds, got {flags.interval:g}")
        return watch(Path(args[0]), flags.interval, flags.where)
    whole = sweep_dir.read(Path(args[0]))
    sweep, rows = status.select(whole, status.rows(whole), flags.where)
    warning = base_configs.compare(sweep).warning()
    summary = status.summarize(sweep, rows)
    fields = {name: value for name, value in dataclasses.asdict(summary).items() if name not in ("running", "failures")}
    payload = {"sweep": fields.pop("name"), **fields, "runs": rows, "warnings": [warning] if warning else []}
    share = summary.flops_done / summary.flops_total if summary.flops_total else 1.0
    if flags.json:
        return Output(payload)
    table = points_table(sweep.name, rows, summary.states, share, flags.all)
    return Output(payload, Group(table, Text(f"warning: {warning}")) if warning else table)
