"""Efficiencies of groups of runs that share a law, as a report states them; and the fit of one group alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError, nearest
from laws.inference.noise import interval
from laws.model.grouped import factor
from laws.model.law import Law
from laws.results.report_parts import GroupEfficiency, interval_of

if TYPE_CHECKING:
    from laws.results.results import FitResult


def efficiencies(
    law: Law,
    params: Float[np.ndarray, " params"],
    draws: Float[np.ndarray, "draws params"],
    names: tuple[str, ...],
    runs: tuple[int, ...],
    level: float,
) -> tuple[GroupEfficiency, ...]:
    """Factors of every group, and their product: the compute multiplier over the first where C = 6 N D.

    Args:
        law: the grouped law.
        params: its constants.
        draws: the resampled ones.
        names: of the groups, the reference first.
        runs: of each.
        level: of the intervals.
    """
    out = [GroupEfficiency(names[0], runs[0], 1.0, 1.0, 1.0)]
    for number, name in enumerate(names[1:], start=1):
        index = [law.names.index(factor(variable, number)) for variable in "nd"]
        of_draws = draws[:, index]
        ends = lambda values: interval_of(interval(values, level)) if len(values) else None
        out.append(
            GroupEfficiency(
                group=name,
                n_runs=runs[number],
                size=float(params[index[0]]),
                data=float(params[index[1]]),
                compute=float(np.prod(params[index])),
                size_interval=ends(of_draws[:, 0]),
                data_interval=ends(of_draws[:, 1]),
                compute_interval=ends(np.prod(of_draws, axis=1)),
            )
        )
    return tuple(out)


def fit_of_group(fit: FitResult, group: str) -> FitResult:
    """The fit of one group: its law of n and d, with the constants and draws of the whole.

    Args:
        fit: made with ``group=``.
        group: name of the group.

    Raises:
        InputError: the fit has no groups, or none of that name.
    """
    groups = fit.report.groups
    if groups is None:
        raise InputError("the fit has no groups: fit with group=COLUMN", flag="--group=COLUMN")
    names = [entry.group for entry in groups.efficiencies]
    if group not in names:
        raise InputError(f"no group is called '{group}'{nearest(group, names)} (groups: {', '.join(names)})")
    of_group = fit.law.with_inputs_fixed({"group": float(names.index(group))})
    return type(fit)(of_group, fit.report)
