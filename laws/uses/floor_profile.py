"""The forecast at the target as a function of the floor E: what is forecast far ahead hangs on it more than on the rest."""

from __future__ import annotations

import numpy as np

from laws.base.errors import FitFailed, InputError
from laws.data.table import Table
from laws.estimation.estimate import estimate, weights_of
from laws.inference.allocation import derive
from laws.results.report_parts import FloorPoint
from laws.results.results import FitResult

FLOOR = "E"  # name of the floor in the laws of size and data
SHARES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # floors that are tried, over the least loss


def floor_profile(fitted: FitResult, table: Table) -> tuple[FloorPoint, ...]:
    """The law fitted at floors that are held, and what it then forecasts at the target.

    Args:
        fitted: a fit of a law of N and D with the floor E.
        table: the table that was fitted.

    Returns:
        a point a floor, by rising floor, the fitted one and the ends of its profile interval among them; ``inside`` tells
        whether the floor lies in that interval. Floors at which there is no fit or no best split are left out.

    Raises:
        InputError: the law has no floor to hold, or does not trade N against D.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> table = laws.load(pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28}), n="n", d="d")
        >>> points = laws.floor_profile(table.fit(resamples=0, target=1e23), table)
        >>> best = min(points, key=lambda point: point.objective)
        >>> round(best.floor, 2), round(best.loss, 2)
        (1.7, 2.01)
    """
    law, report = fitted.law, fitted.report
    if FLOOR not in law.names or not law.has_compute_optimum:
        raise InputError(f"law '{law.name}' has no floor {FLOOR} of a loss by n and d, so there is nothing to hold")
    target = report.target_flops
    assert target is not None
    table = table.for_law(law)
    fitted_rows = np.ones(len(table), bool)
    if report.holdout:
        fitted_rows = ~table.above_budget(report.holdout.above)
    weight = weights_of(table, fitted_rows, report.objective.name)
    sizes = table.values["n"][fitted_rows]
    ends = report.profile.params.get(FLOOR) if report.profile else None
    points = []
    floors = {share * float(table.loss[fitted_rows].min()) for share in SHARES} | {report.params[FLOOR]}
    floors |= {end for end in ends or () if end is not None}
    for floor in sorted(floors):
        held = law.with_fixed({FLOOR: floor})
        try:
            point = estimate(held, table, report.objective.name, report.objective.delta, weight)
        except (InputError, FitFailed):
            continue
        derived = derive(held, point.params[None], report.token_cost, target, (float(sizes.min()), float(sizes.max())))
        loss, n = float(derived["loss_opt"][0]), float(derived["n_opt"][0])
        if np.isfinite([loss, n]).all():
            points.append(FloorPoint(float(floor), loss, n, float(point.value), _inside(floor, ends)))
    return tuple(points)


def _inside(floor: float, ends: tuple[float | None, float | None] | None) -> bool | None:
    """Whether a floor lies in its interval, an open end holding all; None without one."""
    if ends is None:
        return None
    low, high = ends
    return (low is None or floor >= low) and (high is None or floor <= high)
