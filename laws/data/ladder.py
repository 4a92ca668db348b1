"""Runs whose parameters and tokens are in step, as on a compute-optimal ladder: one line, off which nothing was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError

IN_STEP = (
    0.05  # deviation of log(D / N) from its line in log C below which noise hides what it would say of N and D apart
)
LEAST_RANGE = 0.2  # standard deviation of log N and of log D above which both vary
FEWEST_RUNS = 4  # any two lie on a line, and three nearly so
OFF = 1.1  # factor in N at equal compute beyond which a request is off the line: the loss may differ by 1% there


@dataclass(frozen=True)
class Ladder:
    """A line of log N in log C.

    Args:
        log_c, log_n: its centre.
        slope: of log N in log C.
    """

    log_c: float
    log_n: float
    slope: float

    def n_at(self, c: Float[np.ndarray, " runs"]) -> Float[np.ndarray, " runs"]:
        """Parameters on the line.

        Args:
            c: training FLOPs.
        """
        return np.exp(self.log_n + self.slope * (np.log(c) - self.log_c))

    def check(self, n: Float[np.ndarray, " runs"], c: Float[np.ndarray, " runs"]) -> None:
        """Refuses runs off the line.

        Args:
            n: parameters.
            c: training FLOPs.

        Raises:
            InputError: names the first of them.
        """
        factor = np.exp(np.abs(np.log(n / self.n_at(c))))
        if np.any(factor > OFF):
            i = int(np.argmax(factor > OFF))
            raise InputError(
                f"n and d of the fitted runs are in step: a run of n {n[i]:.4g} at {c[i]:.4g} FLOPs is a factor "
                f"{factor[i]:.3g} off their line (n {self.n_at(c)[i]:.4g}), where nothing was seen; along it, give compute",
                flag=f"--compute={c[i]:.4g}",
            )


def ratio_deviation(
    log_n: Float[np.ndarray, " rows"], log_d: Float[np.ndarray, " rows"], log_c: Float[np.ndarray, " rows"]
) -> float:
    """Standard deviation of log(D / N) around its least-squares line in log C; zero where N and D are in step.

    Args:
        log_n: log parameters of the rows.
        log_d: log tokens.
        log_c: log compute.
    """
    ratio = log_d - log_n
    design = np.stack([np.ones_like(log_c), log_c - log_c.mean()], axis=1)
    return float(np.std(ratio - design @ np.linalg.lstsq(design, ratio, rcond=None)[0]))


def ladder_of(values: Mapping[str, Float[np.ndarray, " rows"]]) -> Ladder | None:
    """The line of runs in step; None where N and D vary apart, or one of them does not vary.

    Args:
        values: variable -> numbers.

    Source:
        arXiv 2605.08541: with tokens and parameters in one ratio, what each adds to the loss is not identified.
    """
    if not {"n", "d", "c"} <= set(values):
        return None
    log_n, log_d, log_c = (np.log(values[variable]) for variable in ("n", "d", "c"))
    runs = len(np.unique(np.round(log_c, 6)))
    if runs < FEWEST_RUNS or min(np.std(log_n), np.std(log_d)) < LEAST_RANGE:
        return None
    if ratio_deviation(log_n, log_d, log_c) > IN_STEP:
        return None
    slope, height = np.polyfit(log_c - log_c.mean(), log_n, 1)
    return Ladder(float(log_c.mean()), float(height), float(slope))
