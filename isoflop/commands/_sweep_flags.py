"""Flags that several commands about sweeps share: which points, which directory, who trains them."""

from pathlib import Path

from absl import flags as absl_flags

from sweeps import design, launch, plan as plans
from training.errors import BadInput, nearest

UNFINISHED = ("missing", "interrupted", "failed")  # states in which a point can be chosen to be run


def define_points(flags: absl_flags.FlagValues) -> None:
    """The flags that choose the points of a sweep."""
    absl_flags.DEFINE_multi_string(
        "where",
        [],
        "Only points for which this holds, as in \"family == 'lstm' and budget <= 1e11\": labels, overrides and counts, "
        "in the language of fit --where.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "points", None, "More points than the config's, of a CSV or JSON file, as propose writes them.",
        flag_values=flags,
    )  # fmt: skip


def planned(flags: absl_flags.FlagValues) -> plans.Plan:
    """The plan of `--config` with `--points` and `--where`.

    Raises:
        BadInput: the flags are wrong, or the plan is.
    """
    config = flags.config
    if flags.points is not None:
        if "design" not in config:
            raise BadInput("--points: the config is one run, not a sweep")
        try:
            added = design.table(flags.points)
        except ValueError as error:
            raise BadInput(f"--points: {error}") from error
        with config.unlocked():
            config.design = design.chain(config.design, added)
    return plans.plan(config, flags.where)


def define_launch(flags: absl_flags.FlagValues) -> None:
    """The flags that choose who runs the points of a sweep, and how."""
    names = ", ".join(launch.LAUNCHERS)
    absl_flags.DEFINE_string("launcher", "local", f"Who starts workers: {names}.", flag_values=flags)
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
        "launcher_option",
        [],
        "An option of the software behind the launcher, as in --launcher_option=partition=long "
        "--launcher_option=time=120 (SLURM, minutes) or --launcher_option=num_gpus=0.25 (Ray).",
        flag_values=flags,
    )


def launch_words(flags: absl_flags.FlagValues) -> list[str]:
    """The flags of `define_launch` as they were given, for another command."""
    present = [name for name in ("launcher", "workers", "pack") if flags[name].present]
    options = [f"--launcher_option={text}" for text in flags.launcher_option]
    return [f"--{name}={flags[name].value}" for name in present] + options


def launch_options(flags: absl_flags.FlagValues, detach: bool = False) -> launch.Options:
    """The values of the flags of `define_launch`.

    Raises:
        BadInput: one is wrong.
    """
    options = {}
    for text in flags.launcher_option:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--launcher_option: must be name=value, got {text!r}")
        options[name.strip()] = value.strip()
    return launch.Options(flags.workers, _run_batch(flags.pack), options, detach)


def _run_batch(text: str) -> int | None:
    """The value of `--pack`: a number of runs, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise BadInput(f"--pack: must be auto or a number of runs, got {text!r}")
    return int(text)


def states(text: str) -> tuple[str, ...]:
    """The states of a `--state` such as "failed,missing"; all of them, if it is empty.

    Raises:
        BadInput: one of them is none.
    """
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in names:
        if name not in UNFINISHED:
            raise BadInput(f"--state: no state {name!r}{nearest(name, UNFINISHED)} (known: {', '.join(UNFINISHED)})")
    return names or UNFINISHED


def sweep_directory(flags: absl_flags.FlagValues, args: list[str], command: str) -> Path:
    """The `--workdir` of a command about the sweep in `--config`.

    Args:
        flags: of the command.
        args: its operands, of which it takes none.
        command: its name.

    Raises:
        BadInput: it is missing, the config is one run, or there are operands.
    """
    if args:
        raise BadInput(f"{command} takes no operands, got {args[0]!r}")
    if "design" not in flags.config:
        raise BadInput("--config: this is one run, not a sweep; use isoflop train")
    if not flags.workdir:
        raise BadInput("--workdir=DIR is missing: a folder for the runs, made on first use")
    return Path(flags.workdir)
