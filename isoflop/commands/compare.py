"""`isoflop compare`: the compute multiplier between two fits: how much less compute B needs for A's loss."""

from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

if TYPE_CHECKING:
    from laws import Comparison

EXAMPLE = """
isoflop compare runs/adamw/fit.json runs/muon/fit.json
isoflop compare a.json b.json --compute=1e18,1e20 --plot=multiplier.png
isoflop compare both.json --group_a=adamw --group_b=muon
isoflop compare a.json mine.json --law=mylaw.py:MYLAW
"""
WAITING = "comparing"
PAIRED = {"auto": None, "true": True, "false": False}


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_list(
        "compute", [], "Training FLOPs of A; by default over its runs and beyond.", flag_values=flags
    )
    absl_flags.DEFINE_boolean(
        "check_quantity", True, "Refuse fits of different losses, evaluation sets or tokenizers.", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "paired",
        "auto",
        list(PAIRED),
        "Pair the draws of the fits as their runs are: where errors of paired runs correlate, always, never.",
        flag_values=flags,
    )
    for group in ("a", "b"):
        absl_flags.DEFINE_string(
            f"group_{group}",
            None,
            f"The group that is {group.upper()}, of one fit made with --group.",
            flag_values=flags,
        )
    absl_flags.DEFINE_list(
        "law", [], "file.py:NAME of a fit's law that is not one of isoflop's; of both, separated by a comma.",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string("out", None, "Write the comparison here as well (JSON).", flag_values=flags)
    absl_flags.DEFINE_string("plot", None, "Draw it here (PNG, SVG or PDF).", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Compare, and write and draw if asked."""
    groups = (flags.group_a, flags.group_b) if flags.group_a and flags.group_b else None
    paths = (
        _laws.operand(args, "compare", "the fit")
        if groups
        else _laws.operand(args, "compare", "the fit of A", "the fit of B")
    )
    _laws.on_cpu()
    import numpy as np

    import laws

    try:
        compute = [float(value) for value in flags.compute]
    except ValueError as error:
        raise laws.InputError(f"--compute: {error}") from error
    computes = np.array(compute) if compute else None
    if bool(flags.group_a) != bool(flags.group_b):
        raise laws.InputError("--group_a and --group_b name the two groups of one fit: give both")
    a, *others = (laws.read_fit(path, flags.law) for path in paths)
    unused = [declaration for declaration in flags.law if declaration not in [fit.law.origin for fit in (a, *others)]]
    if unused:
        named = " and ".join(fit.law.name for fit in (a, *others))
        raise laws.InputError(f"--law: neither fit is of law '{unused[0]}' ({named})")
    b = others[0] if others else None
    comparison = laws.compare(a, b, computes, flags.check_quantity, PAIRED[flags.paired], groups=groups)
    payload = comparison.to_dict() | {"inputs": list(paths), "command": _laws.typed("compare", flags, args)}
    if flags.out:
        _laws.write_result(flags.out, payload)
    if flags.plot:
        payload["plot"] = str(laws.plot_result(comparison, flags.plot))
    return Output(payload, _text(comparison))


def _text(comparison: "Comparison") -> Any:
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("C of A", "loss", "multiplier", f"{comparison.level:.0%} interval", "B better"):
        table.add_column(title, justify="right")
    for point in comparison.points:
        table.add_row(
            f"{point.c:.3g}",
            f"{point.loss:.4f}",
            "none" if point.multiplier is None else f"{point.multiplier:.3g}",
            f"[{point.interval[0]:.3g}, {point.interval[1]:.3g}]" if point.interval else "",
            "" if point.share_above_one is None else f"{point.share_above_one:.0%}",
        )
    pairing = [str(comparison.pairing)] if comparison.pairing else []
    lines = [f"C / C', where B reaches with C' the loss that A reaches with C ({comparison.compute_column})"]
    if comparison.slope:
        low, high = comparison.slope.interval or (float("nan"), float("nan"))
        trend = "grows" if low > 0 else "shrinks" if high < 0 else "neither grows nor shrinks for sure"
        lines.append(f"it goes as C^{comparison.slope.value:.3f} [{low:.3f}, {high:.3f}]: the advantage of B {trend}")
    reasons = dict.fromkeys(point.reason for point in comparison.points if point.reason)
    return Group(
        *lines[:1], table, *lines[1:], *pairing, *reasons, *(f"warning: {text}" for text in comparison.warnings)
    )
