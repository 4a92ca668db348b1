"""A law shared by groups of runs (optimizers, corpora, architectures): each has factors of its own on size and data.

    L_g(N, D) = L(rho_N N, rho_D D), rho = 1 for the first group

Exponents, floor and terms are those of all groups; a group of which rho_D = 2 does with D tokens what the first does with
twice as many. Factors of N and D, and not of A and B, are fitted because of what they multiply up to: with C = 6 N D a
group reaches every loss with rho_N rho_D times less compute than the first, whatever the loss.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from laws.base.errors import InputError
from laws.model.law import Law, Param, Values

SUFFIX = "_grouped"  # of the law's name
SCALED = {"n": "rho_N", "d": "rho_D"}  # variable -> its factor
LIMIT = 1e3  # factors lie within this factor of one
STARTS = (1.0,)


def factor(variable: str, number: int) -> str:
    """Name of a group's factor on a variable.

    Args:
        variable: ``n`` or ``d``.
        number: of the group, from 1: the first group's is one.

    Example:
        >>> factor("d", 1)
        'rho_D_1'
    """
    return f"{SCALED[variable]}_{number}"


@functools.lru_cache(maxsize=64)
def grouped(law: Law, groups: int) -> Law:
    """The law with factors on size and data for every group but the first; it also reads ``group``, from 0.

    Args:
        law: of n and d.
        groups: how many.

    Raises:
        InputError: the law does not read n and d, or reads compute, which factors would contradict.

    Source:
        Volkova et al. 2026, arXiv 2602.07712 (shared exponents with factors of size and data for each optimizer).

    Example:
        >>> from laws import LAWS
        >>> grouped(LAWS["chinchilla"], 2).names
        ('A', 'B', 'E', 'alpha', 'beta', 'rho_N_1', 'rho_D_1')
    """
    if not {"n", "d"} <= set(law.columns) or "c" in law.columns:
        raise InputError(f"groups scale size and data, and law '{law.name}' reads {' and '.join(law.columns)}")
    params = tuple(
        Param(
            factor(variable, number),
            f"{'parameters' if variable == 'n' else 'tokens'} of the first group that one of group {number} is worth",
            1 / LIMIT,
            LIMIT,
            starts=STARTS,
        )
        for number in range(1, groups)
        for variable in SCALED
    )
    return replace(
        law,
        name=law.name + SUFFIX,
        formula=f"{law.formula}, N and D of each group times rho_N and rho_D",
        columns=(*law.columns, "group"),
        params=(*law.params, *params),
        value=lambda p, x: law.value(p, _scaled(p, x, groups)),
        optimal_n=None,
        exponents=None,
    )


def _scaled(p: Values, x: Values, groups: int) -> Values:
    """The columns with each group's factors on size and data."""
    scaled = dict(x)
    for variable in SCALED:
        for number in range(1, groups):
            inside = (x["group"] == number) * 1.0
            scaled[variable] = scaled[variable] * (1.0 + inside * (p[factor(variable, number)] - 1.0))
    return scaled
