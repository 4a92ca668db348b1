"""From a file of runs to checked arrays: columns mapped to the variables that laws read, bad rows refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.base.errors import InputError, nearest
from laws.base.json_files import sha256
from laws.data import grouping as budgets
from laws.model.variables import CORE, VARIABLES, checked_variable, flag

if TYPE_CHECKING:
    import pandas as pd


# The columns of a table collected by `isoflop collect`. A variable whose default column is absent is left out, and
# compute is then 6 N D; a column that was asked for by name must be there.
DEFAULTS = {variable: VARIABLES[variable].column for variable in CORE} | {"loss": "loss"}
READERS = {
    ".parquet": ("read_parquet", {}),
    ".csv": ("read_csv", {}),
    ".tsv": ("read_csv", {"sep": "\t"}),
    ".jsonl": ("read_json", {"lines": True}),
    ".ndjson": ("read_json", {"lines": True}),
}
SAME = 1e-3  # relative difference below which C counts as 6 N D
# How tables say that a run ended well, and which run a row is of: ours, and exports of Weights & Biases.
ENDED = (("status", "completed", "run_id"), ("State", "finished", "ID"))
FEWEST_TOKENS, FEWEST_PARAMS = 1e6, 1e3  # below both, N and D are taken for millions or billions
RATIOS = (1e-3, 1e7)  # tokens a parameter between which the units of N and D make sense
COSTS = (1e-2, 1e3)  # C over 6 N D between which the unit of C does


@dataclass(frozen=True)
class Table:
    """Runs ready to be fitted.

    Args:
        name: file name or ``table``, for messages.
        values: variable -> one number a row, in the units of ``laws.model.variables.VARIABLES``.
        loss: what was observed: nats per token, unless the file or the law says otherwise.
        run: identity of the run that a row belongs to; rows of one run are resampled together.
        columns: variable -> column it was read from; ``c`` may be ``6ND``. Also ``loss``, ``run`` and ``noise``.
        header: every column of the file, for hints.
        row: number of each row in the file, from 1.
        excluded: the rules that removed rows, with their counts, in the order they were applied.
        ended_at: when each run ended, unix seconds, if the table says.
        path, sha256: the file and its content when it was read, if it was a file.
        noise: standard error of each loss, in its own units, if a column was named.
        frame: the rows as they were read, for variables that a law asks for later.
    """

    name: str
    values: dict[str, Float[np.ndarray, " rows"]]
    loss: Float[np.ndarray, " rows"]
    run: np.ndarray
    columns: dict[str, str]
    header: tuple[str, ...]
    row: Int[np.ndarray, " rows"]
    excluded: tuple[dict[str, Any], ...] = ()
    ended_at: Float[np.ndarray, " rows"] | None = None
    path: str | None = None
    sha256: str | None = None
    noise: Float[np.ndarray, " rows"] | None = None
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def runs(self) -> int:
        return len(np.unique(self.run))

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
        return _column(self.frame, self.name, variable, column)

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
            found = None if variable in CORE else self._default(variable)
            if (
                found is None
                and variable == "batch_tokens"
                and "d" in values
                and (steps := self._default("steps")) is not None
            ):
                found, column = values["d"] / steps, "tokens / steps"
            if found is None:
                raise InputError(
                    f"{self.name}: law '{law}' needs a column for {variable}, and there is no '{column}'"
                    f"{nearest(column, self.header)} (map it with {flag(variable, 'COLUMN', 'columns')})"
                )
            values[variable], columns[variable] = found, column
        return replace(self, values=values, columns=columns)

    def take(self, keep: Bool[np.ndarray, " rows"], rule: str | None = None) -> Table:
        """The rows to keep; the rest are reported under ``rule`` if one is given."""
        excluded = self.excluded
        if rule is not None and not np.all(keep):
            excluded = (*excluded, {"rule": rule, "n": int(np.sum(~keep))})
        return replace(
            self,
            values={variable: values[keep] for variable, values in self.values.items()},
            loss=self.loss[keep],
            run=self.run[keep],
            row=self.row[keep],
            ended_at=None if self.ended_at is None else self.ended_at[keep],
            noise=None if self.noise is None else self.noise[keep],
            frame=None if self.frame is None else self.frame.iloc[np.flatnonzero(keep)],
            excluded=excluded,
        )

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
            InputError: there is no compute.
        """
        if "c" not in self.values:
            raise InputError(f"{self.name}: a frontier needs compute: name its column ({flag('c', 'COLUMN', '')})")
        keep = np.zeros(len(self), bool)
        keep[budgets.frontier(self.values["c"], self.loss)] = True
        return self.take(keep, "beaten by a run of the same compute or less")


def read(source: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A frame and the name by which messages call it.

    Raises:
        InputError: a missing, unreadable or unknown kind of file.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source, "table"
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such table")
    if path.is_dir():
        raise InputError(f"{path}: a directory, not a table (collect it first: isoflop collect {path})")
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path}: cannot read '{path.suffix}' (tables are {', '.join(READERS)})")
    reader, options = READERS[path.suffix.lower()]
    try:
        frame = getattr(pd, reader)(path, **options)
    except Exception as error:
        raise InputError(f"{path}: not a readable {path.suffix[1:]} table ({str(error).splitlines()[0]})") from error
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    return frame, path.name


def select(frame: pd.DataFrame, name: str, where: str) -> pd.DataFrame:
    """The rows for which an expression over the columns holds, as in ``setting == 'tuned' and flops < 1e20``.

    Raises:
        InputError: an expression that does not parse, names an unknown column or keeps nothing.
    """
    # As floats: a product such as 6 * params * tokens overflows 64-bit integers without a word.
    floats = frame.astype({column: np.float64 for column in frame.select_dtypes("integer").columns})
    try:
        kept = frame.loc[floats.query(where, engine="python").index]
    except Exception as error:
        raise InputError(f'{name}: cannot apply --where "{where}" ({str(error).splitlines()[0]})') from error
    if kept.empty:
        raise InputError(f'{name}: no row satisfies --where "{where}"')
    return kept


def _column(frame: pd.DataFrame, name: str, variable: str, column: str) -> Float[np.ndarray, " rows"]:
    """One mapped column as finite numbers, positive unless its variable says otherwise; messages count rows from 1."""
    import pandas as pd

    if column not in frame.columns:
        hint = nearest(column, frame.columns) or f" (columns: {', '.join(map(str, frame.columns))})"
        raise InputError(
            f"{name}: no column '{column}' for {variable}{hint}; map it with {flag(variable, 'COLUMN', 'columns')}"
        )
    numbers = np.asarray(pd.to_numeric(frame[column], errors="coerce"), np.float64)
    positive = variable not in VARIABLES or VARIABLES[variable].positive
    for bad, what in (
        (~np.isfinite(numbers), "not a finite number"),
        (positive & (numbers == 0), "zero"),
        (positive & (numbers < 0), "negative"),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{name}: column '{column}' is {what} in {int(bad.sum())} of {len(numbers)} rows, first in row "
                f"{frame.index[row] + 1} ({frame[column].iloc[row]}); leave such rows out with --where"
            )
    return numbers


def _noise(frame: pd.DataFrame, name: str, column: str, loss: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Standard errors of the losses. Weights are 1 / error^2 here and nowhere else, so that no table can invert them."""
    errors = _column(frame, name, "noise", column)
    beyond = errors >= loss
    if beyond.any():
        raise InputError(
            f"{name}: column '{column}' is no standard error of the loss: it exceeds the loss itself in "
            f"{int(beyond.sum())} of {len(loss)} rows (it must be a standard deviation, not a weight 1 / variance)"
        )
    return errors


def _refuse_duplicates(table: Table) -> None:
    """Two rows with the same size, data and loss are one run counted twice."""
    keys = np.stack([*(table.values[variable] for variable in sorted(table.values)), table.loss], axis=1)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        twin = int(first[counts > 1].min())
        rows = table.row[(keys == keys[twin]).all(axis=1)]
        raise InputError(
            f"{table.name}: {int((counts - 1).sum())} duplicated rows in columns "
            f"{', '.join(sorted({table.columns[variable] for variable in (*table.values, 'loss')} - {'6ND'}))}: "
            f"rows {', '.join(map(str, rows[:3]))} are the same"
        )


def _identity(header: tuple[str, ...]) -> str | None:
    """The column that names a row's run, if the table is one of ours or an export."""
    if "run_id" in header:
        return "run_id"
    return next((run for state, _, run in ENDED if {state, run} <= set(header)), None)


def _refuse_units(table: Table) -> None:
    """Sizes or tokens in millions or billions would move every constant and break C = 6 N D without a word."""
    if not {"n", "d"} <= set(table.values):
        return
    n, d = table.values["n"], table.values["d"]
    said = lambda variable: (
        f"{table.name}: column '{table.columns[variable]}' ({table.values[variable].max():.4g} at most)"
    )
    ratio = float(np.median(d / n))
    if d.max() < FEWEST_TOKENS and (ratio < RATIOS[0] or n.max() < FEWEST_PARAMS):
        raise InputError(f"{said('d')} looks like millions or billions of tokens: give tokens")
    if ratio > RATIOS[1]:
        raise InputError(f"{said('n')} looks like millions or billions of parameters: give parameters")
    if ratio < RATIOS[0]:
        raise InputError(f"{said('d')} are {ratio:.2g} tokens a parameter: give tokens")
    cost = float(np.median(table.values["c"] / (6 * n * d)))
    if not COSTS[0] < cost < COSTS[1]:
        raise InputError(f"{said('c')} is {cost:.2g} times 6 N D: give training FLOPs")


def _kept(frame: pd.DataFrame, kept: pd.DataFrame, rule: str, excluded: list[dict[str, Any]]) -> pd.DataFrame:
    """What a rule keeps; how many rows it removed is noted."""
    if len(kept) < len(frame):
        excluded.append({"rule": rule, "n": len(frame) - len(kept)})
    return kept


def load(
    source: str | Path | pd.DataFrame,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    run: str | None = None,
    columns: Mapping[str, str] | None = None,
    noise: str | None = None,
    where: str | None = None,
    frontier: bool = False,
    drop_highest: int = 0,
) -> Table:
    """A checked table of runs from Parquet, CSV, JSONL or a pandas frame.

    Args:
        source: path or frame.
        n, d, c, loss: columns of the parameters, the training tokens, the training FLOPs and the final loss; by
            default those of our own collected tables. Without a column for c, compute is 6 N D.
        run: column that tells which rows belong to one run; by default ``run_id`` where there is one, or ``ID`` in an
            export of Weights & Biases, else every row is a run of its own.
        columns: variable of ``laws.model.variables.VARIABLES`` -> column, for what else a law reads. Variables that are
            not named are read from their default columns when a law asks for them.
        noise: column of the standard error of each loss, by which fits weigh the rows.
        where: an expression that the rows must satisfy.
        frontier: whether only the best run of each compute is kept, and of these none that a cheaper one beats.
        drop_highest: how many of the highest losses to leave out.

    Raises:
        InputError: see ``read``, ``select``; an unknown variable; a column that is missing, not finite, zero or negative
            where its variable must be positive; units that make no sense together; errors that exceed the losses;
            duplicated rows.
    """
    import pandas as pd

    frame, name = read(source)
    frame, header = frame.reset_index(drop=True), tuple(map(str, frame.columns))
    path = None if name == "table" else str(source)
    excluded: list[dict[str, Any]] = []
    for column, well, _ in ENDED:
        if column in header:
            frame = _kept(frame, frame.loc[frame[column] == well], f"{column} is not {well}", excluded)
    if where:
        frame = _kept(frame, select(frame, name, where), f"not ({where})", excluded)
    if frame.empty:
        raise InputError(f"{name}: no completed run")
    given = {checked_variable(variable): column for variable, column in (columns or {}).items()}
    given |= {variable: column for variable, column in (("n", n), ("d", d), ("c", c), ("loss", loss)) if column}
    named = DEFAULTS | given
    present = [
        variable for variable in named if variable in given or variable == "loss" or named[variable] in frame.columns
    ]
    values = {variable: _column(frame, name, variable, named[variable]) for variable in present}
    if "c" not in values and {"n", "d"} <= set(values):
        values["c"], named["c"] = 6 * values["n"] * values["d"], "6ND"
    identity = run or _identity(header)
    if identity is not None and identity not in frame.columns:
        raise InputError(f"{name}: no column '{identity}' for run{nearest(identity, frame.columns)}")
    losses = values.pop("loss")
    extra = {"run": identity, "noise": noise}
    table = Table(
        name=name,
        loss=losses,
        values=values,
        run=frame[identity].astype(str).to_numpy(object) if identity else np.arange(len(frame)).astype(str),
        columns={variable: named[variable] for variable in (*values, "loss")} | {k: v for k, v in extra.items() if v},
        header=header,
        row=frame.index.to_numpy() + 1,
        excluded=tuple(excluded),
        ended_at=np.asarray(pd.to_numeric(frame["ended_at"], errors="coerce"), float) if "ended_at" in header else None,
        path=path,
        sha256=sha256(path) if path else None,
        noise=_noise(frame, name, noise, losses) if noise else None,
        frame=frame,
    )
    _refuse_duplicates(table)
    _refuse_units(table)
    if frontier:
        table = table.frontier()
    return table.drop_highest(drop_highest) if drop_highest else table
