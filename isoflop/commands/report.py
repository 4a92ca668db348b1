"""`isoflop report`: a study as one page."""

from pathlib import Path

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws
from training.errors import BadInput

EXAMPLE = "isoflop report runs/demo"
WAITING = "writing the report"


def define(flags: absl_flags.FlagValues) -> None:
    """The flag of the command."""
    absl_flags.DEFINE_string("out", None, "Where to write the page; by default DIR/report.html.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Write the page."""
    if len(args) != 1:
        raise BadInput("report takes one folder: a study or a sweep directory")
    _laws.on_cpu()
    from isoflop.report import page, study
    from training.files import write_text

    folder = Path(args[0])
    loaded = study.load(folder)
    out = Path(flags["out"].value or folder / "report.html")
    if out.is_dir():
        raise BadInput(f"--out: {out} is a folder")
    content = page.render(loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, content)
    parts = {name: getattr(loaded, name) is not None for name in ("fit", "prediction", "score")}
    payload = {"report": str(out), "bytes": len(content.encode()), "states": loaded.states()} | parts
    absent = [name for name, there in parts.items() if not there]
    lacking = f" (without {', '.join(absent)})" if absent else ""
    return Output(payload, f"{out}: {payload['bytes'] / 1e6:.1f} MB{lacking}")
