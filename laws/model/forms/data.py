"""Data that runs out: the worth of repeated tokens and of parameters beyond what the unique ones can feed."""

from laws.base.array_math import exp, maximum, minimum, power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param


def _saturated(base, excess, scale):
    """What ``base`` is worth with ``excess`` multiples of itself on top, each worth less than the one before."""
    return base * (1 + scale * (1 - exp(-excess / scale)))


def _value(p, x):
    alpha, beta = p["alpha"], p["beta"]
    unique = minimum(x["unique_tokens"], x["d"])  # those beyond d are never seen
    balance = power(alpha * p["A"] / (beta * p["B"]), 1 / (alpha + beta))
    fed = minimum(x["n"], power(unique * balance, beta / alpha) * balance)  # compute-optimal N for the unique tokens
    size = _saturated(fed, maximum(x["n"] / fed - 1, 0.0), p["rn"])
    tokens = _saturated(unique, x["d"] / unique - 1, p["rd"])
    return p["E"] + p["A"] * power(size, -alpha) + p["B"] * power(tokens, -beta)


DATA_CONSTRAINED = Law(
    name="data_constrained",
    formula="L(N, D, U) = E + A / N'^alpha + B / D'^beta, D' = U + U rd (1 - e^(-(D/U - 1)/rd)), N' likewise with rn",
    source="Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6; they hold stage 1 (chinchilla_tied on unique "
    "data) fixed and fit rd and rn, which one table seldom determines",
    columns=("n", "d", "unique_tokens"),
    params=(
        Param("A", "weight of the size term", 1e-3, 1e12, starts=(30.0, 1e3)),
        Param("B", "weight of the data term", 1e-3, 1e12, starts=(1e2, 1e4)),
        Param("E", "irreducible loss"),
        exponent("alpha", "exponent of size", 0.2, 0.4),
        exponent("beta", "exponent of data", 0.2, 0.4),
        Param("rd", "repetitions after which tokens are worth little", 1e-2, 1e4, starts=(3.0, 15.0, 60.0)),
        Param("rn", "multiples after which parameters are worth little", 1e-2, 1e4, starts=(2.0, 10.0, 40.0)),
    ),
    value=_value,
    linear=("E",),
)


def _bounded_value(p, x):
    """Terms of size, training and over-fitting, bounded between E and L0."""
    unique = minimum(x["unique_tokens"], x["d"])
    terms = p["a"] * power(x["n"], -p["alpha"]) + p["b"] * power(x["d"], -p["beta"])
    terms = terms + p["c"] * power(x["n"], p["gamma"]) * power(unique, -p["delta"])
    return p["E"] + (p["L0"] - p["E"]) * terms / (1 + terms)


BOUNDED = Law(
    name="bounded",
    formula="L(N, D, U) = E + (L0 - E) h / (1 + h), h = a / N^alpha + b / D^beta + c N^gamma / U^delta",
    source="arXiv 2605.09189: terms of size, training and over-fitting on unique data; L0 is the loss of an uninformed "
    "guess, known by the kind of loss (log of the vocabulary): hold it with fixed",
    columns=("n", "d", "unique_tokens"),
    params=(
        Param("E", "irreducible loss", 0.0, 20.0, "linear", starts=(0.5, 1.5)),
        Param("L0", "loss of an uninformed guess", 0.1, 100.0, starts=(10.8,)),
        Param("a", "weight of the size term", 1e-6, 1e15, starts=(3.0, 100.0)),
        Param("b", "weight of the training term", 1e-6, 1e15, starts=(10.0, 1e3)),
        Param("c", "weight of the over-fitting term", 1e-15, 1e15, starts=(1e-2, 1.0, 100.0)),
        exponent("alpha", "exponent of size", 0.2, 0.4),
        exponent("beta", "exponent of training", 0.2, 0.4),
        exponent("gamma", "exponent of size in over-fitting", 0.3, 0.8),
        exponent("delta", "exponent of unique data in over-fitting", 0.5, 1.0),
    ),
    value=_bounded_value,
)

LAWS = (DATA_CONSTRAINED, BOUNDED)
