"""`isoflop collect`: the records of a sweep as tidy tables."""

from pathlib import Path

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

SUMMARY = "write runs.parquet and curves.parquet from a sweep directory, finished or not"
EXAMPLE = "isoflop collect runs/demo/sweep"


def define(flags: absl_flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Collect, and say what was found."""
    del flags
    if len(args) != 1:
        raise BadInput("collect takes one sweep directory")
    import pyarrow.parquet as pq

    from sweeps import collect, store

    runs = collect.collect(args[0])
    statuses = pq.read_table(runs, columns=["status"]).column("status").to_pylist()
    planned = len(store.read(Path(args[0])).entries)
    curves = runs.with_name("curves.parquet")
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    payload = {"runs": str(runs), "curves": str(curves), "statuses": counts, "points": planned}
    said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no run has ended"
    return Output(payload, f"{said}, of {planned} points\n{runs}\n{curves}")
