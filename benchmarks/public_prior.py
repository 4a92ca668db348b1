"""Summaries of published tables for the public prior: the posterior of exponents, floor and coupling in every source.

    python -m benchmarks.public_prior

Each table is fitted by the coupled surface under the weak prior, rows counting (C / C_max)^0.5. The numbers of a source are
means over its tables. What is printed is the table ``SOURCES`` of ``laws.forecasting.priors``.
"""

import argparse
import sys

import numpy as np

from benchmarks.fit_contenders import published
from benchmarks.heldout_cases import HeldoutTable, Kind
from benchmarks.heldout_tables import read_cases
from laws.forecasting.posterior import Mode, Problems, modes, sample
from laws.forecasting.priors import LEARNED, prior_of
from laws.forecasting.surface import SURFACE

STARTS, DRAWS, SEED = 24, 2000, 0
WIDER = 2.0  # the weak prior's deviations of what is to be learned: a source's summary is not to repeat that prior
LOCALITY = 0.5  # rows count (C / C_max)^0.5: forecasts need the exponents of the larger runs


def moments(table: HeldoutTable) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of the learned coordinates of one table."""
    rows, prior = table.rows, prior_of("weak")
    prior.deviation[list(LEARNED)] *= WIDER
    _, run, rows_of_run = np.unique(rows.run.astype(str), return_inverse=True, return_counts=True)
    weight = (rows.c / rows.c.max()) ** LOCALITY / rows_of_run[run.ravel()]
    weight = weight * len(rows_of_run) / weight.sum()  # as many as there are runs
    tiled = lambda values: np.tile(values, (STARTS, 1))
    problems = Problems.of(SURFACE, np.log([rows.n, rows.d]), tiled(np.log(rows.loss)), tiled(weight), [prior] * STARTS)
    rng = np.random.default_rng(SEED)
    mode = modes(problems, prior.mean + 0.7 * prior.deviation * rng.standard_normal((STARTS, len(prior.mean))))
    best = np.array([np.argmax(mode.log_density)])
    draws = sample(problems.take(best), Mode(*(part[best] for part in mode)), DRAWS, SEED)
    points = draws[0][:, list(LEARNED)]
    return points.mean(axis=0), points.std(axis=0)


def main() -> int:
    """Prints the rows of ``SOURCES``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    folder = published()
    if not folder.is_dir():
        print(f"golden tables are absent: {folder} (ISOFLOP_PUBLISHED)", file=sys.stderr)
        return 2
    tables = {case.table.name: case.table for case in read_cases(folder)}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for table in tables.values():
        # Where all runs have one amount of data, nothing is known of its term.
        if table.kind == Kind.SURFACE and len(np.unique(table.rows.d)) > 1:
            found.setdefault(table.source, []).append(moments(table))
    for source, parts in found.items():
        mean, deviation = (np.mean(values, axis=0) for values in zip(*parts, strict=True))
        row = lambda values: ", ".join(f"{value:.3f}" for value in values)
        print(f'SourceSummary("{source}", "", {len(parts)}, ({row(mean)}), ({row(deviation)})),')
    return 0


if __name__ == "__main__":
    sys.exit(main())
