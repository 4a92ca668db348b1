"""Coordinates in which a law is fitted: unconstrained scales; linear constants by what they add at the runs' centre."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.base.array_math import exp, log, stack
from laws.model.law import Law, Param, Scale, Values

if TYPE_CHECKING:
    from laws.base.array_math import Numbers

# How a constant is fitted: (natural units -> unconstrained, unconstrained -> natural units).
SCALES: dict[Scale, tuple[Callable, Callable]] = {
    "log": (log, exp),
    "linear": (lambda params: params, lambda unconstrained: unconstrained),
}


def _centre(values: Float[np.ndarray, " runs"]) -> float:
    """Geometric mean, or the mean size where some are not positive."""
    return float(np.exp(np.mean(np.log(values))) if (values > 0).all() else np.mean(np.abs(values)))


@dataclass(frozen=True)
class Coordinates:
    """The constants as the optimiser sees them.

    A linear constant is replaced by how much it adds or takes at the centre of the runs: unlike A and alpha themselves
    these numbers are nearly uncorrelated, of like size, and may reach zero. One with a unit is replaced by the log of
    its term there. The others are taken on their own scale.

    Args:
        law: the law.
        centre: variable -> geometric mean of the runs, or their mean size where some are not positive.
    """

    law: Law
    centre: Mapping[str, Any]

    @classmethod
    def of(cls, law: Law, columns: Mapping[str, Float[np.ndarray, " runs"]]) -> Coordinates:
        """Coordinates centred at some runs.

        Args:
            law: the law.
            columns: variable -> values of the runs, natural units.
        """
        return cls(law, {variable: _centre(np.asarray(columns[variable], np.float64)) for variable in law.columns})

    def _plain(self, convert: Callable[[Param, int], Any]) -> dict[str, Any]:
        """The constants that are neither linear nor fitted by their term."""
        return {
            p.name: convert(p, i)
            for i, p in enumerate(self.law.params)
            if p.name not in self.law.linear and p.unit is None
        }

    def _term_sizes(self, plain: Values) -> dict[str, Any]:
        """Size at the centre of the terms that constants with a unit have at one."""
        return {p.name: p.unit(plain, self.centre) for p in self.law.params if p.unit is not None}

    def _sizes(self, nonlinear: Values) -> dict[str, Any]:
        """By how much one unit of each linear constant moves the prediction at the centre."""
        if not self.law.linear:
            return {}
        return {name: abs(unit) for name, unit in self.law.terms(nonlinear, self.centre)[1].items()}

    def constants(self, unconstrained: Sequence[Numbers]) -> dict[str, Numbers]:
        """Constants in natural units by name, in the order of the law.

        Args:
            unconstrained: the optimiser's coordinates, one array (or hyper-dual number) a constant.
        """
        plain = self._plain(lambda p, i: SCALES[p.scale][1](unconstrained[i]))
        terms = self._term_sizes(plain)
        of_terms = {name: exp(unconstrained[i]) / terms[name] for i, name in enumerate(self.law.names) if name in terms}
        nonlinear = plain | of_terms
        sizes = self._sizes(nonlinear)
        linear = {name: unconstrained[i] / sizes[name] for i, name in enumerate(self.law.names) if name in sizes}
        return {name: (nonlinear | linear)[name] for name in self.law.names}

    def to_params(self, unconstrained: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """Constants in natural units, from the optimiser's coordinates.

        Example:
            >>> from laws.model.forms import LAWS
            >>> coordinates = Coordinates.of(LAWS["power_n"], {"n": np.array([1e6, 1e8])})
            >>> coordinates.to_params(np.array([2.0, 0.5]))  # the term adds 2 at N = 1e7
            array([6.32455532e+03, 5.00000000e-01])
        """
        columns = [unconstrained[..., i] for i in range(len(self.law.names))]
        return stack(list(self.constants(columns).values()))

    def to_unconstrained(self, params: Float[Numbers, "*batch params"]) -> Float[Numbers, "*batch params"]:
        """The optimiser's coordinates, from constants in natural units; the inverse of ``to_params``."""
        plain = self._plain(lambda p, i: params[..., i])
        terms = self._term_sizes(plain)
        units = self._sizes(plain | {name: params[..., self.law.names.index(name)] for name in terms})

        def coordinate(param: Param, value: Numbers) -> Numbers:
            if param.name in terms:
                return log(value * terms[param.name])
            return value * units[param.name] if param.name in units else SCALES[param.scale][0](value)

        return stack([coordinate(param, params[..., i]) for i, param in enumerate(self.law.params)])

    def bounds(self) -> tuple[Float[np.ndarray, " params"], Float[np.ndarray, " params"]]:
        """Lower and upper bounds in the optimiser's coordinates; linear constants are not negative."""
        ends = [
            (0.0, np.inf)
            if p.name in self.law.linear
            else tuple(float(SCALES[p.scale][0](end)) for end in (p.low, p.high))
            for p in self.law.params
        ]
        return np.array([low for low, _ in ends]), np.array([high for _, high in ends])
