"""`isoflop propose`: the next runs, chosen so that a prediction becomes surer, and what they are expected to gain."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

if TYPE_CHECKING:
    from laws import Proposal

EXAMPLE = """
isoflop propose fit.json --budget=1e13 --runs=10 --target=1e14
isoflop propose fit.json --quantity=n --out=next.csv
isoflop sweep --config=configs/lm/demo.py --points=next.csv --workdir=runs/demo/sweep
"""
WAITING = "choosing runs"
FORMATS = (".csv", ".json")


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    real = absl_flags.DEFINE_float
    real("budget", None, "Training FLOPs of all new runs together; what the fitted ones have cost.", flag_values=flags)
    absl_flags.DEFINE_integer("runs", 10, "New runs at most, two for lack of fit included.", flag_values=flags)
    real("target", None, "FLOPs of the prediction; the fit's, or ten times its largest run.", flag_values=flags)
    absl_flags.DEFINE_string(
        "quantity", "loss", "What is predicted there: loss, or n for the best size.", flag_values=flags
    )
    real("largest", None, "FLOPs that one run may cost; a quarter of the budget.", flag_values=flags)
    absl_flags.DEFINE_string(
        "law", None, "file.py:NAME of the fit's law, if that is not one of isoflop's.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "out", None, "Write the points here (CSV or JSON), for sweeps.design.table.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Propose, and write the points if asked."""
    (path,) = _laws.operand(args, "propose", "a fit")
    _laws.on_cpu()
    import laws

    if flags.out and Path(flags.out).suffix not in FORMATS:
        raise laws.InputError(f"--out={flags.out}: points are written as {' or '.join(FORMATS)}")
    fitted = laws.read_fit(path, flags.law)
    proposal = laws.propose(
        fitted, flags.budget, flags.runs, target=flags.target, quantity=flags.quantity, largest=flags.largest
    )
    if flags.out:
        write_points(flags.out, proposal, fitted.report.columns)
        size_column = fitted.report.columns["n"]
        if size_column != "params_total":
            warning = f"N of the fit is {size_column}, and model.size is params_total"
            proposal = dataclasses.replace(proposal, warnings=(*proposal.warnings, warning))
    payload = proposal.to_dict() | {"inputs": [path], "command": _laws.typed("propose", flags, args)}
    return Output(payload | ({"out": flags.out} if flags.out else {}), _text(proposal, flags.out))


def write_points(path: str, proposal: "Proposal", columns: dict[str, str]) -> None:
    """Write proposed runs as a design that `sweeps.design.table` reads.

    Compute is kept where the fit counts it as sweeps do (`flops_exact`), so that D follows from the shape; else tokens.

    Args:
        path: a CSV or JSON file.
        proposal: the runs.
        columns: variable -> column of the fitted table.
    """
    exact = columns["c"] == "flops_exact"
    rows = [
        {"model.size": round(point.n)}
        | ({"duration.flops": point.c} if exact else {"duration.tokens": round(point.d)})
        | {"label.design_role": str(point.design_role)}
        for point in proposal.points
    ]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as file:
        if target.suffix == ".json":
            file.write(json.dumps(rows, indent=1) + "\n")
        else:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def _text(proposal: "Proposal", out: str | None) -> Any:
    from rich.console import Group
    from rich.table import Table

    error, ratio = proposal.expected_error, proposal.variance_ratio
    table = Table(box=None, pad_edge=False)
    for title in ("N", "D", "C", "D / N", "role", "loss", f"{proposal.level:.0%} interval of one run"):
        table.add_column(title, justify="left" if title == "role" else "right")
    for point in proposal.points:
        low, high = point.interval
        table.add_row(
            *(f"{value:.4g}" for value in (point.n, point.d, point.c, point.tokens_per_param)),
            str(point.design_role),
            f"{point.loss:.4f}",
            f"[{low:.4f}, {high:.4f}]",
        )
    quantity = "the loss" if proposal.quantity == "loss" else "N*"
    return Group(
        f"{len(proposal.points)} runs for {proposal.flops:.4g} of {proposal.budget:.4g} FLOPs, none above "
        f"{proposal.largest:.4g}",
        table,
        f"expected error of {quantity} at {proposal.target.c:.4g} FLOPs: {error.before:.2%} now, "
        f"{error.after:.2%} after these runs (variance x {ratio.before:.2f})",
        f"after the same FLOPs in an iso-FLOP grid {error.isoflop:.2%} (variance of the proposal x "
        f"{ratio.isoflop:.2f}), at random {error.random:.2%} (x {ratio.random:.2f})",
        "a run for lack of fit outside its interval speaks against the form",
        *(f"warning: {text}" for text in proposal.warnings),
        *([f"written to {out}"] if out else []),
    )
