"""Approach 2 (iso-FLOP profiles): minimum of loss over N at each budget, and power laws through the minima."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from laws.approaches.budget_minima import FEWEST_SIZES, IsoflopMinimum, budgets_of, by_size, minima_of
from laws.approaches.loss_profiles import METHODS, cubic_curve, profile_window, shared_skewness
from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.grouping import budget_groups
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.inference.clusters import averaged_evaluations
from laws.inference.noise import interval, seed_deviation


@dataclass(frozen=True, repr=False)
class IsoflopFit:
    """Power laws N* = G C^a and D* = H C^b through the minima.

    Args:
        method: of the curves, one of ``METHODS``.
        a, b: exponents.
        a_interval, b_interval: at ``level``, over draws of run noise.
        log_g, log_h: logs of the coefficients.
        draws: (draws, 4): log G, a, log H and b of every draw, for bands.
        minima: one a budget, used or not.
        noise: standard deviation of the loss between runs that was assumed, in units of the loss.
        noise_from: source of that figure.
        level: nominal coverage of the intervals.
    """

    method: str
    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    log_g: float
    log_h: float
    draws: Float[np.ndarray, "draws 4"]
    minima: tuple[IsoflopMinimum, ...]
    noise: float
    noise_from: str
    level: float

    def __repr__(self) -> str:
        used = sum(minimum.flaw is None for minimum in self.minima)
        return (
            f"<IsoflopFit {self.method}: a = {self.a:.4g} [{self.a_interval[0]:.4g}, {self.a_interval[1]:.4g}] from "
            f"{used} of {len(self.minima)} budgets>"
        )


def _noise(table: Table, group: np.ndarray, config: UncertaintyConfig) -> tuple[float, str]:
    """Standard deviation of the loss of one run, in units of the loss, and where it came from.

    It is pooled over repeated runs where there are any, else over the residuals of cubics in log N whose skewness all
    budgets share.

    Args:
        table: the runs.
        group: number of the budget of each.
        config: settings of approach 2.
    """
    seeds, _ = seed_deviation(table, np.ones(len(table), bool), log=False)
    if seeds is not None:
        return seeds, "repeated runs"
    budgets = [budget for budget in budgets_of(table, group, 0.0, config) if len(budget.losses) >= FEWEST_SIZES]
    log_losses = [np.log(budget.losses)[None] for budget in budgets]
    windows = [
        profile_window(b.log_n, values[0], config, weighted=False)
        for b, values in zip(budgets, log_losses, strict=True)
    ]
    skewness = shared_skewness(windows, [b.log_n for b in budgets], log_losses, [0.0] * len(budgets), config)
    squares, dof = 0.0, -1
    for budget, log_loss, window in zip(budgets, log_losses, windows, strict=True):
        fitted = np.exp(cubic_curve(window, budget.log_n, log_loss, budget.log_n, skewness)[0])
        squares += np.sum((budget.losses - fitted)[window.near] ** 2)
        dof += int(window.near.sum()) - 3
    return float(np.sqrt(squares / max(dof, 1))), "residuals of the profiles"


def _line(log_c, values, weights):
    """Weighted least-squares lines in log C.

    Args:
        log_c: log FLOPs of the budgets.
        values: ordinates (..., budgets).
        weights: of the budgets.

    Returns:
        intercepts and slopes (...).
    """
    total = weights.sum()
    x, y = (weights * log_c).sum() / total, (weights * values).sum(axis=-1) / total
    slope = (weights * (log_c - x) * (values - y[..., None])).sum(axis=-1) / (weights * (log_c - x) ** 2).sum()
    return y - slope * x, slope


def isoflop_profiles(
    table: Table,
    cost: TokenCost | None = None,
    method: str = "cubic",
    noise: float | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> IsoflopFit:
    """Exponents of N*(C) and D*(C) from the best size at every budget.

    The minimum of a curve of log loss against log N is found under many draws of run noise; one at the edge
    of the sizes is rejected; the median minima are joined by a line weighted by one over their variances.

    Args:
        table: runs with n, d and c.
        cost: what a token costs at every size; by default that of the table's compute column.
        method: of the curves, one of ``METHODS``: ``cubic`` (weights that fall with the distance from the minimum, skewness
            shared by all budgets), ``akima`` or ``parabola``.
        noise: standard deviation of the loss between seeds, in its own units; measured from the table by default.
        level: of the intervals.
        draws: of run noise.
        seed: of the draws.
        uncertainty: settings that shape intervals; of approach 2 those that begin with ``isoflop``.

    Raises:
        InputError: fewer than two budgets have an interior minimum.

    Source:
        Hoffmann et al. 2022, arXiv 2203.15556, section 3.2; Porian et al. 2024, arXiv 2406.19146 (Akima interpolation);
        arXiv 2603.22339 (bias of parabolas).

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> c = np.repeat([1e18, 1e19, 1e20], 7)
        >>> n = 0.1 * c**0.5 * np.tile(np.geomspace(0.2, 5, 7), 3)
        >>> loss = 1.7 + 400 / n**0.34 + 410 / (c / (6 * n)) ** 0.34
        >>> table = laws.load(pd.DataFrame({"n": n, "d": c / (6 * n), "c": c, "loss": loss}), n="n", d="d", c="c")
        >>> round(laws.isoflop_profiles(table).a, 2)
        0.5
    """
    table = averaged_evaluations(table.for_columns(("n", "d", "c"), "isoflop"))
    cost = fit_token_cost(table) if cost is None else cost
    if method not in METHODS:
        raise InputError(f"no method is called '{method}' (methods: {', '.join(METHODS)})")
    group = budget_groups(table.values["c"])
    noise, origin = (noise, "given") if noise is not None else _noise(table, group, uncertainty)
    _check_isoflop(table, group, uncertainty)
    minima, log_n_draws = minima_of(table, group, cost, noise, method, level, draws, seed, uncertainty)
    used = [m for m in minima if m.flaw is None]
    if len(used) < 2:
        reasons = "; ".join(f"{m.c:.3g} FLOPs: {m.flaw}" for m in minima[:4] if m.flaw)
        raise InputError(
            f"{table.name}: {len(used)} budgets have an interior minimum, and a line needs two ({reasons})"
        )
    return _join(used, minima, log_n_draws, cost, method, noise, origin, level)


def _check_isoflop(table: Table, group: Int[np.ndarray, " rows"], config: UncertaintyConfig) -> None:
    """Refuses a table whose runs do not share budgets.

    Args:
        table: the runs.
        group: number of the budget of each.
        config: settings of approach 2.

    Raises:
        InputError: too few of them share a budget with enough sizes.
    """
    n_sizes = np.array(
        [len(by_size(table.values["n"][group == g], table.loss[group == g], config)[0]) for g in np.unique(group)]
    )
    share = float(np.mean(n_sizes[group] >= FEWEST_SIZES))
    if share < config.isoflop_budget_share:
        raise InputError(
            f"{table.name}: not an iso-FLOP table: {share:.0%} of its runs share a budget with {FEWEST_SIZES} sizes"
        )


def _join(used, minima, log_n_draws, cost, method, noise, origin, level) -> IsoflopFit:
    """Weighted power laws through the minima, with their draws.

    Args:
        used: minima without a flaw.
        minima: all of them.
        log_n_draws: draws of log N* (draws, used minima).
        cost: training FLOPs a token.
        method: of the curves.
        noise: standard deviation of the loss that was assumed.
        origin: its source.
        level: nominal coverage of the intervals.
    """
    log_c, weights = np.log([m.c for m in used]), 1 / np.array([m.spread for m in used]) ** 2
    log_d_draws = log_c - cost.log_flops_per_token(log_n_draws)
    log_g, a = _line(log_c, np.log([m.n for m in used]), weights)
    log_h, b = _line(log_c, np.log([m.d for m in used]), weights)
    lines = np.stack([*_line(log_c, log_n_draws, weights), *_line(log_c, log_d_draws, weights)], axis=1)
    low, high = interval(lines, level)
    return IsoflopFit(
        method=method,
        a=float(a),
        b=float(b),
        a_interval=(float(low[1]), float(high[1])),
        b_interval=(float(low[3]), float(high[3])),
        log_g=float(log_g),
        log_h=float(log_h),
        draws=lines,
        minima=tuple(minima),
        noise=noise,
        noise_from=origin,
        level=level,
    )
