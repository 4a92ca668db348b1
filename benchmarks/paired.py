"""Coverage of compute multipliers between two simulated sweeps whose runs are paired, and whose runs are not.

    python -m benchmarks.paired --out benchmarks/results/paired.json --sweeps 300

Both sweeps follow one law; B reaches every loss with half of the compute, so that the multiplier is two. Errors of the
runs of one place in the design correlate by ``rho``. Intervals of 95% are found with draws of the two fits that are
independent, and with draws paired where the errors of the runs are seen to correlate, as `laws.compare` does.
"""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

import laws
from benchmarks.simulation import run, summaries
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY
from laws.model.forms import find
from laws.results.fitting import FitSettings, fit_table
from laws.results.report_parts import FittedRows, ObjectiveReport
from laws.uses.compute_multiplier import compare

NOISE = {"power_offset_c": 0.01, "chinchilla": 0.005}  # of log loss, by law
RHOS = (0.0, 0.6, 0.9)
COMPUTE = {"power_offset_c": (1e20, 1e22), "chinchilla": (1e19, 1e21)}  # FLOPs of A: inside the runs, and beyond
RESAMPLES, CHUNK = 200, 10
TRUTH = 2.0  # the multiplier
LEVEL = 0.95
CELLS = {f"{law}-{rho:g}": (law, rho) for law, rho in itertools.product(NOISE, RHOS)}


def tables(law: str, rho: float, rng: np.random.Generator) -> list[pd.DataFrame]:
    """Runs of A and of B.

    Args:
        law: a key of ``NOISE``.
        rho: correlation of the errors of paired runs.
        rng: of the errors.
    """
    if law == "power_offset_c":
        columns = {"c": np.geomspace(1e18, 1e21, 24)}
        loss = lambda factor: 1.7 + 30 * (factor * columns["c"]) ** -0.09
    else:
        n, d = np.repeat(np.geomspace(1e7, 1e9, 6), 4), np.tile(np.geomspace(1e9, 1e11, 4), 6)
        columns = {"n": n, "d": d, "c": 6 * n * d}
        loss = lambda factor: 1.7 + 400 / n**0.34 + 410 / (factor * d) ** 0.28
    first, own = rng.standard_normal((2, len(columns["c"])))
    errors = (first, rho * first + np.sqrt(1 - rho**2) * own)
    names = [f"place {i}" for i in range(len(first))]
    return [
        pd.DataFrame(columns | {"loss": loss(factor) * np.exp(NOISE[law] * error), "place": names})
        for factor, error in zip((1.0, TRUTH), errors, strict=True)
    ]


def quick_fit(frame: pd.DataFrame, law: str, seed: int) -> Any:
    """What ``compare`` reads of a fit, without the profiles and backtests of a report.

    Args:
        frame: the runs.
        law: name of the law.
        seed: of the draws.
    """
    settings = FitSettings(
        objective="log_huber",
        delta=1e-3,
        resamples=RESAMPLES,
        ci_method="auto",
        uncertainty=DEFAULT_UNCERTAINTY,
        level=LEVEL,
        target=None,
        holdout_above=None,
        fixed=None,
        curves=None,
        seed=seed,
        prior="public",
        prior_without=(),
    )
    n, d = (variable if variable in frame else None for variable in "nd")
    table = laws.load(frame, n=n, d=d, c="c", run="place")
    fit = fit_table(table, find(law), settings)
    values = {variable: tuple(values) for variable, values in fit.train.values.items()}
    report = SimpleNamespace(
        ranges=fit.predictor.ranges,
        columns=table.columns,
        quantity=table.quantity,
        intervals=SimpleNamespace(resamples=RESAMPLES),
        objective=ObjectiveReport(settings.objective, settings.delta, fit.optimum.value),
        data=FittedRows(tuple(map(str, table.run)), values, tuple(table.loss)),
    )
    return SimpleNamespace(law=fit.law, report=report, predictor=fit.predictor)


def simulate(cell: tuple[str, float], chunk: int, sweeps: int) -> dict[str, np.ndarray]:
    """Hits and log widths of intervals with independent and with paired draws: (sweeps, 2, computes).

    Args:
        cell: law, and correlation of the errors.
        chunk: number of the chunk.
        sweeps: how many pairs of sweeps.
    """
    law, rho = cell
    hits, widths, used = [], [], []
    for k in range(sweeps):
        seed = 10_000 * chunk + k
        rng = np.random.default_rng([seed, list(CELLS.values()).index(cell)])
        a, b = (quick_fit(frame, law, 2 * seed + i) for i, frame in enumerate(tables(law, rho, rng)))
        hit, width, pairing = [], [], None
        for paired in (False, None):
            comparison = compare(a, b, np.array(COMPUTE[law]), paired=paired)
            pairing = comparison.pairing
            ends = [point.interval or (np.nan, np.nan) for point in comparison.points]
            hit.append([low <= TRUTH <= high for low, high in ends])
            width.append([np.log(high / low) for low, high in ends])
        hits.append(hit)
        widths.append(width)
        used.append(pairing is not None and pairing.used)
    return {"hit": np.array(hits), "width": np.array(widths), "used": np.array(used)}


def summary(cell: tuple[str, float], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Coverage and median width, of intervals with independent and with paired draws, inside the runs and beyond."""
    known = np.isfinite(arrays["width"])
    figures = {
        draws: {
            place: {
                "coverage": float(arrays["hit"][known[:, i, j], i, j].mean()),
                "log_width": float(np.nanmedian(arrays["width"][:, i, j])),
                "without_interval": int(np.sum(~known[:, i, j])),
            }
            for j, place in enumerate(("inside", "beyond"))
        }
        for i, draws in enumerate(("independent", "as_the_runs"))
    }
    return {"sweeps": len(arrays["used"]), "paired_share": float(arrays["used"].mean())} | figures


def report(work: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """All cells that have been begun, and those of an earlier report."""
    return {
        "task": "coverage of 95% intervals of the compute multiplier; errors of paired runs correlate by the cell's number",
        "resamples": RESAMPLES,
        "cells": summaries(CELLS, work, summary, earlier.get("cells", {})),
    }


if __name__ == "__main__":
    sys.exit(run("paired", __doc__, CELLS, 300, CHUNK, simulate, report))
