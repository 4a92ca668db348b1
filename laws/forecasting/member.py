"""One form of an ensemble of forecasts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from laws.model.law import Law


@dataclass(frozen=True)
class Member:
    """One form of an ensemble, fitted to tables that share a design.

    Args:
        label, law: the form.
        params, draws: its constants, and those of its resamples or of its posterior.
        score: log density that its backtests gave the runs beyond: the mean over the origins, of surfaces the sum over
            origins and budgets; NaN without an origin.
        extrapolation_inflation: relative error per e-fold of distance that its backtests showed beyond what is
            expected; 0 unless it gains more than the settings' ``inflation_evidence``.
        weight: of its forecasts in the mixture.
        noise: scale of a run's error in each draw, in log loss; None where all draws share the noise of the fit.
        locality: power p of (C / C_max) by which rows counted.
    """

    label: str
    law: Law
    params: Float[np.ndarray, "tables params"]
    draws: Float[np.ndarray, "tables draws params"]
    score: Float[np.ndarray, " tables"]
    extrapolation_inflation: Float[np.ndarray, " tables"]
    weight: Float[np.ndarray, " tables"]
    noise: Float[np.ndarray, "tables draws"] | None = None
    locality: float = 0.0


def pooled_inflation(members: list[Member], table: int = 0) -> float:
    """Extrapolation inflation of the mixture: of all forms, by their weights."""
    return float(sum(member.weight[table] * member.extrapolation_inflation[table] for member in members))
