"""`isoflop init`: a commented config to start from, written to a file that is not there yet."""

from pathlib import Path

from absl import flags as absl_flags

import configs
from isoflop.cli import Output
from training.errors import BadInput, nearest
from training.files import write_text

EXAMPLE = """
isoflop init study
isoflop init sweep widths.py
isoflop init run
"""
# Kind of config -> the command that carries it out, and its folder in the text of the config.
KINDS = {
    "study": "isoflop study --config={path} --workdir=runs/study",
    "sweep": "isoflop sweep --config={path} --workdir=runs/sweep",
    "run": "isoflop train --config={path} --workdir=runs/first",
}


def define(flags: absl_flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Write the config, and say what to do with it."""
    if not 1 <= len(args) <= 2:
        raise BadInput(f"init takes {', '.join(KINDS)}, and perhaps the file to write (isoflop init study FILE)")
    kind, path = args[0], Path(args[1] if len(args) == 2 else f"{args[0]}.py")
    if kind not in KINDS:
        raise BadInput(f"init: no config {kind!r}{nearest(kind, KINDS)} (known: {', '.join(KINDS)})")
    if path.suffix != ".py":
        raise BadInput(f"init: {path} does not end in .py")
    if path.exists():
        raise BadInput(
            f"init: {path} is there already, and is not overwritten (isoflop init {kind} FILE writes another)"
        )
    shipped = Path(configs.__file__).parent / "start" / f"{kind}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, shipped.read_text(encoding="utf-8").replace(f"configs/start/{kind}.py", str(path)))
    following = [f"isoflop plan --config={path}", KINDS[kind].format(path=path)]
    text = f"{path} is written: read it, change it, then\n  " + "\n  ".join(following)
    return Output({"path": str(path), "next": following}, text)
