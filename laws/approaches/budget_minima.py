"""Minimum of loss over N at each budget, with draws under run noise."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from laws.approaches.loss_profiles import (
    ProfileWindow,
    akima_curve,
    cubic_curve,
    profile_window,
    shared_skewness,
)
from laws.base.uncertainty_config import UncertaintyConfig
from laws.data.table import Table
from laws.data.token_cost import TokenCost
from laws.inference.noise import interval

# What shapes intervals stands in UncertaintyConfig; these are the least that identifies a minimum, and numerical.
FEWEST_SIZES = 4  # sizes a budget: a parabola passes through any three
GRID_PER_SIZE = 25  # numerical: points of the interpolation between neighbouring sizes
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


def by_size(n: Float[np.ndarray, " rows"], loss: Float[np.ndarray, " rows"], config: UncertaintyConfig):
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


class SizesOfBudget(NamedTuple):
    """The runs of one budget with enough sizes.

    Args:
        c: training FLOPs.
        log_n: log parameters of its sizes.
        losses: mean loss of each.
        noise: standard deviation of each of these means.
    """

    c: float
    log_n: Float[np.ndarray, " sizes"]
    losses: Float[np.ndarray, " sizes"]
    noise: Float[np.ndarray, " sizes"]

    @property
    def log_noise(self) -> float:
        """Noise of one size relative to its loss; mean square over the sizes."""
        return float(np.sqrt(np.mean((self.noise / self.losses) ** 2)))


class _Profiles(NamedTuple):
    """Curves of log loss in log N at every budget.

    Args:
        method: one of ``METHODS``.
        windows: the sizes near each minimum and their weights.
        skewness: what the cubics of all budgets share, of the measured losses and then of every draw; zeros else.
    """

    method: str
    windows: list[ProfileWindow]
    skewness: Float[np.ndarray, " 1+draws"]

    def grid(self, number: int, log_n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " grid"]:
        """Log parameters at which the minimum of a budget is looked for: no curve goes beyond the sizes it describes."""
        sizes = log_n if self.method == "akima" else log_n[self.windows[number].near]
        return np.linspace(sizes[0], sizes[-1], (len(sizes) - 1) * GRID_PER_SIZE)

    def curves(self, number: int, log_n, log_losses, grid) -> Float[np.ndarray, "1+draws grid"]:
        """Log losses of a budget on its grid, measured ones first, then every draw.

        Args:
            number: of the budget.
            log_n: log parameters of its sizes.
            log_losses: their log losses, measured and drawn.
            grid: log parameters.
        """
        if self.method == "akima":
            return akima_curve(log_n, log_losses, grid)
        return cubic_curve(self.windows[number], log_n, log_losses, grid, self.skewness)


def _profiles(
    budgets: list[SizesOfBudget], log_losses: list[np.ndarray], method: str, config: UncertaintyConfig
) -> _Profiles:
    """What the curves of all budgets need of each other.

    Args:
        budgets: with their sizes.
        log_losses: log losses of each, measured ones first, then every draw.
        method: one of ``METHODS``.
        config: settings of approach 2.
    """
    log_n = [budget.log_n for budget in budgets]
    windows = [
        profile_window(budget.log_n, np.log(budget.losses), config, weighted=method == "cubic") for budget in budgets
    ]
    skewness = np.zeros(len(log_losses[0]) if log_losses else 0)
    if method == "cubic" and budgets:
        noise = [budget.log_noise for budget in budgets]
        skewness = shared_skewness(windows, log_n, log_losses, noise, config)
    return _Profiles(method, windows, skewness)


def _minimum(
    budget: SizesOfBudget,
    grid: Float[np.ndarray, " grid"],
    curves: Float[np.ndarray, "1+draws grid"],
    level: float,
    rng: np.random.Generator,
    config: UncertaintyConfig,
) -> tuple[IsoflopMinimum, Float[np.ndarray, " draws"]]:
    """The minimum of one budget, and draws of log N* under run noise; none where it has a flaw.

    Args:
        budget: its runs.
        grid: log parameters.
        curves: log losses there, of the measured losses and of every draw of noise.
        level: nominal coverage of the interval of N*.
        rng: of the draws that stand for those without a minimum.
        config: settings of approach 2.
    """
    minimum = IsoflopMinimum(budget.c, np.exp(budget.log_n), budget.losses)
    lowest_index, *_ = lowest = curves.argmin(axis=1)
    if lowest_index in (0, len(grid) - 1):
        flaw = MinimumFlaw.AT_SMALLEST if lowest_index == 0 else MinimumFlaw.AT_LARGEST
        return replace(minimum, flaw=flaw), np.empty(0)
    lowest, curves = lowest[1:], curves[1:]
    inside = (lowest > 0) & (lowest < len(grid) - 1)
    if inside.mean() < config.least_defined_share:
        return replace(minimum, flaw=MinimumFlaw.NOISY_EDGE), np.empty(0)
    log_n_draws, loss_draws = _vertices(grid, curves[inside], lowest[inside])
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
    return minimum, rng.choice(log_n_draws, len(lowest))


def _vertices(grid, curves, lowest) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Log N and loss of minima between grid points, by the parabola through the lowest point and its neighbours.

    Args:
        grid: log parameters, equally spaced.
        curves: log losses there (draws, grid).
        lowest: index of the lowest point of each, inside the grid.
    """
    rows = np.arange(len(curves))
    before, at_lowest, after = (curves[rows, lowest + step] for step in (-1, 0, 1))
    bend = np.maximum(before - 2 * at_lowest + after, np.finfo(float).tiny)
    shift = np.clip((before - after) / (2 * bend), -0.5, 0.5)
    return grid[lowest] + shift * (grid[1] - grid[0]), np.exp(at_lowest - bend * shift**2 / 2)


def minima_of(
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
        method: of the curves, one of ``METHODS``.
        level: of the intervals.
        draws: of run noise.
        seed: of the draws.
        config: settings of approach 2.
    """
    rng = np.random.default_rng(seed)
    budgets = budgets_of(table, group, noise, config)
    usable = [budget for budget in budgets if len(budget.losses) >= FEWEST_SIZES]
    log_losses = [_with_noise(budget, draws, rng) for budget in usable]
    profiles = _profiles(usable, log_losses, method, config)
    minima, log_n_draws = {}, []
    for number, (budget, log_loss) in enumerate(zip(usable, log_losses, strict=True)):
        grid = profiles.grid(number, budget.log_n)
        curves = profiles.curves(number, budget.log_n, log_loss, grid)
        minimum, draws_of_budget = _minimum(budget, grid, curves, level, rng, config)
        if minimum.flaw is None:
            minimum = replace(minimum, d=float(budget.c / np.exp(cost.log_flops_per_token(np.log(minimum.n)))))
            log_n_draws.append(draws_of_budget)
        minima[budget.c] = minimum
    too_few = lambda budget: IsoflopMinimum(budget.c, np.exp(budget.log_n), budget.losses, flaw=MinimumFlaw.FEW_SIZES)
    return [minima.get(budget.c) or too_few(budget) for budget in budgets], np.array(log_n_draws).T


def budgets_of(table: Table, group: np.ndarray, noise: float, config: UncertaintyConfig) -> list[SizesOfBudget]:
    """The runs of every budget, by rising compute.

    Args:
        table: the runs.
        group: number of the budget of each.
        noise: standard deviation of the loss of one run.
        config: tells when two sizes are one.
    """
    budgets = []
    for number in range(group.max() + 1):
        rows = group == number
        sizes, losses, counts = by_size(table.values["n"][rows], table.loss[rows], config)
        c = float(np.median(table.values["c"][rows]))
        budgets.append(SizesOfBudget(c, np.log(sizes), losses, noise / np.sqrt(counts)))
    return budgets


def _with_noise(budget: SizesOfBudget, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "1+draws sizes"]:
    """Log losses of a budget as they were measured, and with draws of run noise added."""
    noisy = budget.losses + budget.noise * rng.standard_normal((draws, len(budget.losses)))
    return np.log(np.r_[budget.losses[None], np.maximum(noisy, LEAST_LOSS * budget.losses)])
