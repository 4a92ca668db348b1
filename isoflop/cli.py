"""The command line: finds the command, parses its flags, prints its output, turns errors into one line.

A command is a line of `COMMANDS` and a module `isoflop/commands/NAME.py` with `EXAMPLE`, `define(flags)` and
`run(flags, args) -> Output`; with `WAITING` a bar with that word is on the terminal meanwhile, and with `CONFIG = True` it
also gets `flags.config`, the completed config of
`--config=FILE[:arg]` with every key a flag.
"""

import contextlib
import dataclasses
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags as absl_flags

from isoflop.waiting import waiting
from training import extras
from training.files import refuse_object_storage

COMMANDS = {
    "doctor": "check devices, versions, precision and cache",
    "init": "write a commented config to start from",
    "prepare": "build a dataset's shards ahead of time",
    "plan": "price the points of a run or sweep; nothing is run",
    "train": "train one run, resumable",
    "sweep": "train every point of a sweep that is not done",
    "study": "sweep, fit, freeze a forecast, train its budget, score, report: one config, one command",
    "status": "the states of a sweep's points",
    "collect": "write runs.parquet and curves.parquet",
    "reproduce": "train a baseline and compare with the mean its config records",
    "evaluate": "all that is said of a run's checkpoint, and its predictions",
    "fit": "fit a scaling law to a table",
    "predict": "loss or optimum from a fit, with intervals",
    "score": "a frozen forecast against what was measured since",
    "calibration": "whether the forecasts of a study kept what they promised",
    "compare": "the compute multiplier between two fits",
    "propose": "the next runs: those that make a prediction surest",
    "plot": "figures of a table and its fit",
    "report": "one self-contained report.html",
    "generate": "text from a checkpoint",
    "export": "a run's model as StableHLO, or in the layout of transformers",
    "import": "a folder of transformers as a run directory",
    "completion": "a script that completes commands and flags in bash, zsh or fish",
}
MODULES = {"import": "import_model"}  # where a command's name is a reserved word of Python


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command has to say: `payload` for `--json`, `text` (a string or a rich renderable) for people, a code."""

    payload: dict[str, Any]
    text: Any = ""
    code: int = 0


class Usage(ValueError):
    """The command line itself is wrong."""

    exit_code = 2


class Terminated(BaseException):
    """SIGTERM, while nothing ran that could have saved anything."""


LONGEST_MESSAGE = 4000  # characters of an error: more than any of ours has, where a table has no odd names
STOPS: dict[type[BaseException], signal.Signals] = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code.

    It is 0 for success, 1 for a failed run or fit, 2 for bad input, and 128 + its number for a signal.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"isoflop {version('isoflop')}")
        return 0
    _quiet_libraries()
    show_traceback = "--traceback" in argv
    try:
        with _terminable():
            output = _dispatch(argv[0], argv[1:])
    except tuple(STOPS) as stop:
        number = STOPS[type(stop)]
        print(f"isoflop: stopped by {number.name}; the same command continues", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        code, message = _one_line(error)
        print(f"isoflop: {message}", file=sys.stderr)
        return code
    return output.code if output else 0


def entry() -> None:
    """The process of a command; no collection of garbage looks at what its imports make, which stays."""
    gc.disable()
    code = main()
    if code:
        from training.signals import leave

        leave(code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, with what it has begun cleared away; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _dispatch(name: str, argv: list[str]) -> Output | None:
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        raise Usage(f"no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else "; see isoflop --help"))
    command = module_of(name)
    if not gc.isenabled():  # see `entry`
        gc.freeze()
        gc.enable()
    values = absl_flags.FlagValues()
    define_common(values)
    command.define(values)
    takes_config = getattr(command, "CONFIG", False)
    if any(argument in ("--help", "-h", "-help") for argument in argv):
        print(_help(name, command, values, takes_config))
        return None
    if takes_config:
        from isoflop.config_file import define_config

        argv = define_config(values, argv)
    _check_values(values, argv)
    args = values([name, *argv])[1:]
    given = {f"--{flag}": values[flag].value for flag in values if flag not in ("config", "config_words")}
    if takes_config:
        from training.identity import flatten

        given |= {f"--config.{key}": value for key, value in flatten(values["config"].value.to_dict()).items()}  # type: ignore[union-attr]
    _check_paths({**given, "operand": args})
    work = getattr(command, "WAITING", None)  # what it does for more than a few seconds, and shows nothing of
    with waiting(work) if work else contextlib.nullcontext():
        output = command.run(values, args)
    if values["json"].value:
        print(json.dumps(output.payload, indent=2, default=_jsonable, allow_nan=False))
    elif output.text:
        from rich.console import Console

        # Names of files, columns and runs are shown as they are: brackets and colons in them are no markup.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        Console(width=width, soft_wrap=True, markup=False, emoji=False).print(output.text, highlight=False)
    return output


def define_common(values: absl_flags.FlagValues) -> None:
    """The flags that every command has."""
    absl_flags.DEFINE_boolean("json", False, "Print JSON instead of a table.", flag_values=values)
    absl_flags.DEFINE_boolean("traceback", False, "Show the traceback of an error.", flag_values=values)


def _check_values(values: absl_flags.FlagValues, argv: list[str]) -> None:
    """Refuses a flag without a value, which would take the flag after it for its value.

    Raises:
        Usage: names both flags.
    """
    for argument, following in itertools.pairwise(argv):
        name = argument.lstrip("-")
        if argument == "--":
            return
        if argument.startswith("-") and following.startswith("--") and name in values and not values[name].boolean:
            raise Usage(f"--{name} takes a value, and is followed by {following} (--{name}=VALUE)")


def _check_paths(given: Mapping[str, Any]) -> None:
    """Refuse a path of object storage, except as the folder of a data set, which its own library reads.

    Args:
        given: values of flags, of keys of the config, and operands, by what they are called.

    Raises:
        BadInput: names the flag, the key or the operand.
    """
    for name, value in given.items():
        if name.rpartition(".")[2] != "data_dir":
            for each in value if isinstance(value, list | tuple) else (value,):
                refuse_object_storage(name, each)


def module_of(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"isoflop.commands.{MODULES.get(name, name)}")


def _on_one_line(text: str) -> str:
    """A text, parts of which may be cells of a table: no line breaks, nothing that a terminal would obey, no megabytes."""
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 3]}..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _one_line(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error: an `exit_code` attribute marks the ones that were meant for people."""
    flag = getattr(error, "flag", None)  # by which the command line settles what the message says
    if absent := extras.explained(error):
        return 2, absent
    command = getattr(error, "command", None)  # which makes what is missing
    hints = [flag, f"{command} makes one" if isinstance(command, str) else None]
    message = "".join([str(error), *(f" ({hint})" for hint in hints if isinstance(hint, str))])
    message = _on_one_line(message) or type(error).__name__
    if isinstance(getattr(error, "exit_code", None), int):
        return error.exit_code, message  # type: ignore[attr-defined]
    if isinstance(error, absl_flags.Error):
        return 2, message
    if isinstance(error, OSError):
        return 2, f"{error.strerror or message}: {error.filename}" if error.filename else message
    return 1, f"{type(error).__name__}: {message} (--traceback shows where)"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "isoflop: from a config file to a scaling law with honest error bars\n\n"
        f"usage: isoflop COMMAND [flags]\n\n{rows}\n\nisoflop COMMAND --help shows its flags and an example."
    )


def _help(name: str, command: Any, values: absl_flags.FlagValues, takes_config: bool) -> str:
    lines = [f"isoflop {name}: {COMMANDS[name]}", "", "example:"]
    lines += [f"  {line}" for line in command.EXAMPLE.strip().splitlines()] + ["", "flags:"]
    if takes_config:
        lines.append("  --config=FILE[:arg]  the config; every key is a flag, as in --config.seed=1; None opens one")
    for flag_name in sorted(set(values)):
        flag = values[flag_name]
        default = "" if flag.default is None else f" (default {flag.default})"
        lines.append(f"  --{flag_name}  {' '.join((flag.help or '').split())}{default}")
    return "\n".join(lines)


def _jsonable(value: Any) -> Any:
    convert: Callable[[], Any] | None = getattr(value, "tolist", None) or getattr(value, "to_dict", None)
    return convert() if convert else str(value)


def _quiet_libraries() -> None:
    """Keep third-party chatter off the terminal; warnings of our own stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import logging

    from absl import logging as absl_logging

    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("jax").setLevel(logging.ERROR)
