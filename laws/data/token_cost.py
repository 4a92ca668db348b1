"""What a token costs: training FLOPs as a function of N and D, either 6 N D or the sweep's own curve.

At short contexts and small widths attention, head and embeddings make exact FLOPs differ from 6 N D in a way that
depends on N, and with it the compute-optimal N. The curve is a smooth fit of log(C / 6 N D) to log N over the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.base.array_math import clip, polynomial
from laws.data.table import Table

if TYPE_CHECKING:
    from laws.base.array_math import Numbers

DEGREE = 3
LOG_SIX = float(np.log(6.0))
ROUGH = 0.03  # relative error of the curve above which it is not one curve of N


@dataclass(frozen=True)
class TokenCost:
    """FLOPs per token and parameter, over six, as a polynomial in log N; tangents continue it beyond the runs.

    Args:
        coefficients: of log(C / 6 N D), highest power of (log N - centre) first; empty for 6 N D.
        centre: of log N.
        low, high: range of log N of the runs.
        error: largest relative distance of a run from the curve.
    """

    coefficients: tuple[float, ...] = ()
    centre: float = 0.0
    low: float = 0.0
    high: float = 0.0
    error: float = 0.0

    @property
    def six_nd(self) -> bool:
        return not self.coefficients

    def log_flops_per_token(self, log_n: Float[Numbers, ...]) -> Float[Numbers, ...]:
        """Log of the training FLOPs that one token costs at size N."""
        if self.six_nd:
            return LOG_SIX + log_n
        inside = clip(log_n, self.low, self.high)
        slopes = tuple(np.polyder(np.array(self.coefficients)))
        excess = polynomial(self.coefficients, inside - self.centre)
        return LOG_SIX + log_n + excess + polynomial(slopes, inside - self.centre) * (log_n - inside)

    def to_dict(self) -> dict[str, Any]:
        """As stored in ``fit.json``."""
        if self.six_nd:
            return {"convention": "6ND"}
        return {
            "convention": "curve",
            "log_c_over_6nd": list(self.coefficients),
            "centre_log_n": self.centre,
            "range_log_n": [self.low, self.high],
            "max_error": self.error,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> TokenCost:
        """The inverse of ``to_dict``."""
        if stored["convention"] == "6ND":
            return cls()
        low, high = stored["range_log_n"]
        return cls(tuple(stored["log_c_over_6nd"]), stored["centre_log_n"], low, high, stored["max_error"])


def fit_token_cost(table: Table) -> TokenCost:
    """The cost of a token in the table's own compute column."""
    if table.six_nd:
        return TokenCost()
    log_n = np.log(table.values["n"])
    excess = np.log(table.values["c"] / (6 * table.values["n"] * table.values["d"]))
    centre = float(log_n.mean())
    sizes = len(np.unique(np.round(log_n, 6)))
    coefficients = np.polyfit(log_n - centre, excess, min(DEGREE, sizes - 1))
    error = np.max(np.abs(np.expm1(excess - np.polyval(coefficients, log_n - centre))))
    return TokenCost(tuple(map(float, coefficients)), centre, float(log_n.min()), float(log_n.max()), float(error))
