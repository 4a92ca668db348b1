"""Loss by the shape of a network: width, depth, and one dimension at a time.

Under ``shape`` the best dimension at a compute C is (alpha a C^p / (beta b))^(1 / (a + b)): it grows as C^(p / (a + b)).
"""

from laws.base.array_math import power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param
from laws.model.variables import VARIABLES

STEPS = (0.25, 0.5, 1.0, 1.5)


def _shape_value(p, x):
    rising = (p["beta"] * power(x["shape"], p["b"]) + p["xi"]) * power(x["c"], -p["p"])
    return p["alpha"] * power(x["shape"], -p["a"]) + rising + p["E"]


SHAPE = Law(
    name="shape",
    formula="L(x, C) = alpha / x^a + (beta x^b + xi) / C^p + E",
    source="Alabdulmohsin et al. 2023, arXiv 2305.13035, equation 2, p for their c",
    columns=("shape", "c"),
    params=(
        Param("alpha", "weight of what a small dimension costs"),
        Param("beta", "weight of what a large dimension costs"),
        Param("xi", "weight of compute alone"),
        Param("E", "irreducible loss"),
        exponent("a", "exponent of a small dimension", 0.2, 0.5, 1.0, 2.0),
        exponent("b", "exponent of a large dimension", 0.2, 0.5, 1.0, 2.0),
        exponent("p", "exponent of compute", 0.2, 0.4, 0.65, 1.0),
    ),
    value=_shape_value,
    linear=("alpha", "beta", "xi", "E"),
)


def _width_depth(name: str, *more: str) -> Law:
    """E plus one falling power a column."""
    terms = {"width": ("A", "a"), "depth": ("B", "b"), "n": ("C", "c"), "d": ("T", "g")}
    variables = ("width", "depth", *more, "d")
    weights, powers = zip(*(terms[variable] for variable in variables), strict=True)
    meaning = {"width": "width", "depth": "depth", "n": "size", "d": "data"}

    def value(p, x):
        return p["E"] + sum(
            p[terms[variable][0]] * power(x[variable], -p[terms[variable][1]]) for variable in variables
        )

    return Law(
        name=name,
        formula="L = E + "
        + " + ".join(
            f"{terms[variable][0]} / {VARIABLES[variable].symbol}^{terms[variable][1]}" for variable in variables
        ),
        source="McLeish et al. 2025, arXiv 2502.06857, and their code; Huber's delta is 1e-4 there",
        columns=variables,
        params=(
            Param("E", "irreducible loss"),
            *(
                Param(weight, f"weight of {meaning[variable]}")
                for variable, weight in zip(variables, weights, strict=True)
            ),
            *(
                exponent(p, f"exponent of {meaning[variable]}", *STEPS)
                for variable, p in zip(variables, powers, strict=True)
            ),
        ),
        value=value,
        linear=("E", *weights),
    )


LAWS = (SHAPE, _width_depth("width_depth"), _width_depth("width_depth_params", "n"))
