"""What a law is: data. Names, bounds and scales of its parameters, and its prediction as one pure JAX function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from laws.ops import Numbers, exp, log

# Constants or columns by name; a single number stands for all runs.
Values = Mapping[str, Any]

# How a constant is fitted: (natural -> free, free -> natural).
SCALES: dict[str, tuple[Callable, Callable]] = {
    "log": (log, exp),
    "linear": (lambda natural: natural, lambda free: free),
}


def _stack(columns):
    return (jnp if any(isinstance(column, jax.Array) for column in columns) else np).stack(columns, axis=-1)


@dataclass(frozen=True)
class Param:
    """One constant of a law.

    Args:
        name: as in the formula and in ``fit.json``.
        meaning: a few words for people.
        low, high: bounds in natural units; a fit that ends on one says so. A linear constant has 0 and no upper end.
        scale: a key of ``SCALES``, on which it is fitted unless it is linear.
        starts: natural values of the multi-start grid; none for a linear constant, which projection supplies.
    """

    name: str
    meaning: str
    low: float = 0.0
    high: float = np.inf
    scale: str = "log"
    starts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Law:
    """A scaling law, declared once; the fit, the intervals, the predictions and the figures follow from it.

    Args:
        name: on the command line and in ``fit.json``.
        formula: one line, as printed.
        source: paper and equation.
        columns: the roles the law reads, out of ``n`` (parameters), ``d`` (tokens) and ``c`` (FLOPs).
        params: its constants, in order.
        value: ``(constants, columns) -> loss``, elementwise, in natural units, traceable by JAX (``laws.ops``).
        linear: constants in which ``value`` is linear and homogeneous; the multi-start finds them by projection.
        optimal_n: ``(constants, C) -> N*`` in closed form for C = 6 N D, where there is one.
        exponents: exponents of N*(C) and D*(C) for C = 6 N D, where they are constants of the law.
    """

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    params: tuple[Param, ...]
    value: Callable[[Values, Values], Float[Numbers, "..."]]
    linear: tuple[str, ...] = ()
    optimal_n: Callable[[Values, Float[Numbers, "..."]], Float[Numbers, "..."]] | None = None
    exponents: Callable[[Values], tuple] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(param.name for param in self.params)

    @property
    def allocates(self) -> bool:
        """Whether the law trades parameters against data, so that a compute-optimal split can exist."""
        return {"n", "d"} <= set(self.columns)

    def constants(self, natural: Float[Numbers, "*batch params"]) -> dict[str, Float[Numbers, "*batch"]]:
        """Constants by name, from an array in the order of ``params``."""
        return {name: natural[..., i] for i, name in enumerate(self.names)}

    def log_value(self, natural: Float[Numbers, "*batch params"], columns: Values) -> Float[Numbers, "..."]:
        """Log of the predicted loss."""
        return log(self.value(self.constants(natural), columns))

    def units(self, nonlinear: Values, columns: Values) -> dict[str, Float[Numbers, "..."]]:
        """What one unit of each linear constant adds to the loss."""
        rank = max((np.ndim(value) for value in (*nonlinear.values(), *columns.values())), default=0)
        ones = np.eye(len(self.linear)).reshape(len(self.linear), len(self.linear), *(1,) * rank)
        added = self.value({**nonlinear, **dict(zip(self.linear, ones, strict=True))}, columns)
        return {name: added[k] for k, name in enumerate(self.linear)}


@dataclass(frozen=True)
class Coordinates:
    """The constants as the optimiser sees them.

    A linear constant is replaced by what it adds to the loss at the centre of the runs: unlike A and alpha themselves
    these numbers are nearly uncorrelated, of like size, and may reach zero. The others are taken on their own scale.

    Args:
        law: the law.
        centre: role -> geometric mean of the runs.
    """

    law: Law
    centre: Mapping[str, Any]

    @classmethod
    def of(cls, law: Law, columns: Mapping[str, Float[np.ndarray, " runs"]]) -> "Coordinates":
        """Coordinates centred on some runs."""
        return cls(law, {role: float(np.exp(np.mean(np.log(columns[role])))) for role in law.columns})

    def _nonlinear(self, convert: Callable[[Param, int], Any]) -> dict[str, Any]:
        return {p.name: convert(p, i) for i, p in enumerate(self.law.params) if p.name not in self.law.linear}

    def natural(self, free: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """From the optimiser's coordinates to natural units, inside JAX."""
        found = self._nonlinear(lambda p, i: SCALES[p.scale][1](free[..., i]))
        units = self.law.units(found, self.centre)
        for i, name in enumerate(self.law.names):
            if name in self.law.linear:
                found[name] = free[..., i] / units[name]
        return _stack([found[name] for name in self.law.names])

    def free(self, natural: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """The inverse of ``natural``."""
        nonlinear = self._nonlinear(lambda p, i: natural[..., i])
        units = self.law.units(nonlinear, self.centre)
        columns = [
            natural[..., i] * units[p.name] if p.name in self.law.linear else SCALES[p.scale][0](natural[..., i])
            for i, p in enumerate(self.law.params)
        ]
        return _stack(columns)

    def bounds(self) -> tuple[Float[np.ndarray, " params"], Float[np.ndarray, " params"]]:
        """Lower and upper bounds: linear constants are not negative, the others keep their declared range."""
        ends = [
            (0.0, np.inf)
            if p.name in self.law.linear
            else tuple(float(SCALES[p.scale][0](end)) for end in (p.low, p.high))
            for p in self.law.params
        ]
        return np.array([low for low, _ in ends]), np.array([high for _, high in ends])
