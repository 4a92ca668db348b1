"""`isoflop reproduce`: train a baseline and compare its mean with the one that its config records."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands._progress import progress_display
from isoflop.commands._sweep_flags import define_launch, launch_options
from sweeps import collect, plan as plans, summary
from sweeps.execute import execute
from training.errors import BadInput

EXAMPLE = """
isoflop reproduce --config=configs/vision/perceptron.py:mnist5k
isoflop reproduce --config=configs/vision/convnet.py --workdir=runs/convnet --workers=2
"""
CONFIG = True


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The sweep directory; runs/reproduce/NAME by default.", flag_values=flags)
    define_launch(flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Run what is not done of the baseline, and compare; exit code 1 outside the tolerance."""
    config = flags.config
    if args:
        raise BadInput(f"reproduce takes no operands, got {args[0]!r}")
    if "design" not in config:
        raise BadInput("--config: no baseline; one has a design of seeds or folds and a section `expected`")
    expected = config.expected
    if (expected.mean is None) != (expected.tolerance is None):
        raise BadInput("expected: give both mean and tolerance, or neither")
    plan, options = plans.plan(config), launch_options(flags)
    path = Path(flags.workdir or Path("runs/reproduce") / plan.name)
    with progress_display() as on_event:
        outcome = execute(plan, path, (), on_event, flags.launcher, options)
    ids = {point.run_id for point in plan.points}
    rows = [row for row in pq.read_table(collect.collect(path)).to_pylist() if row["run_id"] in ids]
    if outcome["failed"] or any(row["status"] != "completed" for row in rows):
        raise RuntimeError(f"not every run of {plan.name} completed; isoflop status {path} says which")
    metric = expected.metric
    measured = summary.means(rows, [metric])[0][metric]
    seconds = sum(row["wall_seconds"] for row in rows)
    payload: dict[str, Any] = {
        "name": plan.name,
        "metric": metric,
        "measured": measured._asdict(),
        "expected": expected.to_dict(),
        "within": None if expected.mean is None else abs(measured.mean - expected.mean) <= expected.tolerance,
        "run_seconds": seconds,
        "device_kind": rows[0]["device_kind"],
    }
    return Output(payload, _text(payload, measured), 1 if payload["within"] is False else 0)


def _text(payload: dict[str, Any], measured: summary.Mean) -> str:
    expected, metric = payload["expected"], payload["metric"]
    lines = [
        f"{payload['name']}: {metric} {measured}, {payload['run_seconds']:.0f} s of runs on {payload['device_kind']}"
    ]
    if payload["within"] is None:
        lines.append("no mean is recorded for this baseline: not reproduced")
    else:
        verdict = "within" if payload["within"] else "OUTSIDE"
        lines.append(f"{verdict} {expected['mean']:g} ± {expected['tolerance']:g}, measured {expected['measured']}")
    if expected["claimed"] is not None:
        lines.append(f"{expected['source']} claims {expected['claimed']:g}")
    return "\n".join(lines)
