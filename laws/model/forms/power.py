"""Power laws of one quantity, with and without a floor, a shift or a ceiling."""

from laws.base.array_math import exp, log, power, softplus, stop_gradient
from laws.model.forms.start_values import along, exponent, of_least, of_most
from laws.model.law import Law, Param
from laws.model.variables import CORE, VARIABLES

NEWTON_STEPS = 16  # of the root that the bounded law needs, from zero: enough for the last digit


def _power(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"power_{variable}",
        formula=f"L({symbol}) = k / {symbol}^p",
        source="Hestness et al. 2017, arXiv 1712.00409; M1 of Alabdulmohsin et al. 2022, arXiv 2209.06640",
        columns=(variable,),
        params=(Param("k", "weight"), exponent("p", "exponent")),
        value=lambda p, x: p["k"] * power(x[variable], -p["p"]),
        linear=("k",),
    )


def _kaplan(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"kaplan_{variable}",
        formula=f"L({symbol}) = ({symbol}c / {symbol})^alpha",
        source="Kaplan et al. 2020, arXiv 2001.08361, equations 1.1 to 1.3",
        columns=(variable,),
        params=(
            Param("scale", f"{symbol}c, where the law would reach one", 1.0, 1e60, starts=(1e6, 1e12, 1e18)),
            exponent("alpha", "exponent", 0.03, 0.08, 0.2, 0.5),
        ),
        value=lambda p, x: power(p["scale"] / x[variable], p["alpha"]),
    )


def _offset(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"power_offset_{variable}",
        formula=f"L({symbol}) = E + k / {symbol}^p",
        source="Henighan et al. 2020, arXiv 2010.14701, equation 1.1; M2 of arXiv 2209.06640",
        columns=(variable,),
        params=(Param("k", "weight"), Param("E", "irreducible loss"), exponent("p", "exponent")),
        value=lambda p, x: p["E"] + p["k"] * power(x[variable], -p["p"]),
        linear=("k", "E"),
    )


def _shifted(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"power_shifted_{variable}",
        formula=f"L({symbol}) = k (1 / {symbol} + 1 / x0)^p",
        source="M3 of Alabdulmohsin et al. 2022, arXiv 2209.06640, with gamma = 1 / x0; it has no other floor",
        columns=(variable,),
        params=(
            Param("k", "weight"),
            Param(
                "x0", f"{symbol} at which it levels off", 1e-6, 1e40, starts=along(variable, 0.0, 0.5, 1.0, 1.5, 2.5)
            ),
            exponent("p", "exponent", 0.1, 0.2, 0.35, 0.5, 0.8),
        ),
        value=lambda p, x: p["k"] * power(1 / x[variable] + 1 / p["x0"], p["p"]),
        linear=("k",),
    )


def _frontier(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"frontier_{variable}",
        formula=f"L({symbol}) = E + k / ({symbol} + x0)^p",
        source="Zhai et al. 2021, arXiv 2106.04560, section 2.2, of the best runs at each compute",
        columns=(variable,),
        params=(
            Param("k", "weight"),
            Param("E", "irreducible loss"),
            Param(
                "x0", f"{symbol} below which it is level", 1e-12, 1e40, starts=of_least(variable, 0.01, 0.1, 1.0, 10.0)
            ),
            exponent("p", "exponent", 0.1, 0.2, 0.35, 0.6, 1.0),
        ),
        value=lambda p, x: p["E"] + p["k"] * power(x[variable] + p["x0"], -p["p"]),
        linear=("k", "E"),
    )


def _growth(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol
    return Law(
        name=f"growth_{variable}",
        formula=f"y({symbol}) = k {symbol}^p",
        source="a power law that grows, as the batch of DeepSeek-AI 2024, arXiv 2401.02954, equation 1, does with C",
        columns=(variable,),
        params=(Param("k", "weight"), exponent("p", "exponent", 0.1, 0.3, 0.5, 0.8, 1.2)),
        value=lambda p, x: p["k"] * power(x[variable], p["p"]),
        linear=("k",),
        observable="observed",
    )


def _root(a, right):
    """The t at which ``log sigmoid(t) - a log sigmoid(-t)`` equals ``right``, by Newton from zero.

    The left side rises everywhere, with a slope between 1 and a and a curvature of one sign, so Newton's steps
    converge from anywhere. Derivatives go through the last two steps alone, which is exact up to the second.
    """

    def step(t, a, right):
        left = a * softplus(t) - softplus(-t)
        rising = exp(-softplus(-t))  # sigmoid(t)
        return t - (left - right) / (1 - rising + a * rising)

    held_a, held = stop_gradient(a), stop_gradient(right)
    t = 0.0 * held
    for _ in range(NEWTON_STEPS):
        t = step(t, held_a, held)
    return step(step(t, a, right), a, right)


def _bounded(variable: str) -> Law:
    symbol = VARIABLES[variable].symbol

    def value(p, x):
        right = log(p["k"]) - p["p"] * log(x[variable]) + (p["a"] - 1) * log(p["range"])
        return p["E"] + p["range"] * exp(-softplus(-_root(p["a"], right)))

    return Law(
        name=f"power_bounded_{variable}",
        formula=f"(L - E) / (E + range - L)^a = k / {symbol}^p, which gives L({symbol})",
        source="M4 of Alabdulmohsin et al. 2022, arXiv 2209.06640, with E0 = E + range; they minimise another residual",
        columns=(variable,),
        params=(
            Param("E", "loss of endless data", 1e-9, 1e3, starts=of_least("loss", 0.1, 0.5, 0.9)),
            Param("range", "loss of no data above it", 1e-6, 1e3, starts=of_most("loss", 0.6, 1.5)),
            Param("k", "weight", 1e-12, 1e20, starts=(1.0, 1e2, 1e4, 1e6)),
            exponent("p", "exponent", 0.1, 0.25, 0.4, 0.7),
            exponent("a", "how it leaves the loss of no data", 0.5, 1.0, 2.0, low=1e-2),
        ),
        value=value,
    )


# Name without the variable -> law of one variable.
FAMILIES = {
    "power": _power,
    "power_offset": _offset,
    "kaplan": _kaplan,
    "power_shifted": _shifted,
    "power_bounded": _bounded,
    "frontier": _frontier,
    "growth": _growth,
}
LAWS = tuple(law_of(variable) for law_of in FAMILIES.values() for variable in CORE)
