"""Coordinates in which a law is fitted: unconstrained scales; linear constants by what they add at the runs' centre."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from laws.base.array_math import Numbers, exp, log
from laws.model.law import Law, Param, Values

# How a constant is fitted: (natural -> free, free -> natural).
SCALES: dict[str, tuple[Callable, Callable]] = {
    "log": (log, exp),
    "linear": (lambda params: params, lambda unconstrained: unconstrained),
}


def _centre(values: Float[np.ndarray, " runs"]) -> float:
    return float(np.exp(np.mean(np.log(values))) if (values > 0).all() else np.mean(np.abs(values)))


def _stack(columns):
    return (jnp if any(isinstance(column, jax.Array) for column in columns) else np).stack(columns, axis=-1)


@dataclass(frozen=True)
class Coordinates:
    """The constants as the optimiser sees them.

    A linear constant is replaced by how much it adds or takes at the centre of the runs: unlike A and alpha themselves
    these numbers are nearly uncorrelated, of like size, and may reach zero. The others are taken on their own scale.

    Args:
        law: the law.
        centre: variable -> geometric mean of the runs, or their mean size where some are not positive.
    """

    law: Law
    centre: Mapping[str, Any]

    @classmethod
    def of(cls, law: Law, columns: Mapping[str, Float[np.ndarray, " runs"]]) -> "Coordinates":
        """Coordinates centred on some runs."""
        return cls(law, {variable: _centre(np.asarray(columns[variable], np.float64)) for variable in law.columns})

    def _nonlinear(self, convert: Callable[[Param, int], Any]) -> dict[str, Any]:
        return {p.name: convert(p, i) for i, p in enumerate(self.law.params) if p.name not in self.law.linear}

    def _sizes(self, nonlinear: Values) -> dict[str, Any]:
        """By how much one unit of each linear constant moves the prediction at the centre."""
        return {name: abs(unit) for name, unit in self.law.terms(nonlinear, self.centre)[1].items()}

    def to_params(self, unconstrained: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """From the optimiser's coordinates to natural units, inside JAX."""
        found = self._nonlinear(lambda p, i: SCALES[p.scale][1](unconstrained[..., i]))
        units = self._sizes(found)
        for i, name in enumerate(self.law.names):
            if name in self.law.linear:
                found[name] = unconstrained[..., i] / units[name]
        return _stack([found[name] for name in self.law.names])

    def to_unconstrained(self, params: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """The inverse of ``params``."""
        nonlinear = self._nonlinear(lambda p, i: params[..., i])
        units = self._sizes(nonlinear)
        columns = [
            params[..., i] * units[p.name] if p.name in self.law.linear else SCALES[p.scale][0](params[..., i])
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
