"""A table of runs ready to be fitted: its arrays, its budgets, and the rows that a law describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.base.errors import InputError, nearest
from laws.data.checks import SAME, column_numbers
from laws.data.column_names import guesses
from laws.data.grouping import (
    ROWS_PER_BUDGET,
    above_budget,
    at_budget,
    equal_points,
    equal_rows,
    frontier as best_of_budgets,
)
from laws.data.points import best_rows, best_settings, points_at_edge
from laws.data.reading import as_numbers
from laws.model.forms import LAWS
from laws.model.variables import CORE, VARIABLES, checked_variable, column_flag

if TYPE_CHECKING:
    import pandas as pd

    from laws.model.law import Law

# Factor within which a column called budget states a row's compute.
NOMINAL = 1.5
# Names of the learning rate for which a hint is given.
RATES = ("lr", "learning_rate", "max_lr", "peak_learning_rate")
# What else gives a variable that no column states.
HINTS: dict[str, str] = dict.fromkeys(
    ("rate_area", "annealed_area"),
    "; it follows from the columns step and learning_rate of curves whose runs are told by a column and begin at step 1",
)


class ExclusionRule(StrEnum):
    """Rules that left rows out of a table and that later steps must know."""

    FRONTIER = "beaten by a run of the same compute or less"


@dataclass(frozen=True)
class Exclusion:
    """A rule that left rows out, and how many."""

    rule: str
    n: int


@dataclass(frozen=True)
class Table:
    """Runs ready to be fitted.

    Args:
        name: file name or ``table``, for messages.
        values: variable -> one number a row, in the units of ``laws.model.variables.VARIABLES``.
        loss: what was observed: nats per token, unless the file or the law says otherwise.
        run: identity of the run that a row belongs to; rows of one run are resampled together.
        columns: variable -> column it was read from, or rule (``DERIVED``). Also ``loss``, ``run`` and ``noise``.
        header: every column of the file, for hints.
        row: number of each row in the file, from 1.
        excluded: the rules that removed rows, with their counts, in the order they were applied.
        ended_at: when each run ended, unix seconds, if the table says.
        path, sha256: the file and its content when it was read, if it was a file.
        noise: standard error of each loss, in its own units, if a column was named.
        frame: the rows as they were read, for variables that a law asks for later.
        rank: what tells the better of two runs, the lower the better; None where no column does.
        ranked_by: its column.
        options: what ``load`` was told beside columns and filters, to read another table alike.
        differing: the settings in which rows of equal N, D and C differ (``laws.data.settings``).
        guessed: variable -> column of those that were told by usual names (``laws.data.column_names``).
        best_of_point: whether a law that does not read such a setting is fitted to the best of each N, D and C alone.
        quantity: what was measured: ``loss``, its column, and ``laws.data.measurements.MEASURED_WITH``.
        warnings: what a reader of a fit to the table must know.
    """

    name: str
    values: dict[str, Float[np.ndarray, " rows"]]
    loss: Float[np.ndarray, " rows"]
    run: np.ndarray
    columns: dict[str, str]
    header: tuple[str, ...]
    row: Int[np.ndarray, " rows"]
    excluded: tuple[Exclusion, ...] = ()
    ended_at: Float[np.ndarray, " rows"] | None = None
    path: str | None = None
    sha256: str | None = None
    noise: Float[np.ndarray, " rows"] | None = None
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    rank: Float[np.ndarray, " rows"] | None = None
    ranked_by: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    differing: tuple[str, ...] = ()
    guessed: Mapping[str, str] = field(default_factory=dict)
    best_of_point: bool = True
    quantity: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def runs(self) -> int:
        return len(np.unique(self.run))

    @property
    def guesses(self) -> str:
        """One line that says which columns were guessed, and the flags that overrule it; empty where none was."""
        return guesses(self.guessed) if self.guessed else ""

    @property
    def six_nd(self) -> bool:
        """Whether compute is 6 N D, so that closed forms hold."""
        if not {"n", "d", "c"} <= set(self.values):
            return False
        return bool(np.all(np.abs(self.values["c"] / (6 * self.values["n"] * self.values["d"]) - 1) < SAME))

    def _default(self, variable: str) -> Float[np.ndarray, " rows"] | None:
        """A variable's default column, None where it is not there."""
        column = VARIABLES[variable].column
        if self.frame is None or column not in self.frame.columns:
            return None
        return column_numbers(self.frame, self.name, variable, column)

    def need(self, variables: tuple[str, ...], law: str) -> Table:
        """The table with the columns of a law, those not read so far taken from their default columns.

        Raises:
            InputError: names the missing column, the nearest one there is, and the flag; or an unusable column.
        """
        values, columns = dict(self.values), dict(self.columns)
        for variable in variables:
            if variable in values:
                continue
            column = VARIABLES[checked_variable(variable)].column
            numbers = None if variable in CORE else self._default(variable)
            steps = self._default("steps") if numbers is None and variable == "batch_tokens" and "d" in values else None
            if steps is not None:
                numbers, column = values["d"] / steps, "tokens / steps"
            if numbers is None:
                raise InputError(
                    f"{self.name}: law '{law}' needs a column for {variable}, and there is no '{column}'"
                    f"{nearest(column, self.header)}{HINTS.get(variable, '')}",
                    flag=column_flag(variable),
                )
            values[variable], columns[variable] = numbers, column
        return replace(self, values=values, columns=columns)

    def take(self, keep: Bool[np.ndarray, " rows"], rule: str | None = None) -> Table:
        """The rows to keep; the rest are reported under ``rule`` if one is given."""
        excluded = self.excluded
        if rule is not None and not np.all(keep):
            excluded = (*excluded, Exclusion(rule, int(np.sum(~keep))))
        return replace(
            self,
            values={variable: values[keep] for variable, values in self.values.items()},
            loss=self.loss[keep],
            run=self.run[keep],
            row=self.row[keep],
            ended_at=None if self.ended_at is None else self.ended_at[keep],
            noise=None if self.noise is None else self.noise[keep],
            frame=None if self.frame is None else self.frame.iloc[np.flatnonzero(keep)],
            rank=None if self.rank is None else self.rank[keep],
            excluded=excluded,
        )

    def above_budget(self, flops: float) -> Bool[np.ndarray, " rows"]:
        """The rows with more compute than the budget that a number of FLOPs names; no budget is cut in two."""
        nominal = self._nominal_budget()
        return above_budget(self.values["c"], flops) if nominal is None else nominal > flops * (1 + SAME)

    def at_budget(self, flops: float, near: float) -> Bool[np.ndarray, " rows"]:
        """The rows that measure a compute: the budget that it names, else those within a relative distance of it."""
        nominal = self._nominal_budget()
        named = np.zeros(len(self), bool) if nominal is None else np.abs(nominal / flops - 1) <= SAME
        return named if named.any() else at_budget(self.values["c"], flops, near)

    def _nominal_budget(self) -> Float[np.ndarray, " rows"] | None:
        """The column of each row's budget: ``budget``, or one of few values, if it holds the FLOPs to within ``NOMINAL``."""
        if self.frame is None or "c" not in self.values:
            return None
        compute = self.values["c"]
        most = min(equal_rows(compute).max(), len(self) // ROWS_PER_BUDGET)
        for column in sorted(self.frame.columns, key=lambda column: column != "budget"):
            if column != "budget" and (
                self.frame[column].dtype.kind not in "fi" or self.frame[column].nunique() > most
            ):
                continue
            budget = as_numbers(self.frame[column])
            if np.all((budget > compute / NOMINAL) & (budget < compute * NOMINAL)):
                return budget
        return None

    def repeats(self) -> Int[np.ndarray, " rows"]:
        """Number of the group of each row: rows of one group are repeats, equal in all variables and settings."""
        settings = [] if self.frame is None else [self.frame[column] for column in self.differing]
        columns = [*self.values.values(), *settings]
        return equal_rows(*columns) if columns else np.arange(len(self))

    def for_law(self, law: Law) -> Table:
        """The rows that a law describes, with its columns.

        As ``for_columns``; but a law of an optimum (``lr_step``) describes the best row of each point alone.

        Raises:
            InputError: as ``need``; or no column tells which row is the best, for a law of an optimum.
        """
        if law.of_optimum:
            return self.need(law.columns, law.name)._optimum_of_points(law)
        return self.for_columns(law.columns, law.name)

    def for_columns(self, variables: tuple[str, ...], law: str) -> Table:
        """The rows that a law of some variables describes: of each N, D and C the best setting of what it does not read.

        Rows of equal N, D and C that differ in a learning rate, say, lie on one point of a law of N and D. The loss there
        is that of the best rate; the others are left out, and the warnings say so.

        Args:
            variables: what the law reads.
            law: its name, for messages.

        Raises:
            InputError: as ``need``.
        """
        table = self.need(variables, law)
        if not table.differing or table.frame is None or not {"n", "d"} <= set(table.values):
            return table
        point = table._points(variables)
        unread = [c for c in table.differing if equal_rows(point, table.frame[c]).max() > point.max()]
        if not unread:
            return table
        listed = ", ".join(unread)
        where = f"rows of equal N, D and C differ in {listed}"
        if not table.best_of_point or table.rank is None:
            return table._warned(
                f"{where}: all of them are fitted, as points of one N, D and C (--best_of_point=false)"
            )
        keep = best_settings(point, equal_rows(point, *(table.frame[column] for column in unread)), table.rank)
        warning = (
            f"{where}, which law '{law}' does not read: only the best of each is fitted, and {int(np.sum(~keep))} of "
            f"{len(table)} rows are left out ({_laws_reading(unread, variables)}--best_of_point=false keeps them; "
            "--settings names the columns that count)"
        )
        best = table.take(keep, f"not the best {listed} of its N, D and C")
        return replace(best, differing=tuple(c for c in table.differing if c not in unread))._warned(warning)

    def _optimum_of_points(self, law: Law) -> Table:
        """The best row of each point, for a law of what is best there."""
        point, observed = self._points(law.columns), self.columns["loss"]
        if equal_rows(point, self.loss).max() == point.max():
            return self
        if self.rank is None:
            raise InputError(
                f"{self.name}: law '{law.name}' is of the best '{observed}' of each point, and rows of equal N, D and C "
                "differ in it: name the column whose lowest value tells the best as best_by, or keep the best alone",
                flag=column_flag("best_by"),
            )
        keep = best_rows(point, self.rank)
        edge = points_at_edge(point, self.loss, keep)
        warning = (
            f"law '{law.name}' is of the best '{observed}': only the row with the lowest {self.ranked_by} of each N, D and "
            f"C is fitted, and {int(np.sum(~keep))} of {len(self)} rows are left out"
        ) + (f"; in {edge} of {int(keep.sum())} points the best lies at an end of those tried" if edge else "")
        return self.take(keep, f"not the best {observed} of its N, D and C")._warned(warning)

    def _points(self, variables: tuple[str, ...]) -> Int[np.ndarray, " rows"]:
        """Number of the point of each row: equal N, D and C, and what else a law reads."""
        return equal_points(self.values, tuple(dict.fromkeys((*CORE, *variables))), len(self))

    def _warned(self, text: str) -> Table:
        return self if text in self.warnings else replace(self, warnings=(*self.warnings, text))

    def drop_highest(self, count: int) -> Table:
        """Without the ``count`` highest losses, a rule to be stated before fitting.

        Raises:
            InputError: nothing would be left.
        """
        if not 0 <= count < len(self):
            raise InputError(f"{self.name}: cannot drop the {count} highest losses of {len(self)} rows")
        keep = np.ones(len(self), bool)
        keep[np.argsort(-self.loss, kind="stable")[:count]] = False
        return self.take(keep, f"the {count} highest losses")

    def frontier(self) -> Table:
        """The best run of each compute alone, those beaten by a cheaper run left out.

        Raises:
            InputError: there is no compute, or no column tells the best run.
        """
        if "c" not in self.values:
            raise InputError(f"{self.name}: a frontier needs compute: name its column c", flag=column_flag("c"))
        if self.rank is None:
            raise InputError(
                f"{self.name}: frontier keeps the best run of each compute, and '{self.columns['loss']}' does not tell "
                "which that is: name the column whose lowest value does as best_by",
                flag=column_flag("best_by"),
            )
        keep = np.zeros(len(self), bool)
        keep[best_of_budgets(self.values["c"], self.rank)] = True
        return self.take(keep, ExclusionRule.FRONTIER)


def _laws_reading(columns: Sequence[str], variables: tuple[str, ...]) -> str:
    """A hint at the laws that read these variables and one of the columns."""
    hints = []
    for column in columns:
        name = "peak_lr" if column in RATES else column
        laws = [law.name for law in LAWS.values() if set(law.columns) == {*variables, name}]
        mapped = "" if name == column else f" with --columns={name}={column}"
        hints += [f"--law={laws[0]}{mapped} reads {column}; "] if laws else []
    return "".join(hints)
