"""The best split of compute between parameters and tokens under a fitted law, and how it moves with compute."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from laws.base.array_math import exp, log
from laws.base.differentiate import second_order
from laws.base.errors import InputError
from laws.base.hyperdual import HyperDual, variables
from laws.base.x64 import float64
from laws.data.token_cost import TokenCost
from laws.model.law import Law

# Numerical: how finely and how far an optimum is searched for; one beyond e^9 times the runs is none that could be meant.
GRID = 161
MARGIN = 9.0  # log N is searched this far beyond the runs on either side
NEWTON_STEPS = 30  # at most
SETTLED = 1e-9  # movement of log N after which Newton's next step, of its square, would be lost in rounding
CELLS = 12_000  # points of grids that are evaluated together


@dataclass(frozen=True)
class Allocation:
    """Compute-optimal sizes under one or many sets of constants.

    Args:
        n, d, loss: parameters, tokens and loss at the optimum; NaN where the law has none in reach.
        a, b: local exponents of N*(C) and D*(C).
    """

    n: Float[np.ndarray, "samples budgets"]
    d: Float[np.ndarray, "samples budgets"]
    loss: Float[np.ndarray, "samples budgets"]
    a: Float[np.ndarray, "samples budgets"]
    b: Float[np.ndarray, "samples budgets"]


Pairs = Float[np.ndarray, " pairs"]  # one number for each pair of a set of constants and a budget


def _log_loss(law: Law, cost: TokenCost, log_n, log_c, constants):
    """Log of the loss on a line of equal compute: log N and log C decide over N and D."""
    log_d = log_c - cost.log_flops_per_token(log_n)
    return log(law.value(constants, {"n": exp(log_n), "d": exp(log_d), "c": exp(log_c)}))


@functools.lru_cache(maxsize=64)
def _differentiated(law: Law, cost: TokenCost) -> Callable[..., HyperDual]:
    """The log of the loss with its derivatives in log N (0) and log C (1); what JAX compiled for it is kept."""
    return second_order(lambda logs, constants, _: _log_loss(law, cost, logs[0], logs[1], constants))


def _lowest_on_grid(
    law: Law, cost: TokenCost, params: Float[np.ndarray, "pairs params"], log_c: Pairs, grid: Float[np.ndarray, " grid"]
) -> tuple[Int[np.ndarray, " pairs"], Bool[np.ndarray, " pairs"]]:
    """Where on a grid of log N the loss is lowest, and whether that is a minimum inside it."""
    lowest, is_minimum = np.empty(len(params), int), np.empty(len(params), bool)
    step = max(1, CELLS // len(grid))
    for start in range(0, len(params), step):
        block = slice(start, start + step)
        constants = law.constants(params[block, None])
        loss = np.asarray(_log_loss(law, cost, grid[None], log_c[block, None], constants))
        lowest[block] = np.clip(loss.argmin(axis=1), 1, len(grid) - 2)
        around = np.take_along_axis(loss, lowest[block, None] + np.arange(-1, 2), axis=1)
        is_minimum[block] = (around[:, 1:2] <= around).all(axis=1) & (loss.argmin(axis=1) == lowest[block])
    return lowest, is_minimum


def _minimum(
    law: Law, cost: TokenCost, params: Float[np.ndarray, "pairs params"], log_c: Pairs, low: float, high: float
) -> Float[np.ndarray, "pairs 5"]:
    """Numeric minima along lines of equal compute, by bracketed Newton steps from the lowest point of a grid.

    Returns:
        the fields of ``Allocation``; NaN where the law has no minimum inside the range of log N.
    """
    grid = np.linspace(low, high, GRID)
    lowest, is_minimum = _lowest_on_grid(law, cost, params, log_c, grid)
    log_n, below, above = grid[lowest], grid[lowest - 1], grid[lowest + 1]
    constants, evaluate = law.constants(params), _differentiated(law, cost)
    for _ in range(NEWTON_STEPS):
        evaluated = evaluate([log_n, log_c], constants)
        slope, curvature = evaluated.first[0], evaluated.second[0, 0]
        below, above = np.where(slope < 0, log_n, below), np.where(slope < 0, above, log_n)
        newton = log_n - slope / curvature
        # A step too small to move log N stays: halving would lead away from the minimum, and the search would not end.
        following = np.where((newton >= below) & (newton <= above), newton, 0.5 * (below + above))
        moved, log_n = np.abs(following - log_n), following
        if not (moved > SETTLED).any():
            break
    evaluated = evaluate([log_n, log_c], constants)
    a = -evaluated.second[0, 1] / evaluated.second[0, 0]
    per_token: Any = cost.log_flops_per_token(variables([log_n])[0])  # type: ignore[arg-type]
    out = [np.exp(log_n), np.exp(log_c - per_token.value), np.exp(evaluated.value), a, 1 - per_token.first[0] * a]
    return np.where(is_minimum[:, None], np.stack(out, axis=1), np.nan)


def allocate(
    law: Law,
    params: Float[np.ndarray, "samples params"],
    compute: Float[np.ndarray, " budgets"],
    cost: TokenCost,
    n_range: tuple[float, float],
) -> Allocation:
    """Compute-optimal N and D at given FLOPs, in closed form for C = 6 N D where the law has one, else numerically.

    Args:
        law: a law of N and D.
        params: sets of constants.
        compute: training FLOPs.
        cost: what a token costs at every size.
        n_range: smallest and largest N of the runs, from where the search goes outwards.

    Raises:
        InputError: the law does not trade N against D.
    """
    if not law.has_compute_optimum:
        others = sorted(set(law.needed) - {"n", "d", "c"})
        hint = f" (give it {' and '.join(others)} as well)" if others and {"n", "d"} <= set(law.needed) else ""
        raise InputError(
            f"law '{law.name}' is not of the loss by n and d alone, so it has no compute-optimal split{hint}"
        )
    params, compute = np.asarray(params, np.float64), np.asarray(compute, np.float64)
    if cost.six_nd and law.optimal_n is not None and law.exponents is not None:
        with float64(), np.errstate(all="ignore"):  # resamples without one of the terms have no split: not finite
            p = {name: constant[:, None] for name, constant in law.constants(params).items()}
            n = law.optimal_n(p, compute[None, :])
            d = compute / (6 * n)
            a, b = (exponent + 0 * n for exponent in law.exponents(p))
            loss = law.value(p, {"n": n, "d": d, "c": compute[None, :] + 0 * n})
            good = np.isfinite(n) & (n > 0) & np.isfinite(d)
            return Allocation(*(np.where(good, array, np.nan) for array in (n, d, loss, a, b)))
    low, high = np.log(n_range[0]) - MARGIN, np.log(n_range[1]) + MARGIN
    pairs = np.repeat(params, len(compute), axis=0), np.tile(np.log(compute), len(params))
    with float64(), np.errstate(all="ignore"):
        out = _minimum(law, cost, *pairs, low, high).reshape(len(params), len(compute), 5)
    return Allocation(*np.moveaxis(out, -1, 0))


DERIVED = {"a": "a", "b": "b", "n_opt": "n", "d_opt": "d", "loss_opt": "loss"}


def derive(
    law: Law, params: np.ndarray, cost: TokenCost, target: float, n_range: tuple[float, float]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Exponents, compute-optimal size and data, and loss at a target compute, for each set of constants.

    Args:
        law: a law of N and D.
        params: sets of constants, natural units.
        cost: what a token costs at every size.
        target: training FLOPs.
        n_range: smallest and largest N of the runs.

    Returns:
        ``a``, ``b``, ``n_opt``, ``d_opt``, ``loss_opt`` and ``tokens_per_param``; ``a_6nd`` and ``b_6nd``, the exponents
        for C = 6 N D, where the cost is another. NaN where there is no optimum.
    """
    allocation = allocate(law, params, np.array([target]), cost, n_range)
    out = {name: getattr(allocation, key)[:, 0] for name, key in DERIVED.items()}
    out["tokens_per_param"] = out["d_opt"] / out["n_opt"]
    if not cost.six_nd:
        closed = allocate(law, params, np.array([target]), TokenCost(), n_range)
        out |= {"a_6nd": closed.a[:, 0], "b_6nd": closed.b[:, 0]}
    return out
