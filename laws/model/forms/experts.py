"""Networks of routed experts."""

import numpy as np

from laws.base.array_math import exp, log, power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

TEN = float(np.log(10.0))


def _saturated(experts, few, many):
    """Number of experts in effect: ``few`` for one expert, never more than ``many``."""
    return 1 / (1 / (experts - 1 + 1 / (1 / few - 1 / many)) + 1 / many)


def _routed_value(p, x):
    size, experts = log(x["n"]) / TEN, log(_saturated(x["experts"], p["E_start"], p["E_max"])) / TEN
    return exp(TEN * (p["a"] * size + p["b"] * experts + p["c"] * size * experts + p["d"]))


def _signed(name: str, meaning: str, low: float, high: float, *starts: float) -> Param:
    return Param(name, meaning, low, high, "linear", starts)


ROUTED = Law(
    name="routed",
    formula="log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d, Ê between E_start (E = 1) and E_max",
    source="Clark et al. 2022, arXiv 2202.01169, equation 1 with the saturation of its section 4; N is the dense size",
    columns=("n", "experts"),
    params=(
        _signed("a", "exponent of size", -1.0, 0.0, -0.06, -0.1),
        _signed("b", "exponent of experts", -2.0, 0.5, -0.1),
        _signed("c", "what size takes from the experts", -0.2, 0.2, 0.01),
        _signed("d", "log10 of the weight", -2.0, 6.0, 1.0),
        Param("E_start", "experts in effect of a dense network", 1 + 1e-4, 50.0, starts=(1.5, 3.0)),
        Param("E_max", "experts in effect of endlessly many", 60.0, 1e6, starts=(150.0, 300.0, 1000.0)),
    ),
    value=_routed_value,
)

FINE_GRAINED = Law(
    name="fine_grained",
    formula="L(N, D, G) = E + (g / G^gamma + a) / N^alpha + b / D^beta",
    source="Krajewski et al. 2024, arXiv 2402.07871, equation 9 (E for their c); N counts every expert, without embeddings",
    columns=("n", "d", "granularity"),
    params=(
        Param("E", "irreducible loss"),
        Param("g", "weight of coarse experts"),
        Param("a", "weight of the size term"),
        Param("b", "weight of the data term"),
        exponent("gamma", "exponent of granularity", 0.3, 0.6, 1.0),
        exponent("alpha", "exponent of size", 0.1, 0.2, 0.35),
        exponent("beta", "exponent of data", 0.1, 0.2, 0.35),
    ),
    value=lambda p, x: (
        p["E"]
        + (p["g"] * power(x["granularity"], -p["gamma"]) + p["a"]) * power(x["n"], -p["alpha"])
        + p["b"] * power(x["d"], -p["beta"])
    ),
    linear=("E", "g", "a", "b"),
)

LAWS = (ROUTED, FINE_GRAINED)
