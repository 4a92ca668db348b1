"""Compute multiplier between two fitted laws: how many times less compute B needs than A for the same loss.

The multiplier at C is C / C', where C' is the compute at which B reaches the loss that A reaches with C, both split in
their own best way: 2 means that B needs half of A's compute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from jaxtyping import Float

from laws.base.array_math import numbers_of
from laws.base.errors import InputError
from laws.base.json_files import jsonable
from laws.forecasting.mixture import Predictor
from laws.forecasting.prediction import extrapolation
from laws.inference.noise import interval
from laws.results.groups import fit_of_group
from laws.results.results import FitResult
from laws.uses.pairing import (
    Pairing,
    check_paired,
    independent_draws,
    paired_draws,
    paired_runs,
    pairing_of,
)

if TYPE_CHECKING:
    import pandas as pd

POINTS = 9  # computes of the answer by default
MARGIN = 10.0  # factor by which they exceed A's largest run, by default
GRID = 97  # computes at which B's optimal loss is tabulated, equally spaced in log C
GRID_MARGIN = 1e4  # factor by which that grid exceeds both laws' runs and the question, on either side


@dataclass(frozen=True)
class MultiplierPoint:
    """The compute multiplier at one compute.

    Args:
        c: training FLOPs of A.
        loss: compute-optimal loss of A there.
        multiplier: C / C'; None where B does not reach that loss.
        interval: of the multiplier; None where too few draws have one.
        share_above_one: share of the draws with a multiplier in which it exceeds one; None without an interval.
        reason: why there is no multiplier or no interval.
    """

    c: float
    loss: float
    multiplier: float | None
    interval: tuple[float, float] | None = None
    share_above_one: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class MultiplierSlope:
    """Exponent of the multiplier in compute, C / C' ~ C^value: below zero B's advantage shrinks.

    Args:
        value: least-squares slope of the log multiplier in log C.
        interval: of it; None where no draw has two multipliers.
    """

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Compute multipliers of a law B over a law A.

    Args:
        law_a, law_b: names of the laws, with the group where both are of one fit.
        compute_column: column of compute that both fits use.
        level: nominal coverage of the intervals.
        points: multipliers, by rising compute.
        slope: their exponent in compute; None with fewer than two multipliers.
        warnings: what a reader must know.
        pairing: runs of A and B that are paired and what that does to the intervals; None where none are, or where
            independent intervals were asked for.
    """

    law_a: str
    law_b: str
    compute_column: str
    level: float
    points: tuple[MultiplierPoint, ...]
    slope: MultiplierSlope | None
    warnings: tuple[str, ...]
    pairing: Pairing | None = None

    def frame(self) -> pd.DataFrame:
        """The multipliers as a table.

        Returns:
            a row a compute: ``c`` (FLOPs of A), ``loss``, ``multiplier``, ``low`` and ``high`` (its interval),
            ``share_above_one`` and ``reason``; NaN where there is none.
        """
        import pandas as pd

        rows = [
            {"c": point.c, "loss": point.loss, "multiplier": point.multiplier}
            | dict(zip(("low", "high"), point.interval or (None, None), strict=True))
            | {"share_above_one": point.share_above_one, "reason": point.reason}
            for point in self.points
        ]
        numbers = ["c", "loss", "multiplier", "low", "high", "share_above_one"]
        return pd.DataFrame(rows, columns=[*numbers, "reason"]).astype(dict.fromkeys(numbers, float))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON can hold it."""
        return jsonable(msgspec.to_builtins(self))

    def __repr__(self) -> str:
        listed = ", ".join(
            f"{'none' if point.multiplier is None else f'{point.multiplier:.3g}'} at {point.c:.3g}"
            for point in dict.fromkeys((self.points[0], self.points[-1]))
        )
        return f"<Comparison of {self.law_b} (B) with {self.law_a} (A): compute multiplier {listed} FLOPs>"


def optimal_loss(
    predictor: Predictor, compute: Float[np.ndarray, " computes"], draws: bool
) -> Float[np.ndarray, "draws computes"]:
    """Loss at the best split of each compute; NaN where the law has none.

    Args:
        predictor: of a fit.
        compute: training FLOPs.
        draws: whether under every draw of the constants, else under the fitted ones (one row).
    """
    if predictor.law.columns == ("c",):
        columns = {"c": compute}
        return np.exp(predictor.log_losses(columns)) if draws else predictor.losses(columns)[0][None]
    forecast, drawn = predictor.forecast_allocation(compute)
    return drawn.loss if draws else forecast.loss


def _log_compute_at(
    wanted: Float[np.ndarray, " computes"], loss: Float[np.ndarray, " grid"], log_c: Float[np.ndarray, " grid"]
) -> Float[np.ndarray, " computes"]:
    """Log of the compute at which a law reaches each loss, by interpolation; NaN where it does not.

    Args:
        wanted: losses.
        loss: compute-optimal loss on a grid of computes.
        log_c: logs of these computes.
    """
    known = np.isfinite(loss)
    loss, log_c = np.minimum.accumulate(loss[known]), log_c[known]
    if not len(loss):
        return np.full(len(wanted), np.nan)
    log_compute = np.interp(-np.log(wanted), -np.log(loss), log_c)
    return np.where((wanted <= loss[0]) & (wanted > loss[-1]), log_compute, np.nan)


def default_compute(a: FitResult) -> Float[np.ndarray, " computes"]:
    """Training FLOPs over the runs of a fit and a factor of ``MARGIN`` beyond."""
    low, high = a.report.ranges["c"]
    return np.geomspace(low, high * MARGIN, POINTS)


def check_quantities(a: FitResult, b: FitResult) -> None:
    """Refuses two fits of different quantities: other losses, other evaluation sets or other tokenizers.

    Raises:
        InputError: names the two, and the argument that overrules it where they may be the same under two names.
    """
    quantity_a, quantity_b = a.report.quantity, b.report.quantity
    for key in quantity_a:
        if quantity_a[key] != quantity_b.get(key, quantity_a[key]):
            raise InputError(
                f"the fits are not of one quantity: {key} is '{quantity_a[key]}' and '{quantity_b[key]}' (if these are "
                "the same under two names, check_quantity=False)",
                flag="--check_quantity=false",
            )


def _check_frontiers(a: FitResult, b: FitResult) -> None:
    """Refuses fits without compute, with different conventions of compute, or without resamples."""
    for fitted in (a, b):
        if "c" not in fitted.report.ranges:
            raise InputError(f"law '{fitted.law.name}' was fitted without compute, so it has no frontier to compare")
    column_a, column_b = a.report.columns["c"], b.report.columns["c"]
    if column_a != column_b:
        raise InputError(
            f"the fits count compute differently ({column_a} and {column_b}): fit both with the same column of compute"
        )
    for fitted in (a, b):
        if not fitted.report.intervals.resamples:
            raise InputError(
                f"the fit of law '{fitted.law.name}' has no resamples, so the multiplier would have no interval: fit it "
                "again with resamples above 0"
            )


def compare(
    a: FitResult,
    b: FitResult | None = None,
    compute: Float[np.ndarray, " computes"] | None = None,
    check_quantity: bool = True,
    paired: bool | None = None,
    *,
    groups: tuple[str, str] | None = None,
) -> Comparison:
    """Compute multiplier of B over A: C / C', where B reaches with C' the loss that A reaches with C.

    Args:
        a: a fit with resamples.
        b: another, whose compute is counted in the same convention and whose loss is the same quantity; None for two
            groups of one fit.
        compute: training FLOPs of A; by default over its runs and a factor of ten beyond.
        check_quantity: whether fits of different losses, evaluation sets or tokenizers are refused.
        paired: whether the draws of the fits are paired as their runs are (``laws.uses.pairing``): by default where runs
            are paired by the column of the run, or by equal N, D and seed, and their errors correlate.
        groups: of a fit that was made with ``group=``, the groups that are A and B; they share every draw.

    Returns:
        the multipliers with intervals, and their exponent in compute.

    Raises:
        InputError: a law has no frontier in compute, a fit has no resamples, the two count compute differently or
            measure different things, or ``paired`` is true and no runs are.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 4), np.tile([1e9, 4e9, 2e10, 1e11], 3)
        >>> noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(12))
        >>> a = pd.DataFrame({"n": n, "d": d, "c": 6 * n * d, "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise})
        >>> b = a.assign(d=a.d / 2, c=a.c / 2)  # every loss with half of the tokens
        >>> fit_a, fit_b = (laws.load(table, n="n", d="d", c="c").fit(resamples=50) for table in (a, b))
        >>> comparison = laws.compare(fit_a, fit_b, np.array([1e19, 1e20]))
        >>> comparison.frame().multiplier.round(2).tolist()
        [2.0, 2.0]
    """
    a, b = _operands(a, b, groups)
    if check_quantity:
        check_quantities(a, b)
    _check_frontiers(a, b)
    compute = default_compute(a) if compute is None else np.sort(np.atleast_1d(numbers_of(compute, "compute")))
    if not (np.isfinite(compute) & (compute > 0)).all():
        raise InputError(f"compute must be positive, and is {compute[~(compute > 0)][:1]}")
    first, second = a.predictor, b.predictor
    ranges = np.array([a.report.ranges["c"], b.report.ranges["c"]])
    low, high = min(ranges.min(), compute[0]) / GRID_MARGIN, max(ranges.max(), compute[-1]) * GRID_MARGIN
    grid = np.geomspace(low, high, GRID)
    central, central_b = optimal_loss(first, compute, draws=False), optimal_loss(second, grid, draws=False)
    fitted = _log_multiplier(central, central_b, compute, grid)[0]
    pairing, draws = _draws(a, b, compute, grid, paired)
    level = min(first.level, second.level)
    loss = central[0]
    unreached = f"B does not reach it: at {grid[-1]:.3g} FLOPs its loss is "
    unreached += f"{optimal_loss(second, grid[-1:], draws=False)[0, 0]:.4g}"
    factor = extrapolation({"c": a.report.ranges["c"]}, {"c": float(compute[-1])})["c"]
    return Comparison(
        law_a=a.law.name if groups is None else f"{a.law.name}, {groups[0]}",
        law_b=b.law.name if groups is None else f"{b.law.name}, {groups[1]}",
        compute_column=a.report.columns["c"],
        level=level,
        points=tuple(
            _point(*values, level, unreached, second.config.least_defined_share)
            for values in zip(compute, loss, fitted, draws.T, strict=True)
        ),
        slope=_slope(np.log(compute), fitted, draws, level),
        warnings=(f"extrapolation beyond the runs of A: C by a factor {factor:.3g}",) if factor > 1.005 else (),
        pairing=pairing,
    )


def _operands(a: FitResult, b: FitResult | None, groups: tuple[str, str] | None) -> tuple[FitResult, FitResult]:
    """The two fits: as they were given, or of two groups of the first."""
    if (b is None) == (groups is None):
        raise InputError(
            "a comparison is of two fits, or of two groups of one fit", flag="--group_a=GROUP --group_b=GROUP"
        )
    if groups is None:
        assert b is not None
        return a, b
    return fit_of_group(a, groups[0]), fit_of_group(a, groups[1])


def _draws(
    a: FitResult,
    b: FitResult,
    compute: Float[np.ndarray, " computes"],
    grid: Float[np.ndarray, " grid"],
    paired: bool | None,
) -> tuple[Pairing | None, Float[np.ndarray, "draws computes"]]:
    """Draws of the log multiplier, those of the two fits paired where their runs are.

    Args:
        a, b: the fits.
        compute: training FLOPs of A.
        grid: training FLOPs of B at which its optimal loss is tabulated.
        paired: whether draws are paired; None where the runs decide.
    """
    losses_a, losses_b = optimal_loss(a.predictor, compute, draws=True), optimal_loss(b.predictor, grid, draws=True)
    if a.report is b.report:  # two groups of one fit share their draws
        return None, _log_multiplier(losses_a, losses_b, compute, grid)
    runs = None if paired is False else paired_runs(a, b)
    if paired:
        check_paired(runs)
    pairing = None if runs is None else pairing_of(a, b, runs)
    if runs is not None and pairing is not None and pairing.used:
        numbers = paired_draws(a, b, runs, pairing)
    else:
        numbers = independent_draws(a, b, (len(losses_a), len(losses_b)))
    return pairing, _log_multiplier(losses_a[numbers[0]], losses_b[numbers[1]], compute, grid)


def _log_multiplier(
    losses_a: Float[np.ndarray, "draws computes"],
    losses_b: Float[np.ndarray, "draws grid"],
    compute: Float[np.ndarray, " computes"],
    grid: Float[np.ndarray, " grid"],
) -> Float[np.ndarray, "draws computes"]:
    """Log multipliers.

    Args:
        losses_a: compute-optimal losses of A.
        losses_b: of B.
        compute: training FLOPs of A.
        grid: training FLOPs of B at which its optimal loss is tabulated.
    """
    pairs = zip(losses_a, losses_b, strict=True)
    return np.log(compute) - np.stack([_log_compute_at(of_a, of_b, np.log(grid)) for of_a, of_b in pairs])


def _point(
    c: float,
    loss: float,
    fitted: float,
    draws: Float[np.ndarray, " draws"],
    level: float,
    unreached: str,
    least_share: float,
) -> MultiplierPoint:
    """The multiplier at one compute.

    Args:
        c: training FLOPs of A.
        loss: of A.
        fitted: log multiplier under the fitted constants.
        draws: under every draw.
        level: nominal coverage of the interval.
        unreached: reason where B does not reach the loss.
        least_share: of the draws in which B must reach it for the multiplier to have an interval.
    """
    point = MultiplierPoint(c=float(c), loss=float(loss), multiplier=None)
    if not np.isfinite(fitted):
        return replace(point, reason=unreached)
    point, known = replace(point, multiplier=float(np.exp(fitted))), draws[np.isfinite(draws)]
    if len(known) < least_share * len(draws):
        return replace(point, reason=f"no interval: only {len(known) / len(draws):.0%} of the draws of B reach it")
    low, high = interval(known, level)
    return replace(point, interval=(float(np.exp(low)), float(np.exp(high))), share_above_one=float(np.mean(known > 0)))


def _slope(
    log_c: Float[np.ndarray, " computes"],
    fitted: Float[np.ndarray, " computes"],
    draws: Float[np.ndarray, "draws computes"],
    level: float,
) -> MultiplierSlope | None:
    """Exponent of the multiplier in compute, over the computes at which there is one.

    Args:
        log_c: logs of the training FLOPs of A.
        fitted: log multipliers under the fitted constants.
        draws: under every draw.
        level: nominal coverage of the interval.
    """
    known = [np.isfinite(row) for row in (fitted, *draws)]
    slopes = [
        float(np.polyfit(log_c[finite], row[finite], 1)[0]) if finite.sum() >= 2 else np.nan
        for finite, row in zip(known, (fitted, *draws), strict=True)
    ]
    if np.isnan(slopes[0]):
        return None
    low, high = interval(np.array(slopes[1:]), level)
    return MultiplierSlope(slopes[0], None if np.isnan(low) else (float(low), float(high)))
