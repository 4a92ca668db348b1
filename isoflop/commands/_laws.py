"""Operands and flags that the commands of the laws share: tables, mappings, and the command line for the record."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from laws import InputError
from training.files import write_text


def on_cpu() -> None:
    """Laws are fitted on the CPU: a law that is written with JAX keeps off an accelerator that may be training something."""
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"


def operand(args: list[str], command: str, *names: str) -> list[str]:
    """The operands of a command, exactly as many as it takes.

    Args:
        args: the operands given.
        command: name of the command.
        names: what each operand is, for the message.

    Raises:
        InputError: too few or too many.
    """
    if len(args) != len(names):
        raise InputError(
            f"{command} takes {' and '.join(names)}, and got {len(args)} operands (isoflop {command} --help)"
        )
    return args


def define_table_options(flags: absl_flags.FlagValues) -> None:
    """The flags that overrule guesses of ``laws.load`` about a table."""
    absl_flags.DEFINE_string(
        "best_by", None, "Column whose lowest value tells the best of several runs; the loss.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "settings",
        None,
        "Columns that make runs of equal N, D and C different runs, as in peak_lr,optimizer; none for no column. By "
        "default told by names and values (laws/data/settings.py).",
        flag_values=flags,
    )
    absl_flags.DEFINE_boolean(
        "best_of_point", True, "Only the best setting of each N, D and C, where the law reads none.", flag_values=flags
    )
    absl_flags.DEFINE_boolean("keep_copies", False, "Rows equal in every column are different runs.", flag_values=flags)
    absl_flags.DEFINE_boolean(
        "keep_flagged", False, "Keep runs whose curve rose or stood still (column curve_flag).", flag_values=flags
    )
    absl_flags.DEFINE_boolean("check_units", True, "Refuse units that are taken for others.", flag_values=flags)


def table_options(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """The flags of ``define_table_options`` as arguments of ``laws.load``."""
    settings = (
        None if flags.settings is None else [name for name in flags.settings.split(",") if name not in ("", "none")]
    )
    same_names = ("best_by", "best_of_point", "keep_copies", "keep_flagged", "check_units")
    return {name: flags[name].value for name in same_names} | {"settings": settings}


def table_path(operand: str) -> str:
    """The path of a table: the operand itself, or runs.parquet of a sweep directory, which is collected first."""
    if not Path(operand).is_dir():
        return operand
    from sweeps.collect import collect

    return str(collect(operand))


def curves_beside(table: str | None) -> Path | None:
    """The learning curves that `isoflop collect` wrote beside a table of runs."""
    if table is None or Path(table).name != "runs.parquet":
        return None
    curves = Path(table).with_name("curves.parquet")
    return curves if curves.exists() else None


def write_result(path: str, payload: dict[str, Any]) -> None:
    """Write what a command found as JSON, whole or not at all.

    Args:
        path: of the file; its folder is made.
        payload: as JSON holds it.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps(payload, indent=1, allow_nan=False) + "\n"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(path), text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def typed(command: str, flags: absl_flags.FlagValues, args: list[str]) -> str:
    """The command line, for the record in the files that it writes.

    Args:
        command: name of the command.
        flags: its flags.
        args: its operands.
    """
    present = [flags[name] for name in sorted(set(flags)) if flags[name].present and name not in ("json", "traceback")]
    return shlex.join(["isoflop", command, *args, *(f"--{flag.name}={_short(flag.value)}" for flag in present)])


def _short(value: Any) -> Any:
    """A number as a person types it, 6e+11 for 600000000000.0, where that is the same number."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else value


def pairs(flag: str, text: str | None) -> dict[str, str]:
    """The mapping that a flag such as ``--columns=unique_tokens=seen_once,experts=E`` states.

    Raises:
        InputError: a part is not NAME=VALUE, or a name stands twice.
    """
    mapping: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise InputError(f"--{flag} takes NAME=VALUE,..., and '{part}' is not of that form")
        if name in mapping:
            raise InputError(f"--{flag} names {name} twice")
        mapping[name] = value
    return mapping


def numbers(flag: str, text: str | None) -> dict[str, float]:
    """The mapping to numbers that a flag such as ``--fixed=alpha=0.35,E=1.7`` states.

    Raises:
        InputError: as ``pairs``, or a value is not a number.
    """
    mapping: dict[str, float] = {}
    for name, value in pairs(flag, text).items():
        try:
            mapping[name] = float(value)
        except ValueError as error:
            raise InputError(f"--{flag}: {name} must be a number, and is '{value}'") from error
    return mapping
