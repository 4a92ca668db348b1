"""Published tables as cases: how the columns of each known file are read, and which cuts it gives.

``DESCRIPTIONS`` says how the known files are read; any other CSV of the folder whose columns are recognised
(``RECOGNISED``) is one table named by its file, and a source of its own. A source is a family of tables whose errors are
not independent: the same runs digitised twice, or one code base under several settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.heldout_cases import CUTS, Case, HeldoutTable, KeptForecast, Kind, Rows, budgets, cut_by_compute
from laws.base.errors import InputError
from laws.data.reading import IDENTITIES, as_numbers, read
from laws.data.where import select

if TYPE_CHECKING:
    import pandas as pd

# The rolling-origin study took at most so many points of a curve, evenly spaced in their order.
CURVE_POINTS = 24
# Digits of log N and log D up to which rows are settings of one point.
SAME_POINT_DIGITS = 9


@dataclass(frozen=True)
class Description:
    """How a file is read.

    Args:
        source: of its tables.
        n, d, loss, run, group: its columns.
        c: columns whose product is its compute; 6 N D without one.
        tables: column that splits the file into tables.
        named: value of that column -> name and source of its table; by default file and value, and the source above.
        where: condition that rows must satisfy (``laws.data.where``).
        best_of_point: whether only the best setting of each N and D is kept.
        skipped: reason for which the file gives no table.
    """

    source: str = ""
    n: str = "params"
    d: str = "tokens"
    c: tuple[str, ...] = ()
    loss: str = "loss"
    run: str | None = None
    group: str | None = None
    tables: str | None = None
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    where: str | None = None
    best_of_point: bool = False
    skipped: str = ""


COLLECTION = MappingProxyType(
    {
        "epochai_chinchilla__massivetext__chinchilla": ("chinchilla_epochai", "chinchilla"),
        "ml_scalefit__massivetext__chinchilla": ("chinchilla_scalefit", "chinchilla"),
        "llama_3__exp_loss": ("llama_3", "llama_3"),
        "marin_202603__comma__llama_2": ("marin_comma", "marin"),
        "marin_202603__dclm__llama_2": ("marin_dclm", "marin"),
        "marin_202603__nemotron__llama_2": ("marin_nemotron", "marin"),
        "misfitting__fineweb_c4": ("misfitting", "misfitting"),
    }
)
DESCRIPTIONS: dict[str, Description] = {
    "chinchilla_figure4": Description("chinchilla", c=("flops",)),
    "chinchilla_subset": Description(skipped="its runs are those of chinchilla_figure4"),
    "isoflop_refinedweb": Description("refinedweb", c=("flops",), tables="setting"),
    # Points of one run stand on both sides of a cut: a forecast may know the start of the run that it continues.
    "gemstones_hot": Description("gemstones", run="run"),
    "overtraining_redpajama": Description("overtraining"),
    "data_constrained_c4": Description("data_constrained", where="tokens <= unique_tokens"),
    # Steps of one batch size stand for tokens: all runs have the same number, and C is that of the source.
    "routed_experts": Description(
        "routed_experts", n="params_total", d="step", c=("flops_per_step", "step"), where="router_type == 'Dense'"
    ),
    "ladder_c4": Description("ladder"),
    # All rows of the curators but copies: what they call outliers is what a forecaster meets.
    "isoflop_collection": Description(
        c=("budget",),
        tables="experiment",
        named=COLLECTION,
        where="reason != 'exact_duplicate'",
        best_of_point=True,
    ),
    "annealing_curves": Description(skipped="curves of loss over steps, of two sizes and one compute"),
    "extrapolation_benchmark": Description(skipped="read as curves, at the cuts of rolling_origin_rivals"),
    "rolling_origin_rivals": Description(skipped="forecasts of others, shown beside those of the contenders"),
}
# Columns of a file that is not described, in the order in which they are looked for.
RECOGNISED = {
    "n": ("params", "n", "parameters", "params_total"),
    "d": ("tokens", "d"),
    "c": ("flops", "c", "compute", "budget"),
    "loss": ("loss",),
    "run": ("run", *IDENTITIES),
    "group": ("group",),
}
REQUIRED = ("n", "d", "loss")


def recognise(header: list[str]) -> Description | None:
    """The description of a file by the names of its columns alone; None where parameters, tokens or loss are missing."""
    found = {
        role: next((column for name in names for column in header if column.lower() == name.lower()), None)
        for role, names in RECOGNISED.items()
    }
    if any(found[role] is None for role in REQUIRED):
        return None
    columns: dict[str, Any] = {role: column for role, column in found.items() if column is not None}
    columns["c"] = (columns["c"],) if "c" in columns else ()
    return replace(Description(), **columns)


def _best_of_points(rows: Rows) -> Rows:
    """The lowest loss of each N and D."""
    order = np.argsort(rows.loss, kind="stable")
    points = np.round(np.log(np.stack([rows.n, rows.d], axis=1)[order]), SAME_POINT_DIGITS)
    return rows.where(np.sort(order[np.unique(points, axis=0, return_index=True)[1]]))


def _table(frame: pd.DataFrame, name: str, source: str, described: Description) -> HeldoutTable:
    """One table of the rows of a frame."""
    n, d, loss = (as_numbers(frame[column]) for column in (described.n, described.d, described.loss))
    c = np.prod([as_numbers(frame[column]) for column in described.c], axis=0) if described.c else 6 * n * d
    good = np.all([np.isfinite(column) & (column > 0) for column in (n, d, c, loss)], axis=0)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(f"{name}: parameters, tokens, FLOPs or loss of row {frame.index[row] + 1} are not positive")
    text = lambda column: frame[column].fillna("").astype(str).to_numpy(object) if column else None
    run, group = text(described.run), text(described.group)
    rows = Rows(
        n,
        d,
        c,
        loss,
        np.arange(len(frame)).astype(str).astype(object) if run is None else run,
        np.zeros(len(frame), int),
        np.full(len(frame), "", object) if group is None else group,
    )
    if described.best_of_point:
        rows = _best_of_points(rows)
    number, isoflop = budgets(rows.c)
    return HeldoutTable(name, source, Kind.SURFACE, Rows(**{**vars(rows), "budget": number}), isoflop)


def _tables_of_file(path: Path) -> Iterator[HeldoutTable]:
    """The tables of one file; none where it is skipped or its columns are not recognised."""
    frame, name = read(path)
    described = DESCRIPTIONS.get(path.stem) or recognise(list(frame.columns))
    if described is None or described.skipped:
        return
    if described.where:
        frame = select(frame, name, described.where)
    source = described.source or path.stem
    if described.tables is None:
        yield _table(frame, path.stem, source, described)
        return
    for value, part in frame.groupby(described.tables, sort=False):
        yield _table(part, *described.named.get(str(value), (f"{path.stem}.{value}", source)), described)


def skipped_files(folder: Path) -> dict[str, str]:
    """Files of the folder that give no table, each with the reason."""
    reasons = {}
    for path in sorted(folder.glob("*.csv")):
        described = DESCRIPTIONS.get(path.stem)
        if described is None and recognise(list(read(path)[0].columns)) is None:
            reasons[path.name] = "no columns of parameters, tokens and loss are recognised"
        elif described is not None and described.skipped:
            reasons[path.name] = described.skipped
    return reasons


def rolling_origins(folder: Path) -> list[Case]:
    """The cases of the public rolling-origin study: the first points of a curve are fitted, its last one is scored.

    Args:
        folder: with ``extrapolation_benchmark.csv`` and ``rolling_origin_rivals.csv``; no case where one is absent.

    Raises:
        InputError: a curve is absent, or its last loss is not the one that the rivals were scored by.
    """
    paths = [folder / f"{name}.csv" for name in ("extrapolation_benchmark", "rolling_origin_rivals")]
    if not all(path.exists() for path in paths):
        return []
    curves, rivals = (read(path)[0] for path in paths)
    return [
        _rolling_origin(curves, forecasts)
        for _, forecasts in rivals.groupby(["domain", "curve", "pilot_points"], sort=False)
    ]


def _rolling_origin(curves: pd.DataFrame, forecasts: pd.DataFrame) -> Case:
    """One case of the study.

    Args:
        curves: points of all curves.
        forecasts: of the rivals for this case.
    """
    of_case = forecasts.iloc[0]
    domain, curve, count = str(of_case["domain"]), str(of_case["curve"]), int(of_case["pilot_points"])
    task, model = curve.split("|")
    chosen = (curves["domain"] == domain) & (curves["task"] == task) & (curves["model"] == model)
    x, loss = curves.loc[chosen, ["examples_seen", "loss"]].to_numpy(np.float64).T
    order = np.argsort(x, kind="stable")
    order = order[np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))] if len(x) else order
    x, loss = x[order], loss[order]
    last = loss[-1] if len(loss) else np.nan
    if not np.allclose(np.abs(forecasts["prediction"] - last), forecasts["absolute_error"], rtol=1e-6):
        raise InputError(f"rolling_origin_rivals.csv: {curve} was not scored by the last loss of that curve")
    number = np.arange(len(x))  # each point counts as a run of its own, as it does for the rivals
    rows = Rows(np.full(len(x), np.nan), x, x, loss, number.astype(str), number, np.full(len(x), model, object))
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{domain}_{curve}")
    table = HeldoutTable(f"curve.{name}", f"{domain}_curves", Kind.CURVE, rows, False)
    ends = forecasts[["prediction", "lower", "upper"]].to_numpy(np.float64)
    kept = {method: KeptForecast(*map(float, row)) for method, row in zip(forecasts["method"], ends, strict=True)}
    fitted, scored = rows.where(np.arange(count)), rows.where(np.array([len(x) - 1]))
    return Case(table, f"origin{count}", fitted, scored, np.ones(1, bool), kept)


def read_cases(folder: Path, cuts: tuple[str, ...] = tuple(CUTS)) -> list[Case]:
    """Every case of the folder, surfaces first.

    Args:
        folder: of published tables.
        cuts: keys of ``CUTS``.

    Raises:
        InputError: a file cannot be read as it is described.
    """
    tables = [table for path in sorted(folder.glob("*.csv")) for table in _tables_of_file(path)]
    names = [table.name for table in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{folder}: two tables are called '{twice[0]}'")
    surfaces = [case for table in tables for cut in cuts if (case := cut_by_compute(table, cut)) is not None]
    return [*surfaces, *rolling_origins(folder)]
