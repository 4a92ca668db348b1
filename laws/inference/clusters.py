"""Rows of one run as a cluster: their errors are alike, so a table holds as much information as its runs, not its rows.

The variance of what is fitted to clustered rows is that of sums over clusters, and degrees of freedom count clusters
(Cameron and Miller 2015, Journal of Human Resources 50: the cluster-robust variance and its correction CR1).
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from laws.data.table import Table


def effective_runs(run: Int[np.ndarray, " rows"]) -> float:
    """Number of runs of equal size that hold as much information as these, ``(sum m)^2 / sum m^2`` for runs of m rows.

    It is the number of rows where every row is a run, and the number of runs where all have as many rows. A run with
    many rows dominates a fit in which rows count alike: then the number of runs overstates what is known.

    Args:
        run: number of the run of each row.

    Source: Kish 1992, Journal of Official Statistics 8 (effective size under unequal weights); MacKinnon and Webb 2017,
    Journal of Applied Econometrics 32 (intervals are too narrow where clusters differ in size).

    Example:
        >>> effective_runs(np.array([0, 0, 1, 1, 2, 2]))
        3.0
    """
    rows = np.unique(run, return_counts=True)[1].astype(np.float64)
    return float(rows.sum() ** 2 / np.sum(rows**2))


def run_sums(
    values: Float[np.ndarray, "*batch rows"], run: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "*batch runs"], Int[np.ndarray, " rows"], Int[np.ndarray, " runs"]]:
    """Sums over the rows of each run; for each row the index of its run among them; and the rows of each run."""
    _, member, rows = np.unique(run, return_inverse=True, return_counts=True)
    member = member.ravel()
    if len(rows) == len(run):
        return values[..., np.argsort(member)], member, rows
    order = np.argsort(member, kind="stable")
    first = np.r_[0, np.cumsum(rows)[:-1]]
    return np.add.reduceat(values[..., order], first, axis=-1), member, rows


def between_within(
    values: Float[np.ndarray, "*batch rows"], run: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "*batch rows"], Float[np.ndarray, "*batch rows"]]:
    """Mean over the rows of each run, repeated for its rows, and the deviations from it.

    Args:
        values: of rows.
        run: number of the run of each row.

    Example:
        >>> between_within(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1]))
        (array([2., 2., 5.]), array([-1.,  1.,  0.]))
    """
    sums, member, rows = run_sums(values, run)
    mean = (sums / rows)[..., member]
    return mean, values - mean


def between_share(
    values: Float[np.ndarray, "tables rows"], run: Int[np.ndarray, " rows"], correction: Float[np.ndarray, " #tables"]
) -> Float[np.ndarray, " tables"]:
    """Share of the mean square of errors that lies between runs, estimated from residuals; 1 where every row is a run.

    Args:
        values: residuals.
        run: number of the run of each row.
        correction: by which the fitted constants have made the mean square between runs too small; they take nearly
            nothing from that within runs, of which there are many more.
    """
    between, within = (np.sum(part**2, axis=1) for part in between_within(values, run))
    between = correction * between
    total = between + within
    return np.divide(between, total, out=np.ones_like(total), where=total > 0)


def design_effect(
    score: Float[np.ndarray, "tables rows"], run: Int[np.ndarray, " rows"], correction: Float[np.ndarray, " #tables"]
) -> Float[np.ndarray, " tables"]:
    """Variance of the sum of the rows' scores relative to that of independent rows; at least 1.

    Args:
        score: derivative of each row's loss by its residual, as the objective weighs it.
        run: number of the run of each row.
        correction: as in ``between_share``.

    Source: Kish 1965, Survey Sampling (design effect).

    Example:
        >>> design_effect(np.array([[1.0, 1.0, -1.0, -1.0]]), np.array([0, 0, 1, 1]), np.ones(1))
        array([2.])
    """
    sums, _, rows = run_sums(score, run)
    if len(rows) == len(run):
        return np.ones(len(score))
    between, within = (np.sum(part**2, axis=1) for part in between_within(score, run))
    independent = correction * between + within
    clustered = correction * np.sum(sums**2, axis=1)
    return np.maximum(np.divide(clustered, independent, out=np.ones_like(independent), where=independent > 0), 1.0)


def nearest_rank_rows(
    run: Int[np.ndarray, " rows"], donor: Int[np.ndarray, "*batch runs"]
) -> Int[np.ndarray, "*batch rows"]:
    """For each row the row of its run's donor at the same relative rank: the middle row for an only one.

    Args:
        run: number of the run of each row, 0 to runs - 1.
        donor: for each run the run whose rows stand in for its own.

    Example:
        >>> nearest_rank_rows(np.array([0, 0, 1]), np.array([1, 0]))
        array([2, 2, 1])
    """
    rows = np.bincount(run)
    order = np.argsort(run, kind="stable")
    first = np.r_[0, np.cumsum(rows)[:-1]]
    rank = np.empty(len(run))
    rank[order] = (np.arange(len(run)) - first[run[order]] + 0.5) / rows[run[order]]
    source = donor[..., run]
    return order[first[source] + np.minimum((rank * rows[source]).astype(int), rows[source] - 1)]


def averaged_evaluations(table: Table) -> Table:
    """One row for each run and point: losses of rows of one run at one point, which repeat its evaluation, averaged.

    Args:
        table: the runs; without such rows it is returned as it is.

    Example:
        >>> import pandas as pd, laws
        >>> rows = pd.DataFrame({"c": [1e18, 1e18, 1e19], "loss": [3.0, 3.2, 2.5], "run": ["a", "a", "b"]})
        >>> averaged_evaluations(laws.load(rows, c="c", run="run")).loss
        array([3.1, 2.5])
    """
    run = np.unique(table.run, return_inverse=True)[1].ravel()
    pairs = np.stack([run, table.repeats()], axis=1)
    _, first, pair, counts = np.unique(pairs, axis=0, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(table):
        return table
    mean = np.bincount(pair.ravel(), table.loss) / counts
    rows = np.sort(first)
    return replace(table.take(np.isin(np.arange(len(table)), rows)), loss=mean[pair.ravel()[rows]])
