"""Mixtures of data: the loss on one domain by the shares of the domains that a model of one size was trained on.

The last domain's share is what is left of one: its coefficient is in `k`, and those of the others are relative to it.
"""

from laws.base.array_math import exp, power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

STEEPEST = 50.0  # bound of a coefficient: a share of 0.1 more then changes the reducible loss 150 times


def mixing(domains: int) -> Law:
    """The exponential law of a number of domains.

    Args:
        domains: at least two.

    Example:
        >>> mixing(3).formula
        'L(r) = c + k exp(t_1 r_1 + t_2 r_2)'
    """
    shares = range(1, domains)
    terms = " + ".join(f"t_{j} r_{j}" for j in shares)
    coefficients = [
        Param(
            f"t_{j}", f"what domain {j} does in place of the last one", -STEEPEST, STEEPEST, "linear", (-4.0, -1.0, 1.0)
        )
        for j in shares
    ]
    return Law(
        name=f"mixing_{domains}",
        formula=f"L(r) = c + k exp({terms})",
        source="Ye et al. 2024, arXiv 2403.16952: their exponential law, shares sum to one; one fit a domain",
        columns=tuple(f"share_{j}" for j in shares),
        params=(
            Param("c", "loss that no mixture removes"),
            Param("k", "reducible loss on the last domain alone"),
            *coefficients,
        ),
        value=lambda p, x: p["c"] + p["k"] * exp(sum(p[f"t_{j}"] * x[f"share_{j}"] for j in shares)),
        linear=("c", "k"),
    )


BIMIX = Law(
    name="bimix",
    formula="L(D, r) = (B / D^beta + C) / r^alpha",
    source="Ge et al. 2024, arXiv 2405.14908: a power of the domain's own share times a power law of the volume; their "
    "factor A is in B and C",
    columns=("d", "share"),
    params=(
        Param("B", "weight of the data term"),
        Param("C", "loss after endless data of this domain alone"),
        exponent("beta", "exponent of data", 0.1, 0.3, 0.6),
        exponent("alpha", "exponent of the share", 0.02, 0.1, 0.3),
    ),
    value=lambda p, x: (p["B"] * power(x["d"], -p["beta"]) + p["C"]) * power(x["share"], -p["alpha"]),
    linear=("B", "C"),
)

LAWS = (*map(mixing, (2, 3, 4)), BIMIX)
