"""What the commands about sweeps print: the table of a sweep's points, and the parts it is made of."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from sweeps.untrusted_files import printable

GAP = 2  # blanks between two columns
WRAPPED_WIDTH = 20  # that a column whose cells may be wrapped has at least
STYLES = {"completed": "green", "running": "cyan", "failed": "red", "diverged": "yellow", "interrupted": "magenta"}
MAX_ROWS = 100  # of a table that was not asked for as a whole
UNDER_WAY = ("running", "failed", "interrupted")  # states shown where not all rows are
NOT_LABELS = {
    *("run_id", "state", "params_total", "flops", "step", "steps", "loss", "train_loss", "seconds", "at", "message"),
    "curve_flag",
}
LABEL_CHARACTERS = 40  # shown of a label
MAX_LABELS = 20  # shown as columns


@dataclasses.dataclass(frozen=True)
class FittingTable:
    """A table that leaves out its least needed columns where the terminal is too narrow for all, and says which.

    Attributes:
        headings: of the columns.
        rows: cells, as many as headings.
        dispensable: headings of the columns that may be left out, the first one first.
        left: how many columns, from the first on, are justified to the left.
        wrapped: whether the cells of the last column are wrapped where they are long.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    dispensable: Sequence[str] = ()
    left: int = 1
    wrapped: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [self.headings, *self.rows]
        widths = [max(cell_len(str(line[i])) for line in lines) for i in range(len(self.headings))]
        if self.wrapped:
            widths[-1] = min(widths[-1], WRAPPED_WIDTH)
        shown = list(range(len(self.headings)))
        left_out: list[str] = []
        for heading in self.dispensable:
            if sum(widths[i] for i in shown) + GAP * (len(shown) - 1) <= options.max_width:
                break
            if heading in self.headings:
                shown.remove(self.headings.index(heading))
                left_out.append(heading)
        table = Table(box=None, pad_edge=False)
        for i in shown:
            last = self.wrapped and i == len(self.headings) - 1
            justify = "left" if i < self.left or last else "right"
            table.add_column(Text(self.headings[i]), justify=justify, no_wrap=not last)
        for row in self.rows:
            table.add_row(*(row[i] for i in shown))
        yield table
        if left_out:
            yield Text(f"left out at this width: {', '.join(left_out)} (--json has all)", style="dim")


def points_table(
    name: str, rows: list[dict[str, Any]], states: dict[str, int], share: float, everything: bool = False
) -> Any:
    """The rows of `sweeps.status` for people, and the sums below.

    Args:
        name: of the sweep.
        rows: a row a point.
        states: runs by state.
        share: of the FLOPs that are done, from 0 to 1.
        everything: all rows, where there are many too; else those of runs that are under way or have failed.
    """
    visible = rows
    if len(rows) > MAX_ROWS and not everything:
        visible = sorted((row for row in rows if row["state"] in UNDER_WAY), key=lambda r: UNDER_WAY.index(r["state"]))
        visible = visible[:MAX_ROWS]
    labels = list(dict.fromkeys(key for row in visible for key in row if key not in NOT_LABELS))[:MAX_LABELS]
    named = [label_text(label) for label in labels]
    headings = ["run", "state", *named, "N", "FLOPs", "step", "train loss", "loss", ""]
    cells = [
        [
            row["run_id"],
            Text(row["state"], style=STYLES.get(row["state"], "")),
            *(Text(label_text(row.get(label))) for label in labels),
            f"{row['params_total']:,}",
            f"{row['flops']:.3g}",
            f"{row['step']:,}/{row['steps']:,}",
            loss_text(row["train_loss"]),
            loss_text(row["loss"]),
            Text(row["message"] or row.get("curve_flag") or ""),
        ]
        for row in visible
    ]
    table = FittingTable(headings, cells, ("train loss", "FLOPs", *reversed(named), "N"), left=2, wrapped=True)
    lines = [Text(f"sweep {label_text(name)}: {state_counts(states)}; {share:.0%} of the FLOPs are done")]
    flags = Counter(row["curve_flag"] for row in rows if row.get("curve_flag"))
    if flags:
        rules = state_counts(dict(sorted(flags.items())))
        lines.append(Text(f"flagged by their curves: {rules}; fits leave them out (--keep_flagged)"))
    if len(visible) < len(rows):
        lines.append(Text(f"{len(rows) - len(visible):,} of {len(rows):,} rows are not shown (--all shows them)"))
    return Group(*([table, ""] if visible else []), *lines)


def state_counts(states: dict[str, int]) -> str:
    """How many runs are in each state."""
    return ", ".join(f"{count:,} {state}" for state, count in states.items())


def label_text(value: Any) -> str:
    """A label for a terminal."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else printable(value, LABEL_CHARACTERS)


def loss_text(value: Any) -> str:
    """A loss for a terminal, empty where there is none."""
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def duration(seconds: float) -> str:
    """A time for a terminal, in minutes, or in hours from an hour and a half on."""
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"
