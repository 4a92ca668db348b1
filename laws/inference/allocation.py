"""The best split of compute between parameters and tokens under a fitted law, and how it moves with compute."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError
from laws.base.x64 import float64
from laws.data.token_cost import TokenCost
from laws.model.law import Law

GRID = 161
MARGIN = 9.0  # log N is searched this far beyond the runs on either side
NEWTON_STEPS = 30
BLOCK = 128  # pairs of constants and a budget that are solved together


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


@functools.lru_cache(maxsize=64)
def _numeric(law: Law, cost: TokenCost):
    """Compiled minimiser of the law along a line of equal compute, one set of constants and one budget at a time."""

    def log_loss(log_n, log_c, params):
        columns = {"n": jnp.exp(log_n), "d": jnp.exp(log_c - cost.log_flops_per_token(log_n)), "c": jnp.exp(log_c)}
        return law.log_value(params, columns)

    slope = jax.grad(log_loss)
    bend = jax.grad(slope)
    drift = jax.grad(slope, argnums=1)

    def solve(params, log_c, low, high):
        grid = jnp.linspace(low, high, GRID)
        at = jax.vmap(log_loss, in_axes=(0, None, None))(grid, log_c, params)
        lowest = jnp.clip(jnp.argmin(at), 1, GRID - 2)
        inside = (at[lowest] <= at[lowest - 1]) & (at[lowest] <= at[lowest + 1]) & (lowest == jnp.argmin(at))
        below, above = grid[lowest - 1], grid[lowest + 1]

        def newton(_, state):
            # Bracketed: where Newton's step leaves the bracket, the middle of it is taken instead.
            log_n, below, above = state
            g = slope(log_n, log_c, params)
            below, above = jnp.where(g < 0, log_n, below), jnp.where(g < 0, above, log_n)
            step = log_n - g / bend(log_n, log_c, params)
            return jnp.where((step > below) & (step < above), step, 0.5 * (below + above)), below, above

        log_n, _, _ = jax.lax.fori_loop(0, NEWTON_STEPS, newton, (grid[lowest], below, above))
        log_d = log_c - cost.log_flops_per_token(log_n)
        exponent = -drift(log_n, log_c, params) / bend(log_n, log_c, params)
        weight_of_n = jax.grad(cost.log_flops_per_token)(log_n)
        out = jnp.stack(
            [
                jnp.exp(log_n),
                jnp.exp(log_d),
                jnp.exp(log_loss(log_n, log_c, params)),
                exponent,
                1 - weight_of_n * exponent,
            ]
        )
        return jnp.where(inside, out, jnp.nan)

    return jax.jit(jax.vmap(solve, in_axes=(0, 0, None, None)))


def _in_blocks(program, params, log_c, low, high) -> Float[np.ndarray, "samples budgets 5"]:
    """All pairs of constants and budgets, in blocks of one size, so that the program is compiled once."""
    samples, budgets = len(params), len(log_c)
    pairs = np.repeat(params, budgets, axis=0), np.tile(log_c, samples)
    found = []
    for first in range(0, samples * budgets, BLOCK):
        rows = np.resize(np.arange(first, min(first + BLOCK, samples * budgets)), BLOCK)
        found.append(np.asarray(program(pairs[0][rows], pairs[1][rows], low, high)))
    return np.concatenate(found)[: samples * budgets].reshape(samples, budgets, 5)


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
    with float64():
        low, high = np.log(n_range[0]) - MARGIN, np.log(n_range[1]) + MARGIN
        out = _in_blocks(_numeric(law, cost), params, np.log(compute), low, high)
    return Allocation(*np.moveaxis(out, -1, 0))


DERIVED = {"a": "a", "b": "b", "n_opt": "n", "d_opt": "d", "loss_opt": "loss"}


def derive(
    law: Law, params: np.ndarray, cost: TokenCost, target: float, n_range: tuple[float, float]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Exponents, compute-optimal size and data, and loss at the target, for each set of constants."""
    found = allocate(law, params, np.array([target]), cost, n_range)
    out = {name: getattr(found, key)[:, 0] for name, key in DERIVED.items()}
    out["tokens_per_param"] = out["d_opt"] / out["n_opt"]
    if not cost.six_nd:
        jsonable = allocate(law, params, np.array([target]), TokenCost(), n_range)
        out |= {"a_6nd": jsonable.a[:, 0], "b_6nd": jsonable.b[:, 0]}
    return out
