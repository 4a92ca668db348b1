"""`isoflop score`: a frozen prediction against what was measured since."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

EXAMPLE = "isoflop score prediction.json runs/demo/sweep --out=score.json"


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("out", None, "Write the score here as well.", flag_values=flags)
    absl_flags.DEFINE_string(
        "log", None, "Log of the study's scores (isoflop calibration); by default scores.jsonl beside the prediction.",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "law", None, "file.py:NAME of the fit's law, if that is not one of isoflop's.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Compare, and write the score if asked."""
    frozen, operand = _laws.operand(args, "score", "a frozen prediction", "a table or sweep directory")
    _laws.on_cpu()
    from laws import score
    from laws.base.json_files import write_json
    from laws.uses.preregistration import read_frozen
    from laws.uses.score_log import NAME, append_score

    read_frozen(frozen)  # before a sweep is collected
    found = score(frozen, _laws.table_path(operand), flags.law) | {"command": _laws.typed("score", flags, args)}
    log = flags.log or str(Path(frozen).with_name(NAME))
    appended = append_score(found, log)
    found["log"] = {"path": log, "scores": len(appended.entries)}
    found["warnings"] = [*found["warnings"], *appended.warnings]
    if flags.out:
        write_json(flags.out, found)
    return Output(found, _text(found))


def _text(found: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    said, runs, measured = found["predicted"], found["runs"], found["measured"]
    low, high = said["interval"]
    table = Table(box=None, pad_edge=False)
    for title in ("forecast", "loss", "absolute relative error"):
        table.add_column(title, justify="left" if title == "forecast" else "right")
    table.add_row("the law", f"{said['loss']:.5f}", f"{found['abs_rel_error']:.2%}")
    names = {"best_so_far": "best loss so far", "power_law": "power law without offset"}
    for key, title in names.items():
        naive = found["baselines"][key]
        table.add_row(
            title, f"{naive['loss']:.5f}" if naive else "none", f"{naive['abs_rel_error']:.2%}" if naive else ""
        )
    inside = "inside" if found["covered"] else "OUTSIDE"
    width = "informative" if found["informative"] else "uninformative"
    return Group(
        f"measured {measured['loss']:.5f} ({measured['how']})",
        table,
        f"{inside} the {said['level']:.0%} interval [{low:.5f}, {high:.5f}]; its width is "
        f"{found['relative_width']:.2%} of the loss: {width}",
        f"the {runs['n']} runs at the target: error {runs['mean_abs_rel_error']:.2%} mean, "
        f"{runs['max_abs_rel_error']:.2%} worst; {runs['coverage']:.0%} inside their intervals",
        f"preregistered: {'yes' if found['preregistered'] else 'not shown'}",
        f"score {found['log']['scores']} in {found['log']['path']} (isoflop calibration)",
        *(f"warning: {text}" for text in found["warnings"]),
    )
