"""`isoflop collect`: the records of a sweep as tidy tables."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from absl import flags as absl_flags

from isoflop.cli import Output
from sweeps import base_configs, collect, summary, sweep_dir
from training.errors import BadInput

EXAMPLE = """
isoflop collect runs/demo/sweep
isoflop collect runs/folds --mean=accuracy,loss --by=family,params_total
"""
WAITING = "collecting"


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_list("mean", [], "Show the mean of these columns with its standard error.", flag_values=flags)
    absl_flags.DEFINE_list("by", [], "Apart for each value of these columns.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Collect, and print how many runs of each status there are, and their means."""
    if len(args) != 1:
        raise BadInput("collect takes one sweep directory")
    runs = collect.collect(args[0])
    statuses = pq.read_table(runs, columns=["status"]).column("status").to_pylist()
    sweep = sweep_dir.read(Path(args[0]))
    planned, warning = len(sweep.entries), base_configs.compare(sweep).warning()
    curves = runs.with_name("curves.parquet")
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    payload = {"runs": str(runs), "curves": str(curves), "statuses": counts, "points": planned}
    payload["warnings"] = [warning] if warning else []
    counted = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no run has ended"
    text = f"{counted}, of {planned} points\n{runs}\n{curves}" + (f"\nwarning: {warning}" if warning else "")
    if not flags.mean:
        return Output(payload, text)
    rows = summary.means(pq.read_table(runs).to_pylist(), flags.mean, flags.by)
    payload["means"] = [{key: v._asdict() if key in flags.mean else v for key, v in row.items()} for row in rows]
    return Output(payload, text + "\n" + "\n".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items())
