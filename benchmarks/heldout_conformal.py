"""Conformal intervals around this package's forecasts, on the cases of `benchmarks.heldout`.

    python -m benchmarks.heldout_conformal

The medians are the package's. The widths come from its roll-outs: below the cut, fits of the smaller runs forecast the
larger ones (`benchmarks.heldout_rollouts`), and the absolute errors of these forecasts over a scale, whose quantiles are
taken, times the same scale at the scored runs give the ends. The scale is either the package's own half-width (studentised)
or one that grows with distance, the root of r^2 + (g log(C / C_max))^2 with r the typical residual of the table and g
chosen by the score on the other sources at the same cut. The quantiles are those of the table's own roll-outs, at the rank
that covers for exchangeable errors, or those of all roll-outs of other sources, every source weighing as much. `signed`
takes both tails of the studentised errors of the table.

The figures are those of `benchmarks.heldout`: means over runs, then tables, then sources, with the cases that all variants
can do. Roll-outs are kept in --work, so that the command can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.fit_contenders import published
from benchmarks.heldout import table_lines
from benchmarks.heldout_cases import CUTS, Kind
from benchmarks.heldout_forecasts import LEVELS, RunForecasts
from benchmarks.heldout_isoflop import sources_of_laws
from benchmarks.heldout_rollouts import RolledCase, kept_or_rolled, offsets
from benchmarks.heldout_scores import case_figures, comparison, pooled
from benchmarks.heldout_tables import read_cases
from laws.base.errors import InputError

GROWTHS = (0.0003, 0.0005, 0.001, 0.0015, 0.003, 0.006, 0.01)  # g of the scale that grows, an e-fold of compute
WIDEST = LEVELS.index(0.95)

# From a case, and all other sources' cases of the same cut, to its forecasts.
Variant = Callable[[RolledCase, Sequence[RolledCase]], RunForecasts]
# From a case to the scaled errors of its roll-out and the half-widths of a unit of them at the scored runs, a level each.
Scaled = tuple[Float[np.ndarray, "levels runs"], Float[np.ndarray, "levels 2 scored"]]
Scale = Callable[[RolledCase], Scaled]


def table_quantile(errors: Float[np.ndarray, " runs"], level: float) -> float:
    """The rank that covers a further exchangeable error with at least the level; the largest where there are too few.

    Args:
        errors: absolute ones.
        level: nominal coverage.
    """
    rank = int(np.ceil((len(errors) + 1) * level))
    return float(np.sort(errors)[min(rank, len(errors)) - 1])


def weighted_quantile(errors: Float[np.ndarray, " runs"], weight: Float[np.ndarray, " runs"], level: float) -> float:
    """The smallest error below which lies at least the level of the weight.

    Args:
        errors: absolute ones.
        weight: of each.
        level: nominal coverage.
    """
    order = np.argsort(errors)
    below = np.cumsum(weight[order]) / weight.sum()
    return float(errors[order][min(np.searchsorted(below, level), len(order) - 1)])


def studentised(rolled: RolledCase) -> Scaled:
    """Absolute errors over the package's own half-widths on their side."""
    roll_out = rolled.roll_out
    own = np.where(roll_out.error > 0, roll_out.above, roll_out.below)
    return np.abs(roll_out.error) / own, np.stack(offsets(rolled.forecast), axis=1)


def growing(growth: float) -> Scale:
    """Absolute errors over the typical residual of the table, growing with distance.

    Args:
        growth: relative error an e-fold of compute.
    """

    def scaled(rolled: RolledCase) -> Scaled:
        errors = np.abs(rolled.roll_out.error) / np.hypot(rolled.residual, growth * rolled.roll_out.distance)
        width = np.hypot(rolled.residual, growth * rolled.distance)
        return np.tile(errors, (len(LEVELS), 1)), np.broadcast_to(width, (len(LEVELS), 2, len(width)))

    return scaled


def _with_widths(rolled: RolledCase, half: Float[np.ndarray, "levels 2 scored"]) -> RunForecasts:
    """The package's medians with ends at log distances below and above."""
    median = rolled.forecast.median
    return RunForecasts(median, median * np.exp(np.stack([-half[:, 0], half[:, 1]], axis=1)))


def of_table(scale: Scale) -> Variant:
    """Quantiles of the table's own roll-outs."""

    def forecast(rolled: RolledCase, others: Sequence[RolledCase]) -> RunForecasts:
        errors, unit = scale(rolled)
        quantiles = [table_quantile(of_level, level) for of_level, level in zip(errors, LEVELS, strict=True)]
        return _with_widths(rolled, np.array(quantiles)[:, None, None] * unit)

    return forecast


def of_others(scale: Scale) -> Variant:
    """Quantiles of the roll-outs of other sources, every source weighing as much, and so every table of one."""

    def forecast(rolled: RolledCase, others: Sequence[RolledCase]) -> RunForecasts:
        sources = [other.case.table.source for other in others]
        errors = [scale(other)[0] for other in others]
        weight = [
            np.full(of_case.shape[1], 1 / (sources.count(source) * of_case.shape[1]))
            for source, of_case in zip(sources, errors, strict=True)
        ]
        joined, weights = np.concatenate(errors, axis=1), np.concatenate(weight)
        quantiles = [
            weighted_quantile(of_level, weights, level) for of_level, level in zip(joined, LEVELS, strict=True)
        ]
        return _with_widths(rolled, np.array(quantiles)[:, None, None] * scale(rolled)[1])

    return forecast


def signed(rolled: RolledCase, others: Sequence[RolledCase]) -> RunForecasts:
    """Both tails of the table's studentised errors; an end never lies on the other side of the median."""
    roll_out = rolled.roll_out
    half = []
    for level, below, above, unit in zip(LEVELS, roll_out.below, roll_out.above, studentised(rolled)[1], strict=True):
        errors = roll_out.error / np.where(roll_out.error > 0, above, below)
        low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
        half.append(np.stack([max(-low, 0.0) * unit[0], max(high, 0.0) * unit[1]]))
    return _with_widths(rolled, np.array(half))


def best_growth(of_scale: Callable[[Scale], Variant]) -> Variant:
    """The growth whose intervals score best on the other sources.

    Args:
        of_scale: which quantiles are taken.
    """

    def forecast(rolled: RolledCase, others: Sequence[RolledCase]) -> RunForecasts:
        scores = [_score(of_scale(growing(growth)), others) for growth in GROWTHS]
        return of_scale(growing(GROWTHS[int(np.argmin(scores))]))(rolled, others)

    return forecast


def _score(variant: Variant, cases: Sequence[RolledCase]) -> float:
    """Interval score at 95% over sources; each case is forecast from the other sources among them."""
    values = {}
    for rolled in cases:
        score = case_figures(rolled.case, variant(rolled, _others(rolled, cases)), None)["score"]
        assert score is not None
        values[rolled.case.name] = score
    return pooled(values, {rolled.case.name: rolled.case.table.source for rolled in cases})["value"]


def _others(rolled: RolledCase, cases: Sequence[RolledCase]) -> list[RolledCase]:
    return [other for other in cases if other.case.table.source != rolled.case.table.source]


VARIANTS: dict[str, tuple[str, Variant]] = {
    "isoflop": ("the package's own intervals", lambda rolled, others: rolled.forecast),
    "studentised": ("own half-widths, quantiles of the table", of_table(studentised)),
    "signed": ("own half-widths, both tails of the table", signed),
    "studentised_others": ("own half-widths, quantiles of the other sources", of_others(studentised)),
    "growing": ("a scale that grows with distance, quantiles of the table", best_growth(of_table)),
    "growing_others": ("a scale that grows with distance, quantiles of the other sources", best_growth(of_others)),
}


def report_of(cases: Sequence[RolledCase]) -> dict[str, Any]:
    """Every variant on the cases of one cut.

    Args:
        cases: with their roll-outs.
    """
    figures = {
        name: {
            rolled.case.name: case_figures(rolled.case, variant(rolled, _others(rolled, cases)), None)
            for rolled in cases
        }
        for name, (_, variant) in VARIANTS.items()
    }
    source = {rolled.case.name: rolled.case.table.source for rolled in cases}
    return {"pooled": comparison(figures, list(figures), source), "figures": figures}


def main() -> int:
    """Make the roll-outs that are missing, print the comparison and write it as JSON; 2 where there are no tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", metavar="PART", help="tables whose names hold one of these")
    parser.add_argument("--work", type=Path, default=Path("runs/heldout_rollouts"), help="roll-outs are kept here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/heldout_conformal.json"))
    given, folder = parser.parse_args(), published()
    if not folder.is_dir():
        print(f"golden tables are absent: {folder} (ISOFLOP_PUBLISHED)", file=sys.stderr)
        return 2
    try:
        cases = [case for case in read_cases(folder) if case.table.kind is Kind.SURFACE]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if given.tables is not None:
        cases = [case for case in cases if any(part in case.name for part in given.tables)]
    if not cases:
        print("no such table", file=sys.stderr)
        return 2
    done = {case.name: kept_or_rolled(case, given.work) for case in cases}
    sections = {}
    for cut in CUTS:
        rolled = [found for found in done.values() if isinstance(found, RolledCase) and found.case.cut == cut]
        if len({found.case.table.source for found in rolled}) < 3:
            print(f"{cut}: quantiles of other sources need three", file=sys.stderr)
            return 2
        sections[cut] = report_of(rolled)
        compared = sections[cut]["pooled"]
        print(f"== {cut}: {len(compared['cases'])} cases of {len(compared['sources'])} sources")
        print("\n".join(table_lines(compared)), end="\n\n", flush=True)
    report = {
        "task": "conformal intervals from roll-outs around the package's forecasts, in percent of the measured loss",
        "variants": {name: about for name, (about, _) in VARIANTS.items()},
        "version": sources_of_laws(),
        "absent": {name: found for name, found in done.items() if isinstance(found, str)},
        "sections": sections,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
