"""The cheapest model of a given loss once its use is counted: smaller, and trained for longer, than compute-optimal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from laws.base.errors import FitFailed, InputError
from laws.data.token_cost import TokenCost
from laws.forecasting.prediction import extrapolation, warnings_of
from laws.inference.noise import interval
from laws.model.law import Law
from laws.results.results import FitResult

LOG_N = (float(np.log(1e2)), float(np.log(1e16)))  # sizes among which the cheapest is looked for
LOG_D = (0.0, float(np.log(1e24)))  # tokens among which those that reach a loss are looked for
SIZES = 129  # of the first grid, a quarter of an e-fold apart
REFINEMENTS, POINTS = 9, 17  # grids between the neighbours of the last minimum, each eight times as fine
HALVINGS = 56  # of the range of log D: to the last digit
FORWARD_SHARE = 1 / 3  # of the FLOPs of a training step that are its forward pass: 2 N of 6 N a token


@dataclass(frozen=True)
class CheapestModel:
    """The model that reaches a loss at the least cost of training and use, and the compute-optimal one beside it.

    Args:
        loss: that it reaches.
        inference_tokens: that it reads and writes once it is trained.
        n: parameters.
        d: training tokens.
        n_interval: interval of n over the fit's resamples; None without them, or where few of them reach the loss.
        d_interval: likewise of d.
        level: of the intervals.
        training_flops: of its training, counted as the fit counts compute.
        inference_flops: of its use, a third as many a token.
        compute_optimal_n: parameters of the model that reaches the loss with the least training alone.
        compute_optimal_d: its training tokens.
        saving: share of the cost of the compute-optimal model, trained and used as much, that is saved.
        n_unreached: resamples under which no model reaches the loss; they are not in the intervals.
        extrapolation: variable -> factor by which it lies outside the fitted runs.
        warnings: what the reader must know.
    """

    loss: float
    inference_tokens: float
    n: float
    d: float
    n_interval: tuple[float, float] | None
    d_interval: tuple[float, float] | None
    level: float
    training_flops: float
    inference_flops: float
    compute_optimal_n: float
    compute_optimal_d: float
    saving: float
    n_unreached: int
    extrapolation: dict[str, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class IsoLossCost:
    """Cost of training and inference of the models that reach one loss, by their size.

    Args:
        law: of the loss by size and data.
        cost: training FLOPs a token by size.
        loss: to be reached.
        weight: cost of all inference, in training FLOPs of one token: tokens times ``FORWARD_SHARE`` times the price of a
            FLOP relative to one of training.
    """

    law: Law
    cost: TokenCost
    loss: float
    weight: float

    def log_tokens(self, constants: dict, log_n: Float[np.ndarray, "draws sizes"]) -> Float[np.ndarray, "draws sizes"]:
        """Log of the training tokens with which each size reaches the loss, by bisection; infinite where none do."""
        low, high = (np.full(np.shape(log_n), end) for end in LOG_D)
        n, log_per_token = np.exp(log_n), np.asarray(self.cost.log_flops_per_token(log_n))

        def is_above(log_d):
            columns = {"n": n, "d": np.exp(log_d), "c": np.exp(log_per_token + log_d)}
            return ~(np.asarray(self.law.value(constants, columns)) <= self.loss)

        with np.errstate(all="ignore"):
            never = is_above(high)
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                above = is_above(middle)
                low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(never, np.inf, high)

    def log_cost(self, constants: dict, log_n: Float[np.ndarray, "draws sizes"]) -> Float[np.ndarray, "draws sizes"]:
        """Log of the cost of training and use, in training FLOPs."""
        log_weight = np.log(self.weight) if self.weight > 0 else -np.inf
        log_per_token = np.asarray(self.cost.log_flops_per_token(log_n))
        return log_per_token + np.logaddexp(self.log_tokens(constants, log_n), log_weight)

    def cheapest(self, params: Float[np.ndarray, "draws params"]) -> Float[np.ndarray, "2 draws"]:
        """Log N and log D of the cheapest model under each set of constants, by ever finer grids of log N.

        NaN where no size reaches the loss, or none within ``LOG_N`` is the cheapest.
        """
        constants = self.law.constants(np.asarray(params, np.float64)[:, None, :])
        grid = np.broadcast_to(np.linspace(*LOG_N, SIZES), (len(params), SIZES))
        inside = np.ones(len(params), bool)
        for _ in range(REFINEMENTS):
            cost = self.log_cost(constants, grid)
            best = cost.argmin(axis=1)
            inside &= np.isfinite(cost.min(axis=1)) & (best > 0) & (best < grid.shape[1] - 1)
            best = np.clip(best, 1, grid.shape[1] - 2)
            below, above = (np.take_along_axis(grid, best[:, None] + step, axis=1) for step in (-1, 1))
            grid = below + (above - below) * np.linspace(0, 1, POINTS)
        log_n = grid[:, POINTS // 2 : POINTS // 2 + 1]
        log_sizes = np.stack([log_n[:, 0], self.log_tokens(constants, log_n)[:, 0]])
        return np.where(inside, log_sizes, np.nan)


def cheapest_model(fit: FitResult, loss: float, inference_tokens: float, price_ratio: float = 1.0) -> CheapestModel:
    """Size and training tokens that reach a loss at the least total FLOPs of training and inference.

    Args:
        fit: of a law of the loss by size and data.
        loss: to be reached, in the unit of the fit.
        inference_tokens: that the model will read and write once it is trained.
        price_ratio: price of a FLOP of inference over that of one of training; their utilisations differ.

    Returns:
        the model, with intervals over the fit's resamples, beside the compute-optimal one of the same loss.

    Raises:
        InputError: not a law of n and d, or a loss, number of tokens or price that is not positive.
        FitFailed: no model reaches that loss under the fitted constants.

    Source:
        Sardana et al. 2024, arXiv 2401.00448: least cost of training and inference at a given loss.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> table = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28})
        >>> fit = laws.load(table, n="n", d="d").fit(resamples=0)
        >>> model = laws.cheapest_model(fit, loss=2.5, inference_tokens=1e12)
        >>> model.n < model.compute_optimal_n, model.d > model.compute_optimal_d
        (True, True)
    """
    law, predictor = fit.law, fit.predictor
    _check_request(law, loss, inference_tokens, price_ratio)
    total = IsoLossCost(law, predictor.cost, loss, inference_tokens * price_ratio * FORWARD_SHARE)
    training = IsoLossCost(law, predictor.cost, loss, 0.0)
    point, optimal = (cost.cheapest(predictor.constants[None])[:, 0] for cost in (total, training))
    if not (np.isfinite(point).all() and np.isfinite(optimal).all()):
        largest_reaches = np.isfinite(total.log_tokens(law.constants(predictor.constants), np.array(LOG_N[1])))
        reason = "size from 1e2 to 1e16 is the cheapest for" if largest_reaches else "model reaches"
        raise FitFailed(f"under the fitted law no {reason} a loss of {loss:.6g}")
    draws = total.cheapest(predictor.draws) if len(predictor.draws) else np.empty((2, 0))
    reached = draws[:, np.isfinite(draws).all(axis=0)]
    has_intervals = reached.shape[1] > 0 and reached.shape[1] >= predictor.config.least_defined_share * draws.shape[1]
    n_interval, d_interval = (_interval(np.exp(logs), predictor.level) if has_intervals else None for logs in reached)
    n, d = map(float, np.exp(point))
    per_token = float(np.exp(predictor.cost.log_flops_per_token(point[0])))
    costs = [
        np.exp(predictor.cost.log_flops_per_token(log_n)) * (np.exp(log_d) + total.weight)
        for log_n, log_d in (point, optimal)
    ]
    factors = extrapolation(predictor.ranges, {"n": n, "d": d, "c": per_token * d})
    unreached = draws.shape[1] - reached.shape[1]
    warnings = [text for text in warnings_of(predictor, factors) if len(predictor.draws)]
    if unreached:
        warnings.append(f"under {unreached} of {draws.shape[1]} resamples no model reaches the loss")
    return CheapestModel(
        loss=float(loss),
        inference_tokens=float(inference_tokens),
        n=n,
        d=d,
        n_interval=n_interval,
        d_interval=d_interval,
        level=predictor.level,
        training_flops=per_token * d,
        inference_flops=per_token * FORWARD_SHARE * float(inference_tokens),
        compute_optimal_n=float(np.exp(optimal[0])),
        compute_optimal_d=float(np.exp(optimal[1])),
        saving=float(1 - costs[0] / costs[1]),
        n_unreached=unreached,
        extrapolation=factors,
        warnings=tuple(warnings),
    )


def _check_request(law: Law, loss: float, inference_tokens: float, price_ratio: float) -> None:
    """Refuses a law that does not trade n against d, and numbers that mean nothing.

    Args:
        law: of the fit.
        loss: to be reached.
        inference_tokens: that the model will read and write.
        price_ratio: price of a FLOP of inference over that of one of training.

    Raises:
        InputError: names the law or the number.
    """
    if not law.has_compute_optimum:
        raise InputError(
            f"law '{law.name}' is not of the loss by n and d alone, so it cannot weigh training against inference"
        )
    for name, value in (("loss", loss), ("inference_tokens", inference_tokens), ("price_ratio", price_ratio)):
        if not (np.isfinite(value) and (value > 0 or (value == 0 and name != "loss"))):
            raise InputError(f"{name} must be {'positive' if name == 'loss' else 'zero or more'}, and is {value:g}")


def _interval(draws: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    low, high = interval(draws, level)
    return float(low), float(high)
