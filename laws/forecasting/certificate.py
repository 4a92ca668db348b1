"""Partial identification of the frontier: the least and the largest loss that any mixture of power laws allows.

The class of functions is

    L(C) = E + sum_k w_k (C / C_1)^-g_k,    E >= 0, w_k >= 0,

with the exponents g_k on a grid: sums of power laws of any exponents in its range. What the points of a frontier, each
known to within a tolerance, leave open at another compute are two linear programs in E and w: the least and the largest
L(C) subject to |L(C_i) - L_i| <= t_i. No function of the class that passes within the tolerances lies outside their
values, and each end is reached by one that does. A loss with a bend from one power law to another is in the class where it
flattens (a power law of a smaller exponent takes over, as E does), and not where it steepens.

Nothing here is probable: the interval holds whatever the class allows, and the tolerances carry the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from laws.base.errors import FitFailed, InputError

# Powers of compute that a term may fall with: from a hundredth, which a floor and a slow decay are told from, to one.
EXPONENTS = np.geomspace(0.01, 1.0, 81)
FEWEST_POINTS = 2  # one point bounds nothing ahead but by its own loss


@dataclass(frozen=True)
class CertificateInterval:
    """What points of a frontier leave open at other computes.

    Args:
        low, high: least and largest loss at each compute.
        tolerance: relative distance within which every point is met; that asked for, or more where no function of the class
            meets that.
        least_tolerance: the least that some function of the class meets, in units of the tolerance asked for.
    """

    low: Float[np.ndarray, " computes"]
    high: Float[np.ndarray, " computes"]
    tolerance: float
    least_tolerance: float


def _columns(c: Float[np.ndarray, " points"], first: float, exponents: np.ndarray) -> Float[np.ndarray, "points terms"]:
    """What one unit of the floor and of each weight adds to the losses."""
    return np.hstack([np.ones((len(c), 1)), (c[:, None] / first) ** -exponents])


def _solve(cost: np.ndarray, upper: np.ndarray, bound: np.ndarray, free: int) -> np.ndarray:
    """Minimiser of a linear program over non-negative variables.

    Raises:
        FitFailed: the solver found none.
    """
    solved = linprog(cost, A_ub=upper, b_ub=bound, bounds=[(0, None)] * free, method="highs")
    if solved.status != 0:
        raise FitFailed(f"the linear program of a certificate was not solved ({solved.message.splitlines()[0]})")
    return solved.x


def least_tolerance(
    c: Float[np.ndarray, " points"],
    loss: Float[np.ndarray, " points"],
    tolerance: Float[np.ndarray, " points"],
    exponents: Float[np.ndarray, " grid"] = EXPONENTS,
) -> float:
    """The least multiple of the tolerances within which some function of the class meets all points.

    Args:
        c: training FLOPs.
        loss: of the points.
        tolerance: of each, relative.
        exponents: grid of g.
    """
    columns = _columns(c, float(c.min()), exponents)
    reach = (tolerance * loss)[:, None]
    upper = np.vstack([np.hstack([columns, -reach]), np.hstack([-columns, -reach])])
    bound = np.r_[loss, -loss]
    cost = np.r_[np.zeros(columns.shape[1]), 1.0]
    return float(_solve(cost, upper, bound, len(cost))[-1])


def certificate(
    c: Float[np.ndarray, " points"],
    loss: Float[np.ndarray, " points"],
    tolerance: Float[np.ndarray, " points"] | float,
    at: Float[np.ndarray, " computes"],
    exponents: Float[np.ndarray, " grid"] = EXPONENTS,
) -> CertificateInterval:
    """The least and the largest loss at other computes over all mixtures of power laws that meet the points.

    Where no mixture meets them within the tolerances, these are added to the least that some mixture does, which the result
    states: at the least alone a single function would be left, and its interval would be a point.

    Args:
        c: training FLOPs of the points of a frontier.
        loss: their losses.
        tolerance: relative distance within which each is to be met.
        at: computes that are asked for.
        exponents: grid of g.

    Source:
        Manski 2003, Partial Identification of Probability Distributions (bounds as values of linear programs over a class).

    Raises:
        InputError: too few points, or a tolerance that is not positive.
        FitFailed: a linear program was not solved.

    Example:
        >>> c = np.geomspace(1e18, 1e20, 5)
        >>> found = certificate(c, 1.5 + 2 * (c / 1e18) ** -0.1, 0.001, np.array([1e22]))
        >>> bool(found.low[0] < 1.5 + 2 * 1e4**-0.1 < found.high[0])
        True
    """
    c, loss = np.asarray(c, np.float64), np.asarray(loss, np.float64)
    allowed = np.broadcast_to(np.asarray(tolerance, np.float64), loss.shape)
    if len(np.unique(c)) < FEWEST_POINTS:
        raise InputError(f"a certificate needs {FEWEST_POINTS} computes, and the frontier has {len(np.unique(c))}")
    if not (np.isfinite(allowed).all() and (allowed > 0).all()):
        raise InputError("the tolerance of a certificate must be positive and finite")
    least = least_tolerance(c, loss, allowed, exponents)
    allowed = allowed * (1.0 if least <= 1 else 1 + least)
    columns = _columns(c, float(c.min()), exponents)
    upper = np.vstack([columns, -columns])
    bound = np.r_[loss * (1 + allowed), -loss * (1 - allowed)]
    ahead = _columns(np.asarray(at, np.float64), float(c.min()), exponents)
    value = lambda row, sign: float(row @ _solve(sign * row, upper, bound, len(row)))
    return CertificateInterval(
        low=np.array([value(row, 1.0) for row in ahead]),
        high=np.array([value(row, -1.0) for row in ahead]),
        tolerance=float(allowed.max()),
        least_tolerance=least,
    )
