"""`isoflop sweep`: run every point of a sweep that is not done."""

from pathlib import Path

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands.plan import define_points, planned
from isoflop.commands.status import table
from sweeps import launch, pack, status, store
from training.errors import BadInput

SUMMARY = "train every point of a sweep that is not done: start, go on, retry, with the same command"
EXAMPLE = """
isoflop sweep --config=configs/lm/demo.py --workdir=runs/demo/sweep
isoflop sweep --config=configs/lm/demo.py --workdir=runs/demo/sweep --only=failed --where='budget<=1e11'
isoflop sweep --config=configs/lm/demo.py --workdir=/shared/demo --launcher=slurm --workers=8 --engine=time=120
isoflop sweep --config=configs/lm/demo.py --workdir=/shared/demo --launcher=ray --engine=address=auto --engine=num_cpus=1
"""
CONFIG = True


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The sweep directory; made on first use.", flag_values=flags)
    absl_flags.DEFINE_string(
        "only", "", "Only points in these states: missing, interrupted, failed.", flag_values=flags
    )
    define_points(flags)
    define_launch(flags)
    absl_flags.DEFINE_boolean("detach", False, "Submit to SLURM and return.", flag_values=flags)


def define_launch(flags: absl_flags.FlagValues) -> None:
    """The flags that say who runs the points of a sweep, and how."""
    absl_flags.DEFINE_string("launcher", "local", f"Who starts workers: {', '.join(launch.NAMES)}.", flag_values=flags)
    absl_flags.DEFINE_integer(
        "workers",
        None,
        "Worker processes, tasks or jobs; by default one a core or GPU, one job of SLURM, what a Ray cluster has room for.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "pack",
        "auto",
        "Runs of one shape that a worker trains as one program; by default as many as were measured to pay.",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(
        "engine",
        [],
        "An option of the engine behind the launcher, as in --engine=partition=long --engine=time=120 (SLURM, minutes) or "
        "--engine=num_gpus=0.25 (Ray).",
        flag_values=flags,
    )


def launch_words(flags: absl_flags.FlagValues) -> list[str]:
    """Those flags as they were given, for another command."""
    given = [name for name in ("launcher", "workers", "pack") if flags[name].present]
    return [f"--{name}={flags[name].value}" for name in given] + [f"--engine={text}" for text in flags.engine]


def options(flags: absl_flags.FlagValues, detach: bool = False) -> launch.Options:
    """What those flags say.

    Raises:
      BadInput: one is wrong.
    """
    engine = {}
    for text in flags.engine:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--engine: must be name=value, got {text!r}")
        engine[name.strip()] = value.strip()
    return launch.Options(flags.workers, pack.parse(flags.pack), engine, detach)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Run the sweep and show what became of its points."""
    workdir = directory(flags, args, "sweep")
    only, chosen = store.parse_states(flags.only), options(flags, flags.detach)
    plan = planned(flags)
    from sweeps import progress, run as launcher

    with progress.watching() as view:
        outcome = launcher.run(plan, workdir, only, view, flags.launcher, chosen)
    rows = {row["run_id"]: row for row in status.rows(store.read(workdir))}
    payload = outcome | {
        "runs": [rows[point.run_id] for point in plan.points],
        "refused": len(plan.refused),
        "duplicates": len(plan.duplicates),
        "earlier": len(rows) - len(plan.points),
    }
    return Output(payload, _text(payload), 1 if outcome["failed"] or (outcome["left"] and not flags.detach) else 0)


def directory(flags: absl_flags.FlagValues, args: list[str], command: str) -> Path:
    """The `--workdir` of a command about the sweep in `--config`.

    Raises:
      BadInput: it is missing, the config is one run, or there are operands.
    """
    if args:
        raise BadInput(f"{command} takes no operands, got {args[0]!r}")
    if "design" not in flags.config:
        raise BadInput("--config: this is one run, not a sweep; use isoflop train")
    if not flags.workdir:
        raise BadInput("--workdir=DIR is missing")
    return Path(flags.workdir)


def _text(payload: dict) -> object:
    from rich.console import Group

    done = sum(row["flops"] for row in payload["runs"] if row["state"] in store.ENDED)
    total = sum(row["flops"] for row in payload["runs"])
    lines = [f"{payload['ran']} runs took {payload['seconds']:.0f} s"]
    if payload["refused"]:
        lines.append(f"{payload['refused']} points of the design are refused (isoflop plan names them)")
    if payload["earlier"]:
        lines.append(f"{payload['earlier']} other points are in the directory (isoflop status shows them)")
    if payload["left"]:
        lines.append(f"{len(payload['left'])} points are left; the same command goes on with them")
    lines += [f"failed: {failed['run_id']}: {failed['message']}" for failed in payload["failed"]]
    return Group(table(payload["sweep"], payload["runs"], payload["states"], done / total if total else 1.0), *lines)
