"""Approach 2 (iso-FLOP profiles): minimum of loss over N at each budget, and power laws through the minima."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data.grouping import budget_groups
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.inference.clusters import averaged_evaluations
from laws.inference.noise import interval, seed_deviation

# What shapes intervals stands in UncertaintyConfig; these are the least that identifies a minimum, and numerical.
FEWEST_SIZES = 4  # sizes a budget: a parabola passes through any three
GRID_PER_SIZE = 25  # numerical: points of the interpolation between neighbouring sizes, the resolution of N*
METHODS = ("akima", "parabola")  # interpolations of log loss in log N
LEAST_LOSS = 1e-3  # numerical: least noisy loss over the measured one, so that its logarithm exists


class MinimumFlaw(StrEnum):
    """Why a budget has no minimum that can be used."""

    FEW_SIZES = f"fewer than {FEWEST_SIZES} sizes"
    AT_SMALLEST = "the minimum is at the smallest size"
    AT_LARGEST = "the minimum is at the largest size"
    NOISY_EDGE = "the minimum reaches the edge under the noise"


@dataclass(frozen=True)
class IsoflopMinimum:
    """The minimum of loss over sizes at one budget.

    Args:
        c: training FLOPs of the budget.
        sizes, losses: parameters and loss of the runs, seeds averaged.
        n, d, loss: parameters, tokens and loss of the minimum; medians over the draws of noise.
        spread: standard deviation of log N*; the power law weighs the minimum by one over its square.
        low, high: interval of N*.
        flaw: why the minimum is not used, or None.
    """

    c: float
    sizes: Float[np.ndarray, " sizes"]
    losses: Float[np.ndarray, " sizes"]
    n: float = np.nan
    d: float = np.nan
    loss: float = np.nan
    spread: float = np.nan
    low: float = np.nan
    high: float = np.nan
    flaw: MinimumFlaw | None = None


@dataclass(frozen=True, repr=False)
class IsoflopFit:
    """Power laws N* = G C^a and D* = H C^b through the minima.

    Args:
        method: interpolation, one of ``METHODS``.
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


def _by_size(n: Float[np.ndarray, " rows"], loss: Float[np.ndarray, " rows"], config: UncertaintyConfig):
    """Distinct sizes of the runs of a budget, rising.

    Args:
        n: parameters of the runs.
        loss: their losses.
        config: its ``isoflop_same_size`` tells when two sizes are one.

    Returns:
        geometric mean of the parameters, mean loss and number of runs of each size.
    """
    order = np.argsort(n, kind="stable")
    n, loss = n[order], loss[order]
    size_of_row = np.cumsum(np.r_[0, np.diff(np.log(n)) > config.isoflop_same_size])
    counts = np.bincount(size_of_row)
    return np.exp(np.bincount(size_of_row, np.log(n)) / counts), np.bincount(size_of_row, loss) / counts, counts


def _near(log_loss: Float[np.ndarray, " sizes"], config: UncertaintyConfig):
    """Whether each size is close enough to the lowest loss for a parabola to describe it."""
    nth = np.sort(log_loss)[min(config.isoflop_least_near, len(log_loss)) - 1]
    return log_loss <= max(nth, log_loss.min() + np.log1p(config.isoflop_near))


def _curve(log_n, log_loss, grid, method: str, config: UncertaintyConfig) -> Float[np.ndarray, "draws grid"]:
    """Log loss interpolated on a grid of log N, for many draws of the losses at once.

    Args:
        log_n: log parameters (sizes).
        log_loss: log losses (draws, sizes).
        grid: log parameters at which it is interpolated.
        method: one of ``METHODS``.
        config: tells the sizes that a parabola is fitted to.
    """
    if method == "akima":
        from scipy.interpolate import Akima1DInterpolator

        return Akima1DInterpolator(log_n, log_loss.T)(grid).T
    near = _near(log_loss.mean(axis=0), config)
    log_n, log_loss, centre = log_n[near], log_loss[:, near], log_n[near].mean()
    design = np.stack([np.ones_like(log_n), log_n - centre, (log_n - centre) ** 2])
    coefficients = np.linalg.lstsq(design.T, log_loss.T, rcond=None)[0]
    return coefficients.T @ np.stack([np.ones_like(grid), grid - centre, (grid - centre) ** 2])


def _minimum(
    c, n, loss, noise, method, level, draws, rng, config: UncertaintyConfig
) -> tuple[IsoflopMinimum, Float[np.ndarray, " draws"]]:
    """The minimum of one budget, and draws of log N* under run noise; none where it has a flaw.

    Args:
        c: training FLOPs of the budget.
        n: parameters of its runs.
        loss: their losses.
        noise: standard deviation of the loss of one run, in units of the loss.
        method: one of ``METHODS``.
        level: nominal coverage of the interval of N*.
        draws: of run noise.
        rng: of the draws.
        config: settings of approach 2.
    """
    sizes, losses, counts = _by_size(n, loss, config)
    minimum = IsoflopMinimum(c, sizes, losses)
    log_n = np.log(sizes)
    grid = np.linspace(log_n[0], log_n[-1], (len(sizes) - 1) * GRID_PER_SIZE)
    if method == "parabola":  # a parabola is not extrapolated beyond the sizes that it was fitted to
        near = log_n[_near(np.log(losses), config)]
        grid = np.linspace(near[0], near[-1], (len(near) - 1) * GRID_PER_SIZE)
    lowest_index = int(np.argmin(_curve(log_n, np.log(losses)[None], grid, method, config)[0]))
    if lowest_index in (0, len(grid) - 1):
        flaw = MinimumFlaw.AT_SMALLEST if lowest_index == 0 else MinimumFlaw.AT_LARGEST
        return replace(minimum, flaw=flaw), np.empty(0)
    noisy = losses + noise / np.sqrt(counts) * rng.standard_normal((draws, len(losses)))
    curves = _curve(log_n, np.log(np.maximum(noisy, LEAST_LOSS * losses)), grid, method, config)
    lowest = curves.argmin(axis=1)
    inside = (lowest > 0) & (lowest < len(grid) - 1)
    if inside.mean() < config.least_defined_share:
        return replace(minimum, flaw=MinimumFlaw.NOISY_EDGE), np.empty(0)
    log_n_draws, loss_draws = grid[lowest[inside]], np.exp(curves[inside, lowest[inside]])
    least_spread = config.isoflop_least_spread * GRID_PER_SIZE * (grid[1] - grid[0])
    low, high = interval(np.exp(log_n_draws), level)
    minimum = replace(
        minimum,
        n=float(np.exp(np.median(log_n_draws))),
        loss=float(np.median(loss_draws)),
        spread=float(max(log_n_draws.std(), least_spread) / inside.mean()),
        low=float(low),
        high=float(high),
    )
    return minimum, rng.choice(log_n_draws, draws)


def _noise(table: Table, group: np.ndarray, config: UncertaintyConfig) -> tuple[float, str]:
    """Standard deviation of the loss of one run, in units of the loss, and where it came from.

    It is pooled over repeated runs where there are any, else over the residuals of a parabola in log N at each budget.

    Args:
        table: the runs.
        group: number of the budget of each.
        config: settings of approach 2.
    """
    seeds, _ = seed_deviation(table, np.ones(len(table), bool), log=False)
    if seeds is not None:
        return seeds, "repeated runs"
    squares, dof = 0.0, 0
    for number in np.unique(group):
        sizes, losses, _ = _by_size(table.values["n"][group == number], table.loss[group == number], config)
        near = _near(np.log(losses), config)
        if near.sum() > 3:
            parabola = np.exp(_curve(np.log(sizes), np.log(losses)[None], np.log(sizes), "parabola", config)[0])
            squares, dof = squares + np.sum((losses - parabola)[near] ** 2), dof + int(near.sum()) - 3
    return float(np.sqrt(squares / max(dof, 1))), "residuals of the parabolas"


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
    method: str = "akima",
    noise: float | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
) -> IsoflopFit:
    """Exponents of N*(C) and D*(C) from the best size at every budget.

    The minimum of an interpolation of log loss against log N is found under many draws of run noise; one at the edge
    of the sizes is rejected; the median minima are joined by a line weighted by one over their variances.

    Args:
        table: runs with n, d and c.
        cost: what a token costs at every size; by default that of the table's compute column.
        method: ``akima`` or ``parabola``.
        noise: standard deviation of the loss between seeds, in its own units; measured from the table by default.
        level: of the intervals.
        draws: of run noise.
        seed: of the draws.
        uncertainty: settings that shape intervals; of approach 2 those that begin with ``isoflop``.

    Raises:
        InputError: fewer than two budgets have an interior minimum.

    Source:
        Hoffmann et al. 2022, arXiv 2203.15556, section 3.2; Porian et al. 2024, arXiv 2406.19146 (Akima interpolation).

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
    minima, log_n_draws = _minima(table, group, cost, noise, method, level, draws, seed, uncertainty)
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
        [len(_by_size(table.values["n"][group == g], table.loss[group == g], config)[0]) for g in np.unique(group)]
    )
    share = float(np.mean(n_sizes[group] >= FEWEST_SIZES))
    if share < config.isoflop_budget_share:
        raise InputError(
            f"{table.name}: not an iso-FLOP table: {share:.0%} of its runs share a budget with {FEWEST_SIZES} sizes"
        )


def _minima(
    table: Table,
    group: Int[np.ndarray, " rows"],
    cost: TokenCost,
    noise: float,
    method: str,
    level: float,
    draws: int,
    seed: int,
    config: UncertaintyConfig,
) -> tuple[list[IsoflopMinimum], Float[np.ndarray, "draws minima"]]:
    """The best size of every budget, and draws of log N* of those without a flaw.

    Args:
        table: the runs.
        group: number of the budget of each.
        cost: training FLOPs a token.
        noise: standard deviation of the loss between runs.
        method: interpolation, one of ``METHODS``.
        level: of the intervals.
        draws: of run noise.
        seed: of the draws.
        config: settings of approach 2.
    """
    rng = np.random.default_rng(seed)
    minima, log_n_draws = [], []
    for number in range(group.max() + 1):
        rows = group == number
        n, loss, c = table.values["n"][rows], table.loss[rows], float(np.median(table.values["c"][rows]))
        sizes, losses, _ = _by_size(n, loss, config)
        if len(sizes) < FEWEST_SIZES:
            minima.append(IsoflopMinimum(c, sizes, losses, flaw=MinimumFlaw.FEW_SIZES))
            continue
        minimum, draws_of_budget = _minimum(c, n, loss, noise, method, level, draws, rng, config)
        if minimum.flaw is None:
            minimum = replace(minimum, d=float(c / np.exp(cost.log_flops_per_token(np.log(minimum.n)))))
            log_n_draws.append(draws_of_budget)
        minima.append(minimum)
    return minima, np.array(log_n_draws).T


def _join(used, minima, log_n_draws, cost, method, noise, origin, level) -> IsoflopFit:
    """Weighted power laws through the minima, with their draws.

    Args:
        used: minima without a flaw.
        minima: all of them.
        log_n_draws: draws of log N* (draws, used minima).
        cost: training FLOPs a token.
        method: interpolation.
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
