"""Is B better than A, by how much, and does it stay so? The compute multiplier between two fitted laws.

The multiplier at C is C / C', where C' is the compute at which B reaches the loss that A reaches with C, both split in
their own best way: 2 means that B needs half of A's compute.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError
from laws.base.json_files import jsonable
from laws.forecasting.prediction import Predictor, extrapolation
from laws.inference.noise import interval
from laws.results.results import FitResult

GRID = 97  # computes at which B's frontier is known
REACH = 1e4  # B's frontier is searched this factor beyond both laws' runs and the question
POINTS, BEYOND = 9, 10.0  # computes of the answer by default: over the runs, and this factor on
EVEN = 0.5  # share of draws that must have a multiplier for it to have an interval


def optimal_loss(predictor: Predictor, compute: Float[np.ndarray, " computes"], draws: bool) -> np.ndarray:
    """Loss at the best split of each compute.

    Args:
        predictor: of a fit.
        compute: training FLOPs.
        draws: whether under every draw of the mixture of forms, or under the fitted constants alone.

    Returns:
        losses, (1 or draws, computes); NaN where the law has no best split.
    """
    if predictor.law.columns == ("c",):
        columns = {"c": compute}
        return np.exp(predictor.log_losses(columns)) if draws else predictor.losses(columns)[0][None]
    return predictor.allocation(compute, draws=draws).loss


def _reached(loss: Float[np.ndarray, " grid"], log_c: Float[np.ndarray, " grid"], wanted: np.ndarray) -> np.ndarray:
    """Log of the compute at which a falling frontier reaches each wanted loss; NaN where it does not."""
    known = np.isfinite(loss)
    loss, log_c = np.minimum.accumulate(loss[known]), log_c[known]
    if not len(loss):
        return np.full(len(wanted), np.nan)
    found = np.interp(-np.log(wanted), -np.log(loss), log_c)
    return np.where((wanted <= loss[0]) & (wanted > loss[-1]), found, np.nan)


def default_compute(a: FitResult) -> Float[np.ndarray, " computes"]:
    """Computes over the runs of a fit and somewhat beyond."""
    low, high = a.report.ranges["c"]
    return np.geomspace(low, high * BEYOND, POINTS)


def check_quantities(a: FitResult, b: FitResult) -> None:
    """Refuses two fits of different quantities: other losses, other evaluation sets or other tokenizers.

    Raises:
        InputError: names the two, and the flag that overrules it where they may be the same under two names.
    """
    ours, theirs = (fitted.report.quantity for fitted in (a, b))
    for key in ours.keys() & theirs.keys():
        if ours[key] != theirs[key]:
            raise InputError(
                f"the fits are not of one quantity: {key} is '{ours[key]}' and '{theirs[key]}' (if these are the same "
                "under two names, --check_quantity=false)"
            )


def compare(
    a: FitResult,
    b: FitResult,
    compute: Float[np.ndarray, " computes"] | None = None,
    check_quantity: bool = True,
) -> dict[str, Any]:
    """How much less compute B needs for A's loss.

    Args:
        a, b: fits whose compute is counted in the same convention and whose losses can be compared.
        compute: training FLOPs of A; by default over its runs and a factor of ten beyond.
        check_quantity: whether fits of different losses, evaluation sets or tokenizers are refused.

    Returns:
        ``points``: at each compute the loss of A, the ``multiplier`` with its ``interval`` and ``better``, the share of
        draws in which it exceeds one; a ``reason`` where there is none. ``slope`` with its interval: the exponent of the
        multiplier in compute; below zero B's advantage shrinks. ``warnings``.

    Raises:
        InputError: a law has no frontier in compute, a fit has no resamples, or the two count compute differently or
            measure different things.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(9))
        >>> loss = lambda share: (1.7 + 400 / n**0.34 + 410 / (share * d) ** 0.28) * noise
        >>> table = lambda share: pd.DataFrame({"n": n, "d": d, "loss": loss(share)})
        >>> fit = lambda share: laws.load(table(share), n="n", d="d").fit(resamples=20)
        >>> answer = laws.compare(fit(1.0), fit(2.0), compute=np.array([1e19]))  # B needs half the tokens
        >>> 1.5 < answer["points"][0]["multiplier"] < 2.5
        True
    """
    if check_quantity:
        check_quantities(a, b)
    for fitted in (a, b):
        if "c" not in fitted.report.ranges:
            raise InputError(f"law '{fitted.law.name}' was fitted without compute, so it has no frontier to compare")
    ours, theirs = (fitted.report.columns["c"] for fitted in (a, b))
    if ours != theirs:
        raise InputError(
            f"the fits count compute differently ({ours} and {theirs}): fit both with the same column of compute"
        )
    for fitted in (a, b):
        if not fitted.report.intervals.resamples:
            raise InputError(
                f"the fit of law '{fitted.law.name}' has no resamples, so the multiplier would have no interval: fit it "
                "again with resamples above 0"
            )
    compute = default_compute(a) if compute is None else np.sort(np.asarray(compute, np.float64))
    if not (np.isfinite(compute) & (compute > 0)).all():
        raise InputError(f"compute must be positive, and is {compute[~(compute > 0)][:1]}")
    first, second = a.predictor, b.predictor
    ends = np.array([a.report.ranges["c"], b.report.ranges["c"]])
    grid = np.geomspace(min(ends.min(), compute[0]) / REACH, max(ends.max(), compute[-1]) * REACH, GRID)
    point = _log_multiplier(first, second, compute, grid, draws=False)[0]
    many = _log_multiplier(first, second, compute, grid, draws=True)
    level = min(first.level, second.level)
    loss, floor = optimal_loss(first, compute, draws=False)[0], optimal_loss(second, grid[-1:], draws=False)[0, 0]
    points = [
        {"c": float(c), "loss": float(at)} | _point(own, drawn, floor, level, grid[-1])
        for c, at, own, drawn in zip(compute, loss, point, many.T, strict=True)
    ]
    far = extrapolation({"c": tuple(ends[0])}, {"c": float(compute[-1])})["c"]
    beyond = [f"extrapolation beyond the runs of A: C by a factor {far:.3g}"] if far > 1.005 else []
    return jsonable(
        {
            "a": a.law.name,
            "b": b.law.name,
            "compute": ours,
            "level": level,
            "points": points,
            "slope": _slope(np.log(compute), point, many, level),
            "warnings": beyond,
        }
    )


def _log_multiplier(first: Predictor, second: Predictor, compute, grid, draws: bool) -> np.ndarray:
    """Log multipliers (draws, computes); the draws of the two laws are independent of each other."""
    wanted, frontiers = optimal_loss(first, compute, draws), optimal_loss(second, grid, draws)
    count = min(len(wanted), len(frontiers))
    pick = np.random.default_rng([first.seed, second.seed]).permutation
    pairs = zip(pick(len(wanted))[:count], pick(len(frontiers))[:count], strict=True)
    reached = [_reached(frontiers[j], np.log(grid), wanted[i]) for i, j in pairs]
    return np.log(compute) - np.stack(reached)


def _point(own: float, drawn: np.ndarray, floor: float, level: float, last: float) -> dict[str, Any]:
    known = np.isfinite(drawn)
    out: dict[str, Any] = {"multiplier": float(np.exp(own)), "interval": None, "better": None, "reason": None}
    if not np.isfinite(own):
        return out | {"multiplier": None, "reason": f"B does not reach it: at {last:.3g} FLOPs its loss is {floor:.4g}"}
    if known.mean() < EVEN:
        return out | {"reason": f"no interval: only {known.mean():.0%} of the draws of B reach it"}
    ends = interval(np.where(known, drawn, -np.inf)[known], level)
    return out | {"interval": [float(np.exp(end)) for end in ends], "better": float(np.mean(drawn[known] > 0))}


def _slope(log_c: np.ndarray, point: np.ndarray, many: np.ndarray, level: float) -> dict[str, Any] | None:
    """Exponent of the multiplier in compute, over the computes at which there is one."""
    if np.isfinite(point).sum() < 2:
        return None
    fitted = [np.polyfit(log_c[known], row[known], 1)[0] for row in many if (known := np.isfinite(row)).sum() >= 2]
    ends = interval(np.array(fitted), level) if fitted else (np.nan, np.nan)
    known = np.isfinite(point)
    return {"value": float(np.polyfit(log_c[known], point[known], 1)[0]), "interval": [float(end) for end in ends]}
