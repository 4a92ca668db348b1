"""`isoflop calibration`: every score of a study, and whether its intervals kept their promise."""

from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

if TYPE_CHECKING:
    from laws import Calibration

EXAMPLE = """
isoflop calibration runs/demo/scores.jsonl
isoflop calibration runs/demo/scores.jsonl --plot=calibration.png
"""
WAITING = "counting scores"


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("plot", None, "Draw it here (PNG, SVG or PDF).", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read the log that `isoflop score` keeps, check that it is whole, and count."""
    (log,) = _laws.operand(args, "calibration", "a log of scores")
    import laws

    result = laws.calibration(log)
    payload = result.to_dict() | {"command": _laws.typed("calibration", flags, args)}
    if flags.plot:
        payload["plot"] = str(laws.plot_result(result, flags.plot))
    return Output(payload, _text(result))


def _text(result: "Calibration") -> Any:
    import datetime

    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    titles = ("frozen", "target", "predicted", "interval", "measured", "error", "", "inside so far")
    for title in titles:
        table.add_column(title, justify="left" if title in ("frozen", "target", "") else "right")
    for row in result.forecasts:
        low, high = row.interval_of_loss
        table.add_row(
            f"{datetime.datetime.fromtimestamp(row.frozen_at, datetime.UTC):%Y-%m-%d %H:%M}",
            ", ".join(f"{variable} {value:.3g}" for variable, value in row.target.items()),
            f"{row.predicted:.4f}",
            f"[{low:.4f}, {high:.4f}]",
            f"{row.measured:.4f}",
            f"{row.abs_rel_error:.2%}",
            "inside" if row.covered else "OUTSIDE",
            f"{row.coverage:.0%} of {row.nominal:.0%}",
        )
    unshown = sum(row.preregistered is not True for row in result.forecasts)
    notes = [f"{unshown} of them are not shown to be preregistered"] if unshown else []
    last = result.forecasts[-1]
    bias = f"measured losses lie {abs(last.bias):.2f} half widths {'above' if last.bias > 0 else 'below'} the middle"
    notes += [f"warning: {text}" for text in result.warnings]
    return Group(table, "", result.verdict, bias + " of their intervals on average", *notes)
