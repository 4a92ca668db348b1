"""The cheapest model of a given quality once its use is counted: trained longer and smaller than compute-optimal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import FitFailed, InputError
from laws.model.law import Law

LOG_N = np.linspace(np.log(1e2), np.log(1e16), 600)  # sizes among which the cheapest is looked for first
LOG_D = (0.0, np.log(1e24))
HALVINGS = 100


@dataclass(frozen=True)
class CheapestModel:
    """A model that reaches a loss at the least cost.

    Args:
        n, d: parameters and training tokens.
        training, use: FLOPs of each, 6 N D and 2 N for every token of use.
    """

    n: float
    d: float
    training: float
    use: float


def tokens_for(
    law: Law, constants: Mapping[str, float], loss: float, log_n: Float[np.ndarray, " sizes"]
) -> Float[np.ndarray, " sizes"]:
    """Log of the training tokens at which each size reaches a loss; infinite where none is enough."""
    low, high = (np.full(np.shape(log_n), end) for end in LOG_D)
    n = np.exp(log_n)

    def above(log_d):
        d = np.exp(log_d)
        return np.asarray(law.value(constants, {"n": n, "d": d, "c": 6 * n * d})) > loss

    never = above(high)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        short = above(middle)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(never, np.inf, high)


def cheapest_model(
    law: Law, constants: Mapping[str, float], loss: float, use: float, price: float = 1.0
) -> CheapestModel:
    """The size and data that reach a loss at the least 6 N D + price 2 N use.

    Args:
        law: a law of the loss by size and data.
        constants: its constants by name, as ``FitResult.params``.
        loss: to be reached.
        use: tokens that the model will read and write once it is trained.
        price: of a FLOP of use, relative to one of training; their utilisations differ.

    Raises:
        InputError: not a law of n and d, or a use or price that is negative.
        FitFailed: no model of any size reaches that loss.

    Source: Sardana et al. 2024, arXiv 2401.00448, equations 3 and 6.
    """
    from scipy.optimize import minimize_scalar

    if not law.has_compute_optimum:
        raise InputError(
            f"law '{law.name}' is not of the loss by n and d alone, so it cannot weigh training against use"
        )
    if not (use >= 0 and price >= 0):
        raise InputError(f"use and price cannot be negative, and are {use} and {price}")

    def log_cost(log_n):
        log_d = tokens_for(law, constants, loss, log_n)
        return log_n + np.logaddexp(np.log(6) + log_d, np.log(2 * price * use) if price * use > 0 else -np.inf)

    costs = log_cost(LOG_N)
    best = int(np.argmin(costs))
    if not np.isfinite(costs[best]):
        raise FitFailed(f"under the fitted law no model reaches a loss of {loss:.6g}")
    if best in (0, len(LOG_N) - 1):
        raise FitFailed(f"under the fitted law no size between 1e2 and 1e16 is the cheapest for a loss of {loss:.6g}")
    ends = (LOG_N[best - 1], LOG_N[best + 1])
    found: Any = minimize_scalar(log_cost, bounds=ends, method="bounded", options={"xatol": 1e-10})
    log_n = float(found.x)
    n, d = float(np.exp(log_n)), float(np.exp(tokens_for(law, constants, loss, np.array(log_n))))
    return CheapestModel(n, d, 6 * n * d, 2 * n * use)
