"""`isoflop score`: a frozen prediction against what was measured since."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

if TYPE_CHECKING:
    from laws import Score

LOG = "scores.jsonl"  # beside the prediction, unless --log names another
EXAMPLE = "isoflop score prediction.json runs/demo/sweep --out=score.json"
WAITING = "scoring"


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
    import laws

    laws.read_frozen(frozen)  # before a sweep is collected
    result = laws.score(frozen, _laws.table_path(operand), flags.law)
    log_path = flags.log or str(Path(frozen).with_name(LOG))
    log = laws.append_score(result, log_path)
    result = dataclasses.replace(result, warnings=(*result.warnings, *log.warnings))
    payload = result.to_dict() | {"command": _laws.typed("score", flags, args)}
    payload["log"] = {"path": log_path, "scores": len(log.entries)}
    if flags.out:
        _laws.write_result(flags.out, payload)
    return Output(payload, _text(result, log_path, len(log.entries)))


def _text(result: "Score", log_path: str, n_scores: int) -> Any:
    from rich.console import Group
    from rich.table import Table

    predicted, runs, measured = result.predicted, result.runs, result.measured
    low, high = predicted.interval
    table = Table(box=None, pad_edge=False)
    for title in ("forecast", "loss", "absolute relative error"):
        table.add_column(title, justify="left" if title == "forecast" else "right")
    table.add_row("the forecast", f"{predicted.loss:.5f}", f"{result.abs_rel_error:.2%}")
    naive_forecasts = {
        "best loss so far": result.baselines.best_so_far,
        "power law without offset": result.baselines.power_law,
    }
    for title, naive in naive_forecasts.items():
        table.add_row(title, f"{naive.loss:.5f}" if naive else "none", f"{naive.abs_rel_error:.2%}" if naive else "")
    return Group(
        f"measured {measured.loss:.5f} ({measured.how})",
        table,
        f"{'inside' if result.covered else 'OUTSIDE'} the {predicted.level:.0%} interval [{low:.5f}, {high:.5f}]; its width "
        f"is {result.relative_width:.2%} of the loss: {'informative' if result.informative else 'uninformative'}",
        f"the {runs.n} runs at the target: error {runs.mean_abs_rel_error:.2%} mean, "
        f"{runs.max_abs_rel_error:.2%} worst; {runs.coverage:.0%} inside their intervals",
        f"preregistered: {'yes' if result.preregistered else 'not shown'}",
        f"score {n_scores} in {log_path} (isoflop calibration)",
        *(f"warning: {text}" for text in result.warnings),
    )
