"""From a file of runs to a checked table: columns mapped to the variables that laws read, bad rows refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError, nearest
from laws.base.json_files import sha256
from laws.data.checks import DERIVED, check_copies, check_units as units_of, column_numbers, standard_errors
from laws.data.column_names import guessed_columns
from laws.data.grouping import equal_points
from laws.data.measurements import end_times, quantity_of, rank_of
from laws.data.reading import read
from laws.data.schedule_columns import with_schedule_areas
from laws.data.settings import differing_columns
from laws.data.table import Exclusion, Table
from laws.data.where import select
from laws.model.variables import CORE, VARIABLES, checked_variable

if TYPE_CHECKING:
    import pandas as pd

# The columns of a table collected by `isoflop collect`. A variable whose default column is absent is left out, and
# compute is then 6 N D; a column that was asked for by name must be there.
DEFAULTS = {variable: VARIABLES[variable].column for variable in CORE} | {"loss": "loss"}
# How tables say that a run ended well, and which run a row is of: ours, and exports of Weights & Biases.
RUN_ID = "run_id"
TRUNK = "trunk"  # column of the run from which a row's run was forked, empty where it was not: `sweeps.design.branch`
# How our records say that a curve is no measurement of its point: `isoflop` writes the rule's name, or nothing.
CURVE_FLAG, CURVE_RULES = "curve_flag", ("not_finite", "risen", "plateau")
ENDED = (("status", "completed", "run_id"), ("State", "finished", "ID"))


def load(
    source: str | Path | pd.DataFrame,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    run: str | None = None,
    columns: Mapping[str, str] | None = None,
    loss_stderr: str | None = None,
    where: str | None = None,
    frontier: bool = False,
    drop_highest: int = 0,
    best_by: str | None = None,
    settings: Sequence[str] | None = None,
    best_of_point: bool = True,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    check_units: bool = True,
) -> Table:
    """A checked table of runs.

    Args:
        source: path of a Parquet, CSV, TSV or JSON-lines file, or a frame; a row a run, or rows that ``run`` groups.
        n: column of the parameters; like those of d, c and the loss, by default the one of our own collected tables, else
            the only one with a usual name (``laws.data.column_names``); ``guessed`` of the table says which.
        d: column of the training tokens.
        c: column of the training FLOPs. Two of N, D and C are enough: the third is then that of C = 6 N D.
        loss: column of the final loss, or of what else the law predicts.
        run: column that names the run of a row; rows of one run are resampled together. By default ``trunk`` where runs
            were forked from others, with ``run_id`` for the rest, else ``run_id`` where there is one, or ``ID`` in an
            export of Weights & Biases, else every row is a run of its own. Identities are text: "0012" is not 12.
        columns: variable of ``laws.model.variables.VARIABLES`` -> column, for what else a law reads. Variables that are
            not named are read from their default columns when a law asks for them.
        loss_stderr: column of the standard error of each loss; rows weigh one over its square.
        where: an expression that the rows must satisfy, as ``"family == 'lm' and flops < 1e20"``
            (``conditions.expressions``).
        frontier: only the best run of each compute, if no cheaper one beats it.
        drop_highest: how many of the highest losses to leave out.
        best_by: column whose lowest value tells the best of several runs; by default the loss.
        settings: columns that make runs of equal N, D and C different runs; by default ``laws.data.settings`` tells.
        best_of_point: whether only the best setting of each N, D and C is fitted by a law that does not read it.
        keep_copies: whether rows that are equal in every column are different runs, and kept.
        keep_flagged: whether runs stay whose curve rose or stood still, as the column ``curve_flag`` of our records says.
        check_units: whether units that look like others (millions, billions) are refused.

    Returns:
        the runs; ``.fit(law)`` of what ``laws.load`` returns fits them.

    Raises:
        InputError: a missing file or column; two columns that could both be meant; an unknown variable; values that are
            not finite or not positive where they must be; units that make no sense together; errors that exceed the
            losses; copies; or an expression that cannot be applied.

    Example:
        >>> import pandas as pd, laws
        >>> table = pd.DataFrame({"params": [1e7, 1e8], "tokens": [1e9, 1e10], "loss": [4.1, 3.2]})
        >>> runs = laws.load(table, n="params", d="tokens", loss="loss")
        >>> len(runs), runs.columns["c"]
        (2, '6ND')
    """
    frame, name = read(source, (run,) if run else ())
    header, path = tuple(frame.columns), None if name == "table" else str(source)
    run_column = _run_column(name, frame, run)
    own = RUN_ID if run_column == TRUNK and RUN_ID in header else run_column  # names the run of a row, not its trunk
    frame = with_schedule_areas(frame, _run_of_rows(frame, own) if own else None)
    frame, excluded = _selected(frame, name, where, keep_flagged)
    core = {"n": n, "d": d, "c": c, "loss": loss}
    column_of = _column_of_variables(header, core, columns or {})
    named = {*(columns or {}), *(variable for variable, column in core.items() if column)}
    settled = {variable for variable, column in column_of.items() if variable in named or column in header}
    guessed = guessed_columns(frame, name, settled, named)
    column_of |= guessed
    values = {variable: column_numbers(frame, name, variable, column) for variable, column in column_of.items()}
    values, column_of = _with_third(values, column_of)
    losses = values.pop("loss")
    rank, ranked_by = rank_of(frame, name, column_of["loss"], best_by)
    quantity, warnings = quantity_of(frame, column_of["loss"])
    if not keep_copies:
        check_copies(frame, name)
    if check_units:
        warnings += units_of(name, values, column_of)
    runs = _run_of_rows(frame, run_column)
    if run is None and run_column == TRUNK and (trunks := len(np.unique(runs))) < len(runs):
        warnings += (
            f"{len(runs)} runs of {trunks} trunks: those forked from one trunk are taken as dependent (column '{TRUNK}'; "
            f"--run_column={RUN_ID} takes every run by itself)",
        )
    known = {*((DEFAULTS | column_of)[variable] for variable in DEFAULTS), run_column, own, loss_stderr, best_by}
    differing = _differing(frame, name, values, _run_of_rows(frame, own) if own else None, known, settings)
    extra = {"run": run_column, "noise": loss_stderr}
    table = Table(
        name=name,
        loss=losses,
        values=values,
        run=runs,
        columns=column_of | {key: column for key, column in extra.items() if column},
        header=header,
        row=frame.index.to_numpy() + 1,
        excluded=excluded,
        ended_at=end_times(frame),
        path=path,
        sha256=sha256(path) if path else None,
        noise=standard_errors(frame, name, loss_stderr, losses) if loss_stderr else None,
        frame=frame,
        rank=rank,
        ranked_by=ranked_by,
        options={
            "best_by": best_by,
            "settings": None if settings is None else list(settings),
            "best_of_point": best_of_point,
            "keep_copies": keep_copies,
            "keep_flagged": keep_flagged,
            "check_units": check_units,
        },
        differing=differing,
        guessed=guessed,
        best_of_point=best_of_point,
        quantity=quantity,
        warnings=warnings,
    )
    if frontier:
        table = table.frontier()
    return table.drop_highest(drop_highest) if drop_highest else table


def _selected(
    frame: pd.DataFrame, name: str, where: str | None, keep_flagged: bool
) -> tuple[pd.DataFrame, tuple[Exclusion, ...]]:
    """The rows of runs that ended well and that satisfy a condition, and the rules that left others out.

    Args:
        frame: the rows.
        name: of the table, in messages.
        where: the condition; None: there is none.
        keep_flagged: as in ``load``.
    """
    excluded = []
    for column, well, _ in ENDED:
        if column in frame.columns:
            ended = frame.loc[frame[column] == well]
            excluded.append(Exclusion(f"{column} is not {well}", len(frame) - len(ended)))
            frame = ended
    if frame.empty:
        raise InputError(f"{name}: no completed run")
    if not keep_flagged and {RUN_ID, CURVE_FLAG} <= set(frame.columns):
        for rule in CURVE_RULES:
            met = frame[CURVE_FLAG] == rule
            excluded.append(
                Exclusion(f"{CURVE_FLAG} is {rule} (--keep_flagged keeps them)", int(np.count_nonzero(met)))
            )
            frame = frame.loc[~met]
        if frame.empty:
            raise InputError(f"{name}: the {CURVE_FLAG} of every completed run is set", flag="--keep_flagged")
    if where:
        satisfying = select(frame, name, where)
        excluded.append(Exclusion(f"not ({where})", len(frame) - len(satisfying)))
        frame = satisfying
    return frame, tuple(rule for rule in excluded if rule.n)


def _column_of_variables(
    header: Sequence[str], core: Mapping[str, str | None], others: Mapping[str, str]
) -> dict[str, str]:
    """The column of each variable: those that were named, and default columns that are there.

    Args:
        header: columns of the table.
        core: columns of N, D, C and the loss; None for the default.
        others: columns of other variables.

    Raises:
        InputError: an unknown variable.
    """
    named = {variable: column for variable, column in core.items() if column}
    columns = DEFAULTS | {checked_variable(variable): column for variable, column in others.items()} | named
    asked = {"loss", *others, *named}
    return {variable: column for variable, column in columns.items() if variable in asked or column in header}


def _with_third(
    values: dict[str, Float[np.ndarray, " rows"]], column_of: dict[str, str]
) -> tuple[dict[str, Float[np.ndarray, " rows"]], dict[str, str]]:
    """The variables and their columns with the one of N, D and C that no column states, by C = 6 N D."""
    absent = [variable for variable in CORE if variable not in values]
    if len(absent) != 1:
        return values, column_of
    (third,) = absent
    other = "d" if third == "n" else "n"
    derived = 6 * values["n"] * values["d"] if third == "c" else values["c"] / (6 * values[other])
    return values | {third: derived}, column_of | {third: DERIVED[third]}


def _run_column(name: str, frame: pd.DataFrame, run: str | None) -> str | None:
    """The column that names a row's run: the one asked for, or that of one of our tables or an export.

    Raises:
        InputError: the table has no column of that name.
    """
    header = tuple(frame.columns)
    if run is None:
        if {TRUNK, RUN_ID} <= set(header) and _filled(frame[TRUNK]).any():
            return TRUNK
        exported = (identity for state, _, identity in ENDED if {state, identity} <= set(header))
        return RUN_ID if RUN_ID in header else next(exported, None)
    if run == TRUNK and run not in header and RUN_ID in header:  # a fit of branches is scored on runs that are none
        return RUN_ID
    if run not in header:
        raise InputError(f"{name}: no column '{run}' for run{nearest(run, header)}")
    return run


def _run_of_rows(frame: pd.DataFrame, run_column: str | None) -> np.ndarray:
    """Identity of the run of each row, by trunks its trunk or itself; without a column, every row is a run of its own."""
    if run_column is None:
        return np.arange(len(frame)).astype(str).astype(object)
    column = frame[run_column]
    if run_column == TRUNK and RUN_ID in frame.columns:
        column = column.where(_filled(column), frame[RUN_ID])
    return column.fillna("").to_numpy(object)


def _filled(column: Any) -> Any:
    """Where a column of text is not empty."""
    return column.notna() & (column.astype(str) != "")


def _differing(
    frame: pd.DataFrame,
    name: str,
    values: Mapping[str, Float[np.ndarray, " rows"]],
    run: np.ndarray | None,
    known: Collection[str | None],
    settings: Sequence[str] | None,
) -> tuple[str, ...]:
    """The settings in which rows of equal N, D and C differ.

    Args:
        frame: the rows.
        name: of the table, in messages.
        values: of the variables.
        run: identity of the run of each row; None if every row is a run of its own.
        known: columns with another meaning, which are no settings.
        settings: the columns that are settings, if they were named.

    Raises:
        InputError: the table has no such column.
    """
    for column in settings or ():
        if column not in frame.columns:
            raise InputError(
                f"{name}: no column '{column}' of settings{nearest(column, frame.columns)}",
                flag="--settings=COLUMN,...",
            )
    point = equal_points(values, CORE, len(frame))
    return differing_columns(frame, point, run, [column for column in known if column], settings)
