"""The laws, as a table of declarations. A new law is one more entry: see ``laws.law.Law`` for the fields."""

from laws.errors import BadTable, nearest
from laws.law import Law, Param
from laws.ops import power

EXPONENT_STARTS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6)


def _exponent(name: str, meaning: str, starts=EXPONENT_STARTS) -> Param:
    return Param(name, meaning, 1e-3, 5.0, "linear", starts)


def _chinchilla_value(p, x):
    return p["E"] + p["A"] * power(x["n"], -p["alpha"]) + p["B"] * power(x["d"], -p["beta"])


def _chinchilla_optimal_n(p, compute):
    total = p["alpha"] + p["beta"]
    ratio = p["alpha"] * p["A"] / (p["beta"] * p["B"])
    return power(ratio, 1 / total) * power(compute / 6, p["beta"] / total)


def _kaplan_value(p, x):
    size = power(p["Nc"] / x["n"], p["alpha_N"] / p["alpha_D"])
    return power(size + p["Dc"] / x["d"], p["alpha_D"])


def _kaplan_optimal_n(p, compute):
    # d/dN of (Nc/N)^r + 6 N Dc / C with r = alpha_N / alpha_D vanishes at N^(r+1) = r Nc^r C / (6 Dc).
    r = p["alpha_N"] / p["alpha_D"]
    return power(r * power(p["Nc"], r) * compute / (6 * p["Dc"]), 1 / (r + 1))


CHINCHILLA = Law(
    name="chinchilla",
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
    columns=("n", "d"),
    params=(
        Param("A", "weight of the size term"),
        Param("B", "weight of the data term"),
        Param("E", "irreducible loss"),
        _exponent("alpha", "exponent of size"),
        _exponent("beta", "exponent of data"),
    ),
    value=_chinchilla_value,
    linear=("A", "B", "E"),
    optimal_n=_chinchilla_optimal_n,
    exponents=lambda p: (p["beta"] / (p["alpha"] + p["beta"]), p["alpha"] / (p["alpha"] + p["beta"])),
)

KAPLAN = Law(
    name="kaplan",
    formula="L(N, D) = ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D",
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.5",
    columns=("n", "d"),
    params=(
        Param("Nc", "scale of size", 1.0, 1e30, starts=(1e6, 1e9, 1e12, 1e15)),
        Param("Dc", "scale of data", 1.0, 1e30, starts=(1e6, 1e9, 1e12, 1e15)),
        _exponent("alpha_N", "exponent of size", (0.03, 0.08, 0.2, 0.5)),
        _exponent("alpha_D", "exponent of data", (0.03, 0.08, 0.2, 0.5)),
    ),
    value=_kaplan_value,
    optimal_n=_kaplan_optimal_n,
    exponents=lambda p: (
        p["alpha_D"] / (p["alpha_N"] + p["alpha_D"]),
        p["alpha_N"] / (p["alpha_N"] + p["alpha_D"]),
    ),
)


def _power_law(role: str, symbol: str) -> Law:
    return Law(
        name=f"power_{role}",
        formula=f"L({symbol}) = k / {symbol}^p",
        source="Hestness et al. 2017, arXiv 1712.00409; M1 of Alabdulmohsin et al. 2022, arXiv 2209.06640",
        columns=(role,),
        params=(Param("k", "weight"), _exponent("p", "exponent")),
        value=lambda p, x: p["k"] * power(x[role], -p["p"]),
        linear=("k",),
    )


def _power_law_with_offset(role: str, symbol: str) -> Law:
    return Law(
        name=f"power_offset_{role}",
        formula=f"L({symbol}) = E + k / {symbol}^p",
        source="Henighan et al. 2020, arXiv 2010.14701, equation 1.1; M2 of arXiv 2209.06640",
        columns=(role,),
        params=(Param("k", "weight"), Param("E", "irreducible loss"), _exponent("p", "exponent")),
        value=lambda p, x: p["E"] + p["k"] * power(x[role], -p["p"]),
        linear=("k", "E"),
    )


ROLES = {"n": "N", "d": "D", "c": "C"}
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        CHINCHILLA,
        KAPLAN,
        *(_power_law(role, symbol) for role, symbol in ROLES.items()),
        *(_power_law_with_offset(role, symbol) for role, symbol in ROLES.items()),
    )
}


def find(name: str | Law) -> Law:
    """The law of that name; a ``Law`` passes through.

    Raises:
        BadTable: no law has the name; the message lists the laws.
    """
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        raise BadTable(f"no law is called '{name}'{nearest(name, LAWS)} Laws: {', '.join(LAWS)}")
    return LAWS[name]
