"""Scores of forecasts: of one case, pooled by source and over sources, with errors from resampled sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.heldout_cases import Case
from benchmarks.heldout_forecasts import LEVELS, RunForecasts

RESAMPLES = 2_000
SEED = 0
WIDEST = LEVELS.index(0.95)

Figures = dict[str, float | None]


def interval_score(
    loss: Float[np.ndarray, " runs"], ends: Float[np.ndarray, "2 runs"], level: float
) -> Float[np.ndarray, " runs"]:
    """Interval score: width, plus 2 / (1 - level) times the distance by which the loss lies outside.

    Args:
        loss: measured.
        ends: of the central interval.
        level: its nominal coverage.

    Source:
        Gneiting and Raftery 2007, equation 43.
    """
    low, high = ends
    outside = np.maximum(low - loss, 0.0) + np.maximum(loss - high, 0.0)
    return high - low + 2 / (1 - level) * outside


def _known(values: np.ndarray) -> float | None:
    """The mean; None where a value is missing."""
    return float(np.mean(values)) if len(values) and np.isfinite(values).all() else None


def case_figures(case: Case, found: RunForecasts, cpu_seconds: float | None) -> Figures:
    """Figures of one contender on one case: errors, widths and scores in percent of the measured loss.

    Args:
        case: with the measured losses.
        found: forecasts of its points.
        cpu_seconds: that they took, where that is known.

    Returns:
        ``error`` and ``median_error`` (absolute), ``bias`` (signed), ``near_error`` and ``near_median_error`` (runs near
        the optimum), ``inside_50`` and ``inside_95`` (coverage), ``width`` (median) and ``score`` (mean) of the 95%
        intervals, ``score_50``, ``cpu_seconds``; None where a contender gives no interval.
    """
    loss = case.scored.loss
    error = 100 * (found.median / loss - 1)
    absolute = np.abs(error)
    figures: Figures = {
        "error": float(absolute.mean()),
        "median_error": float(np.median(absolute)),
        "bias": float(error.mean()),
        "near_error": float(absolute[case.near].mean()),
        "near_median_error": float(np.median(absolute[case.near])),
        "cpu_seconds": cpu_seconds,
    }
    for level, ends in zip(LEVELS, found.ends, strict=True):
        inside = np.where(np.isfinite(ends).all(axis=0), (ends[0] <= loss) & (loss <= ends[1]), np.nan)
        figures[f"inside_{level:.0%}".rstrip("%")] = _known(inside)
    ends = found.ends[WIDEST]
    width = 100 * (ends[1] - ends[0]) / loss
    figures["width"] = None if _known(width) is None else float(np.median(width))
    figures["score"] = _known(100 * interval_score(loss, ends, LEVELS[WIDEST]) / loss)
    figures["score_50"] = _known(100 * interval_score(loss, found.ends[0], LEVELS[0]) / loss)
    return figures


def source_means(values: Mapping[str, float], source: Mapping[str, str]) -> dict[str, float]:
    """Means over the tables of each source.

    Args:
        values: case -> figure.
        source: case -> source.
    """
    grouped: dict[str, list[float]] = defaultdict(list)
    for name, value in values.items():
        grouped[source[name]].append(value)
    return {name: float(np.mean(of_source)) for name, of_source in grouped.items()}


def resampled_means(means: Mapping[str, float]) -> Float[np.ndarray, " resamples"]:
    """Pooled figures of resampled sources; the same resamples for every figure of as many sources."""
    values = np.array([means[name] for name in sorted(means)])
    rng = np.random.default_rng(SEED)
    return values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)


def pooled(values: Mapping[str, float], source: Mapping[str, str]) -> dict[str, Any]:
    """The mean over sources of the means over their tables, and its standard error by a bootstrap over sources.

    Args:
        values: case -> figure, itself a mean (or a median) over the runs of the case.
        source: case -> source.
    """
    means = source_means(values, source)
    error = float(resampled_means(means).std()) if len(means) > 1 else None
    return {"value": float(np.mean(list(means.values()))), "error": error, "sources": means}


def compared_cases(done: Mapping[str, set[str]], names: Sequence[str]) -> list[str]:
    """The cases that every one of the contenders could do, in alphabetic order.

    Args:
        done: contender -> cases with forecasts.
        names: of the contenders.
    """
    return sorted(set.intersection(*(done[name] for name in names))) if names else []


def comparison(
    figures: Mapping[str, Mapping[str, Figures]], names: Sequence[str], source: Mapping[str, str]
) -> dict[str, Any]:
    """Pooled figures of contenders on the cases that all of them could do.

    Args:
        figures: contender -> case -> figures.
        names: of the contenders that are compared.
        source: case -> source.

    Returns:
        ``cases``, ``sources`` and ``contenders``: name -> figure -> ``pooled``; ``score_of_best`` is the interval score
        over that of the best contender, and its error that of the ratio.
    """
    cases = compared_cases({name: set(figures[name]) for name in names}, names)
    out: dict[str, Any] = {"cases": cases, "sources": sorted({source[case] for case in cases}), "contenders": {}}
    if not cases:
        return out
    for name in names:
        entry = {}
        for figure in figures[name][cases[0]]:
            values = {case: figures[name][case][figure] for case in cases}
            known = {case: value for case, value in values.items() if value is not None}
            entry[figure] = pooled(known, source) if len(known) == len(cases) else None
        out["contenders"][name] = entry
    scores = {name: entry["score"] for name, entry in out["contenders"].items() if entry["score"] is not None}
    if scores:
        best = min(scores.values(), key=lambda score: score["value"])
        for name, score in scores.items():
            ratios = resampled_means(score["sources"]) / resampled_means(best["sources"])
            out["contenders"][name]["score_of_best"] = {
                "value": score["value"] / best["value"],
                "error": float(ratios.std()) if len(score["sources"]) > 1 else None,
            }
    return out
