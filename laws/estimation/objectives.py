"""Objectives of a fit: sums over rows of a loss of the residual log predicted - log measured.

Residuals are negative where a run lies above the law. Derivatives are those of robust statistics (Huber 1981, Robust
Statistics): ``psi`` is the derivative of the loss, ``psi_prime`` that of ``psi``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Residuals = Float[np.ndarray, "..."]
OfResiduals = Callable[[Residuals, float], Residuals]  # (residuals, delta) -> one number each


@dataclass(frozen=True)
class Objective:
    """A loss of one residual, and its derivatives.

    Args:
        loss: of residuals and a threshold ``delta``, in log loss.
        psi, psi_prime: its first and second derivative.
        has_threshold: whether ``delta`` plays a part.
        is_relative: whether it compares the observable itself and not its logarithm: then each run is weighed by the
            square of what was measured.
    """

    loss: OfResiduals
    psi: OfResiduals
    psi_prime: OfResiduals
    has_threshold: bool = False
    is_relative: bool = False

    def __call__(self, residual: Residuals, delta: float) -> Residuals:
        return self.loss(residual, delta)

    def weights(self, weight: Float[np.ndarray, "..."], log_loss: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The weights of the runs as the objective sums them."""
        return weight * np.exp(2 * log_loss) if self.is_relative else weight


def _squared(residual: Residuals, delta: float) -> Residuals:
    return 0.5 * residual**2


def _huber(residual: Residuals, delta: float) -> Residuals:
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


# Half the square within delta, linear beyond it.
HUBER = Objective(
    loss=_huber,
    psi=lambda residual, delta: np.clip(residual, -delta, delta),
    psi_prime=lambda residual, delta: np.where(np.abs(residual) <= delta, 1.0, 0.0),
    has_threshold=True,
)

# Half the square.
SQUARED = Objective(
    loss=_squared,
    psi=lambda residual, delta: residual,
    psi_prime=lambda residual, delta: np.ones_like(residual),
)

# Huber's for runs above the law, half the square for runs below it, however far. A run that was tuned badly, or stopped
# early, lies above what its size and data allow and never below. So a run above by more than delta counts by a constant
# force, and one below ever more: the law is drawn to the lower edge of the runs.
ASYMMETRIC = Objective(
    loss=lambda residual, delta: np.where(residual > 0, _squared(residual, delta), _huber(residual, delta)),
    psi=lambda residual, delta: np.maximum(residual, -delta),
    psi_prime=lambda residual, delta: np.where(residual >= -delta, 1.0, 0.0),
    has_threshold=True,
)

# Half the square of the relative error, from the difference of the logs.
RELATIVE = Objective(
    loss=lambda residual, delta: 0.5 * np.expm1(residual) ** 2,
    psi=lambda residual, delta: np.expm1(residual) * np.exp(residual),
    psi_prime=lambda residual, delta: (2 * np.exp(residual) - 1) * np.exp(residual),
    is_relative=True,
)

OBJECTIVES = {"log_huber": HUBER, "log_squared": SQUARED, "log_asymmetric": ASYMMETRIC, "squared": RELATIVE}
