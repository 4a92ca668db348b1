"""The best mixture of domains by one law of mixtures a domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from laws.base.errors import FitFailed, InputError
from laws.inference.noise import interval
from laws.results.results import FitResult


@dataclass(frozen=True)
class BestMixture:
    """The mixture whose mean loss over domains is least.

    Args:
        shares: of the domains, in the order of the fits.
        share_intervals: at the level of the first fit, from the resamples of all fits; None without resamples.
        loss: the mean loss there.
        losses: of each domain there.
        level: of the intervals.
    """

    shares: tuple[float, ...]
    share_intervals: tuple[tuple[float, float], ...] | None
    loss: float
    losses: tuple[float, ...]
    level: float


def best_mixture(fits: Sequence[FitResult], weights: Sequence[float] | None = None) -> BestMixture:
    """The shares that make the weighted mean of the losses on all domains least.

    The mean of exponentials of shares is convex, so that what is found is the least there is.

    Args:
        fits: of the law ``mixing_M`` to the loss on each of M domains, in the order of their shares.
        weights: of the domains in the mean; equal by default.

    Raises:
        InputError: the fits are not of that law, or the weights do not suit them.
        FitFailed: the search did not converge.

    Source:
        Ye et al. 2024, arXiv 2403.16952: the law of each domain, summed by known proportions of the validation set.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> r, noise = np.linspace(0, 1, 9), 1e-4 * np.random.default_rng(0).standard_normal((2, 9))
        >>> code, prose = 1 + np.exp(-2 * r) + noise[0], 1 + np.exp(2 * r - 2) + noise[1]
        >>> runs = pd.DataFrame({"r": r, "code": code, "prose": prose})
        >>> fit = lambda name: laws.load(runs, loss=name, columns={"share_1": "r"}).fit("mixing_2", resamples=20)
        >>> [round(share, 1) for share in laws.best_mixture([fit("code"), fit("prose")]).shares]
        [0.5, 0.5]
    """
    count = len(fits)
    if count < 2 or any(fit.report.law != f"mixing_{count}" for fit in fits):
        raise InputError(
            f"the best of {count} domains wants as many fits of the law mixing_{max(count, 2)}, one a domain"
        )
    parts = np.full(count, 1.0) if weights is None else np.asarray(weights, float)
    if parts.shape != (count,) or not (parts >= 0).all() or not parts.sum() > 0:
        raise InputError(f"weights: {count} numbers from 0 are wanted, not all zero")
    parts = parts / parts.sum()
    constants = [_constants(fit.report.params, count) for fit in fits]
    shares = _minimum(np.array(constants), parts)
    losses = _losses(np.array(constants), shares)
    level = fits[0].report.intervals.level
    ends = None
    draws = min(len(next(iter(fit.report.samples.values()), ())) for fit in fits)
    if draws:
        samples = [
            [_constants({name: values[i] for name, values in fit.report.samples.items()}, count) for fit in fits]
            for i in range(draws)
        ]
        low, high = interval(np.array([_minimum(np.array(sample), parts) for sample in samples]), level)
        ends = tuple(zip(map(float, low), map(float, high), strict=True))
    return BestMixture(tuple(map(float, shares)), ends, float(parts @ losses), tuple(map(float, losses)), level)


def _constants(params: Mapping[str, float], count: int) -> list[float]:
    """c, k and the coefficients of all domains, the last of which is zero."""
    return [params["c"], params["k"], *(params[f"t_{j}"] for j in range(1, count)), 0.0]


def _losses(constants: Float[np.ndarray, "domains constants"], shares: Float[np.ndarray, " domains"]) -> np.ndarray:
    return constants[:, 0] + constants[:, 1] * np.exp(constants[:, 2:] @ shares)


def _minimum(constants: Float[np.ndarray, "domains constants"], parts: Float[np.ndarray, " domains"]) -> np.ndarray:
    """The shares of the least mean loss.

    Raises:
        FitFailed: the search did not converge.
    """
    reducible = parts * constants[:, 1]

    def mean(shares: np.ndarray) -> tuple[float, np.ndarray]:
        terms = reducible * np.exp(constants[:, 2:] @ shares)
        return terms.sum(), terms @ constants[:, 2:]

    count = len(parts)
    on_simplex = {"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": lambda shares: np.ones(count)}
    found = minimize(
        mean, np.full(count, 1 / count), jac=True, method="SLSQP", bounds=[(0, 1)] * count, constraints=[on_simplex],
        options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    if not found.success:
        raise FitFailed(f"the best mixture was not found ({found.message})")
    return np.clip(found.x, 0, 1)
