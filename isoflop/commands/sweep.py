"""`isoflop sweep`: run every point of a sweep that is not done."""

from typing import Any

from absl import flags as absl_flags
from rich.console import Group

from isoflop.cli import Output
from isoflop.commands._progress import progress_display
from isoflop.commands._sweep_flags import define_launch, define_points, launch_options, planned, states, sweep_directory
from isoflop.commands._tables import points_table
from sweeps import base_configs, status, sweep_dir
from sweeps.execute import execute

EXAMPLE = """
isoflop sweep --config=configs/lm/demo.py --workdir=runs/demo/sweep
isoflop sweep --config=configs/lm/demo.py --workdir=runs/demo/sweep --state=failed --where='budget<=1e11'
isoflop sweep --config=configs/lm/demo.py --workdir=/shared/demo --launcher=slurm --workers=8 --launcher_option=time=120
isoflop sweep --config=configs/lm/demo.py --workdir=/shared/demo --launcher=ray --launcher_option=address=auto
"""
CONFIG = True


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The sweep directory; made on first use.", flag_values=flags)
    absl_flags.DEFINE_string(
        "state", "", "Only points in these states: missing, interrupted, failed.", flag_values=flags
    )
    define_points(flags)
    define_launch(flags)
    absl_flags.DEFINE_boolean("detach", False, "Submit to SLURM and return.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Run the sweep and show what became of its points."""
    workdir = sweep_directory(flags, args, "sweep")
    wanted, options = states(flags.state), launch_options(flags, flags.detach)
    plan = planned(flags)
    with progress_display() as on_event:
        outcome = execute(plan, workdir, wanted, on_event, flags.launcher, options)
    sweep = sweep_dir.read(workdir)
    rows = {row["run_id"]: row for row in status.rows(sweep)}
    warning = base_configs.compare(sweep).warning()
    payload = outcome | {
        "runs": [rows[point.run_id] for point in plan.points],
        "refused": len(plan.refused),
        "duplicates": len(plan.duplicates),
        "earlier": len(rows) - len(plan.points),
        "warnings": [warning] if warning else [],
    }
    return Output(payload, _text(payload), 1 if outcome["failed"] or (outcome["left"] and not flags.detach) else 0)


def _text(payload: dict[str, Any]) -> Group:
    done = sum(row["flops"] for row in payload["runs"] if row["state"] in sweep_dir.ENDED)
    total = sum(row["flops"] for row in payload["runs"])
    lines = [f"{payload['ran']} runs took {payload['seconds']:.0f} s"]
    if payload["refused"]:
        lines.append(f"{payload['refused']} points of the design are refused (isoflop plan names them)")
    if payload["earlier"]:
        lines.append(f"{payload['earlier']} other points are in the directory (isoflop status shows them)")
    if payload["left"]:
        lines.append(f"{len(payload['left'])} points are left; the same command goes on with them")
    lines += [f"warning: {warning}" for warning in payload["warnings"]]
    lines += [f"failed: {failure['run_id']}: {failure['message']}" for failure in payload["failed"]]
    return Group(
        points_table(payload["sweep"], payload["runs"], payload["states"], done / total if total else 1.0), *lines
    )
