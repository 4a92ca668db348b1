"""Cases of extrapolation: the rows of a table that are fitted, and its rows of more compute that are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.data.grouping import budget_groups, separate_budgets

# Cuts by compute: the fitted budgets lie at or below the largest one divided by this factor.
CUTS = {"far": 10.0, "near": 3.0}
# A budget whose median compute exceeds the limit of the cut by less than this is fitted: digitised computes scatter.
LIMIT_TOLERANCE = 0.05
FEWEST_FITTED = 8
FEWEST_SCORED = 2
# Best runs of scattered tables are those of bins of compute of this factor.
BIN_FACTOR = 10**0.5
# Share of the runs of a budget that are near its optimum.
NEAR_SHARE = 1 / 3


class Kind(StrEnum):
    """What the loss of a table is a function of."""

    SURFACE = "surface"  # of parameters and tokens
    CURVE = "curve"  # of the examples seen by one model


@dataclass(frozen=True)
class Rows:
    """Runs of a table, as columns.

    Args:
        n: parameters; NaN for curves.
        d: training tokens, or examples seen.
        c: training FLOPs of the source, or 6 N D; of curves the examples seen.
        loss: measured loss.
        run: identity of the training run of each row.
        budget: number of the compute budget of each row, in the order of compute.
        group: optimizer, corpus or architecture of each row; one value where the table names none.
    """

    n: Float[np.ndarray, " rows"]
    d: Float[np.ndarray, " rows"]
    c: Float[np.ndarray, " rows"]
    loss: Float[np.ndarray, " rows"]
    run: np.ndarray
    budget: Int[np.ndarray, " rows"]
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, kept: np.ndarray) -> Rows:
        """The rows of a mask or of indices."""
        return Rows(**{item.name: getattr(self, item.name)[kept] for item in fields(self)})


@dataclass(frozen=True)
class Points:
    """What a contender is told of the runs that it forecasts: no loss.

    Args:
        n, d, c: as in ``Rows``.
        source: of the table, so that a prior learned from public tables can leave it out.
    """

    n: Float[np.ndarray, " runs"]
    d: Float[np.ndarray, " runs"]
    c: Float[np.ndarray, " runs"]
    source: str = ""

    def __len__(self) -> int:
        return len(self.c)


@dataclass(frozen=True)
class HeldoutTable:
    """A published table.

    Args:
        name: of the table.
        source: family of tables that it belongs to.
        kind: what its loss is a function of.
        rows: its runs.
        isoflop: whether its computes fall into budgets.
    """

    name: str
    source: str
    kind: Kind
    rows: Rows
    isoflop: bool


@dataclass(frozen=True)
class KeptForecast:
    """The forecast that others published for a case.

    Args:
        median: of the scored run.
        low, high: ends of its interval, called 95%; NaN where there is none.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Case:
    """One cut of a table.

    Args:
        table: the table.
        cut: name of the cut.
        fitted, scored: its rows below and above.
        near: which scored rows are near the optimum of their budget.
        kept: published forecasts of the scored run, by method.
    """

    table: HeldoutTable
    cut: str
    fitted: Rows
    scored: Rows
    near: Bool[np.ndarray, " scored"]
    kept: Mapping[str, KeptForecast] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.table.name}-{self.cut}"

    @property
    def points(self) -> Points:
        """The scored runs without their losses."""
        return Points(self.scored.n, self.scored.d, self.scored.c, self.table.source)

    @property
    def fingerprint(self) -> str:
        """Hash of all that a contender is told."""
        return fingerprint(self.fitted, self.points)


def fingerprint(rows: Rows, points: Points) -> str:
    """Hash of fitted rows and points: a kept forecast of another table or cut is not taken for this one's."""
    digest = hashlib.sha256()
    for column in (rows.n, rows.d, rows.c, rows.loss, points.n, points.d, points.c):
        digest.update(np.ascontiguousarray(column, np.float64).tobytes())
    digest.update("\n".join(map(str, rows.run)).encode())
    return digest.hexdigest()[:16]


def budgets(c: Float[np.ndarray, " rows"]) -> tuple[Int[np.ndarray, " rows"], bool]:
    """Number of the budget of each row, and whether the computes fall into budgets at all.

    Args:
        c: training FLOPs.
    """
    separate = separate_budgets(c)
    return (budget_groups(c), False) if separate is None else (separate, True)


def near_optimum(rows: Rows, isoflop: bool) -> Bool[np.ndarray, " rows"]:
    """The best third of each budget by measured loss, at least one run.

    Args:
        rows: scored runs.
        isoflop: whether their computes fall into budgets; bins of compute of ``BIN_FACTOR`` stand for them otherwise.
    """
    number = rows.budget if isoflop else np.floor(np.log(rows.c) / np.log(BIN_FACTOR)).astype(int)
    near = np.zeros(len(rows), bool)
    for budget in np.unique(number):
        inside = np.flatnonzero(number == budget)
        count = max(1, round(NEAR_SHARE * len(inside)))
        near[inside[np.argsort(rows.loss[inside], kind="stable")[:count]]] = True
    return near


def cut_by_compute(table: HeldoutTable, cut: str) -> Case | None:
    """The case of a cut: whole budgets are fitted or scored. None where too few rows are on one side.

    Args:
        table: a surface.
        cut: a key of ``CUTS``.
    """
    rows = table.rows
    median = np.array([np.median(rows.c[rows.budget == budget]) for budget in range(rows.budget.max() + 1)])
    limit = median.max() / CUTS[cut] * (1 + LIMIT_TOLERANCE)
    below = (median <= limit)[rows.budget]
    fitted, scored = rows.where(below), rows.where(~below)
    if len(fitted) < FEWEST_FITTED or len(scored) < FEWEST_SCORED:
        return None
    return Case(table, cut, fitted, scored, near_optimum(scored, table.isoflop))
