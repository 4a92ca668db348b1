"""How far the answer moves with what the runs do not decide: objective, outliers, budgets, form, conventions of N and C."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from laws.base.errors import FitFailed, InputError
from laws.data.grouping import budget_groups
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.estimation.estimate import PointEstimate, estimate, weights_of
from laws.inference.allocation import derive
from laws.model.forms import LAWS
from laws.model.law import Law
from laws.results.results import FitResult

OBJECTIVES = (("log_huber", 1e-4), ("log_huber", 1e-3), ("log_huber", 1e-2), ("log_squared", 1e-3))
OUTLIERS = 0.02  # share of the runs that an outlier rule leaves out
# Conventions of N and C that a collected table holds; the last is the one of Kaplan et al. 2020.
CONVENTIONS: tuple[dict[str, str], ...] = (
    {"n": "params_non_embedding"},
    {"c": "flops_exact_causal"},
    {"c": "flops_6nd"},
    {"n": "params_non_embedding", "c": "flops_6nd_non_embedding"},
)


def sensitivity(fitted: FitResult, table: Table, reload: Callable[..., Table]) -> list[dict[str, Any]]:
    """The fit again under every other choice; what it says of the target then.

    Args:
        fitted: the fit, of a law of N and D.
        table: its table.
        reload: reads the table with other columns, given by variable.

    Returns:
        one row a choice: ``kind``, ``choice``, ``a``, ``n`` and ``d`` (the best split of the target, in the choice's own
        conventions) and ``loss``; or ``reason`` where the choice has no fit. The fit as it is comes first.

    Raises:
        InputError: the law does not trade N against D.
    """
    law, report = fitted.law, fitted.report
    if not law.has_compute_optimum:
        raise InputError(f"--sensitivity: law '{law.name}' is not a law of both n and d, so it has no optimum to move")
    table = table.for_law(law)
    name, delta = report["objective"]["name"], report["objective"]["delta"]
    point, constants = report["derived"], np.array([fitted.params[name] for name in law.names])
    kept = np.ones(len(table), bool)
    if report["holdout"]:
        kept = ~table.above_budget(report["holdout"]["above"])
    weight = weights_of(table, kept, name)
    miss = np.abs(np.log(table.loss) - law.log_value(constants, table.values))

    def row(
        kind: str,
        choice: str,
        law: Law = law,
        table: Table = table,
        weight=weight,
        rho: tuple[str, float] = (name, delta),
    ):
        out: dict[str, Any] = {"kind": kind, "choice": choice}
        try:
            found = estimate(law, table, rho[0], rho[1], weight)
        except (InputError, FitFailed) as error:
            return out | {"reason": str(error)}
        cost = predictor.cost if table is own else fit_token_cost(table.take(kept))
        target = _same_target(point, own.values["n"], table.values["n"], cost)
        return out | _answer(found, cost, target, table, weight)

    own, predictor = table, fitted.predictor
    rows = [row("as fitted", law.name)]
    rows += [row("objective", _said(*rho), rho=rho) for rho in OBJECTIVES if rho != (name, delta)]
    rows += [row("left out", said, weight=weight * left) for said, left in _left_out(table, weight, miss)]
    rows += [row("form", form.name, law=form) for form in _forms(law)]
    for columns in CONVENTIONS:
        changed = {variable: column for variable, column in columns.items() if table.columns.get(variable) != column}
        if changed and all(column in table.header for column in changed.values()):
            said = ", ".join(f"{variable} = {column}" for variable, column in changed.items())
            rows.append(row("convention", said, table=_same_rows(reload(**changed), table)))
    return rows


def _same_rows(other: Table, table: Table) -> Table:
    """The rows of another reading of the file that stand in a table."""
    return other.take(np.isin(other.row, table.row))


def _said(objective: str, delta: float) -> str:
    return f"{objective}, delta {delta:g}" if "huber" in objective else objective


def _left_out(table: Table, weight: np.ndarray, miss: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Rules that leave runs out, and what they leave."""
    used = np.flatnonzero(weight > 0)
    count = int(np.ceil(OUTLIERS * len(used)))
    for said, order in (("worst-fitted", -miss), ("highest losses", -table.loss)):
        kept = np.ones(len(table))
        kept[used[np.argsort(order[used], kind="stable")[:count]]] = 0
        yield f"the {count} {said}", kept
    group = budget_groups(table.values["c"])
    present = np.unique(group[used])
    if len(present) > 2:
        for said, one in (("the lowest budget", present[0]), ("the highest budget", present[-1])):
            yield said, (group != one).astype(float)


def _forms(law: Law) -> list[Law]:
    """Other laws of N and D alone."""
    return [other for other in LAWS.values() if other.has_compute_optimum and not other.optional and other != law]


def _same_target(point: dict[str, float], own: np.ndarray, other: np.ndarray, cost: TokenCost) -> float:
    """The FLOPs of the fit's own best run in other conventions, whose sizes of the same runs are ``other``."""
    order = np.argsort(own)
    own, other, at = np.log(own[order]), np.log(other[order]), np.log(point["n_opt"])
    inside = np.clip(at, own[0], own[-1])
    log_n = np.interp(inside, own, other) + np.polyfit(own, other, 1)[0] * (at - inside)
    return float(point["d_opt"] * np.exp(cost.log_flops_per_token(log_n)))


def _answer(found: PointEstimate, cost: TokenCost, target: float, table: Table, weight: np.ndarray) -> dict[str, Any]:
    sizes = table.values["n"][weight > 0]
    at = derive(found.law, found.params[None], cost, target, (float(sizes.min()), float(sizes.max())))
    if not np.isfinite(at["n_opt"][0]):
        return {"reason": f"no compute-optimal size at {target:.4g} FLOPs"}
    said = {"a": "a", "n": "n_opt", "d": "d_opt", "loss": "loss_opt"}
    return {"c": target, "runs": int((weight > 0).sum())} | {key: float(at[name][0]) for key, name in said.items()}
