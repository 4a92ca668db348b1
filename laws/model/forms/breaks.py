"""Power laws that change their slope: smoothly broken ones."""

import functools

from laws.base.array_math import exp, log, power, softplus
from laws.model.forms.start_values import along, exponent
from laws.model.law import Law, Param
from laws.model.variables import CORE, VARIABLES

PLACES = {1: ((0.2, 0.5, 0.8),), 2: ((0.1, 0.35), (0.65, 0.9))}  # of the breaks, along the range of the runs


def _broken(variable: str, breaks: int) -> Law:
    symbol, numbers = VARIABLES[variable].symbol, range(1, breaks + 1)

    def value(p, x):
        bend = 0.0
        for i in numbers:
            sharpness = p[f"f{i}"]
            bend = bend + p[f"c{i}"] * sharpness * softplus((log(x[variable]) - log(p[f"d{i}"])) / sharpness)
        return p["a"] + p["b"] * power(x[variable], -p["c0"]) * exp(-bend)

    return Law(
        name=f"bnsl{breaks}_{variable}",
        formula=f"L({symbol}) = a + b {symbol}^-c0 prod_i (1 + ({symbol} / d_i)^(1 / f_i))^(-c_i f_i), i = 1..{breaks}",
        source="Caballero et al. 2022, arXiv 2210.14891, equation 1; they fit log(L + 1)",
        columns=(variable,),
        params=(
            Param("a", "floor"),
            Param("b", "weight"),
            exponent("c0", "first exponent", 0.0, 0.1, 0.3, 0.6, low=-5.0),
            *(
                param
                for i in numbers
                for param in (
                    exponent(f"c{i}", f"change of exponent at break {i}", -0.3, 0.2, 0.6, low=-5.0),
                    Param(f"d{i}", f"place of break {i}", 1e-12, 1e40, starts=along(variable, *PLACES[breaks][i - 1])),
                    Param(f"f{i}", f"softness of break {i}", 1e-2, 5.0, starts=(0.1, 0.4) if breaks == 1 else (0.2,)),
                )
            ),
        ),
        value=value,
        linear=("a", "b"),
    )


# Name without the variable -> law of one variable.
FAMILIES = {f"bnsl{breaks}": functools.partial(_broken, breaks=breaks) for breaks in PLACES}
LAWS = tuple(law_of(variable) for law_of in FAMILIES.values() for variable in CORE)
