"""What a law is: data. Names, bounds and scales of its parameters, and its prediction as one pure function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.base.array_math import log
from laws.base.errors import InputError, nearest

if TYPE_CHECKING:
    from laws.base.array_math import Numbers

# Constants or columns by name; a single number stands for all runs.
Values = Mapping[str, Any]

LOSS = "loss (nats)"  # per token or per image, as the runs counted it
LARGE = 2.0**300  # so much of a linear constant that beside it the rest of a law is lost in rounding


@dataclass(frozen=True)
class Param:
    """One constant of a law.

    Args:
        name: as in the formula and in ``fit.json``.
        meaning: a few words for people.
        low, high: bounds in natural units; a fit that ends on one says so. A linear constant has 0 and no upper end.
        scale: a key of ``SCALES``, on which it is fitted unless it is linear.
        starts: natural values of the multi-start grid, or a function from the columns of the runs (and ``loss``) to
            them (``laws.model.forms.start_values``); none for a linear constant, which projection supplies.
    """

    name: str
    meaning: str
    low: float = 0.0
    high: float = np.inf
    scale: str = "log"
    starts: Sequence[float] | Callable[[Mapping[str, np.ndarray]], np.ndarray] = ()


@dataclass(frozen=True)
class Law:
    """A scaling law, declared once; the fit, the intervals, the predictions and the figures follow from it.

    Args:
        name: on the command line and in ``fit.json``.
        formula: one line, as printed.
        source: paper and equation.
        columns: the variables the law reads, keys of ``laws.model.variables.VARIABLES``.
        params: its constants, in order.
        value: ``(constants, columns) -> prediction``, elementwise, natural units, written with arithmetic and
            ``laws.base.array_math`` or numpy's ufuncs, or with ``jax.numpy`` (see ``laws.base.differentiate``).
        linear: constants in which ``value`` is linear once the others are given; the multi-start finds them by
            projection. They are not negative, but what one unit of them adds may be.
        optimal_n: ``(constants, C) -> N*`` in closed form for C = 6 N D, where there is one.
        exponents: exponents of N*(C) and D*(C) for C = 6 N D, where they are constants of the law.
        observable: what is predicted, with its unit; positive, as the fit takes its logarithm.
        terms_per_row: how many numbers ``value`` holds for one run, where it sums over many: what bounds memory.
        optional: columns that ``value`` can do without: it then takes their best, and so do predictions.
        fixed: constants held at given values (``with_fixed``).
        origin: ``file.py:NAME`` for a law from a file of one's own.
        of_optimum: whether what is predicted is a choice, the best at each point (a learning rate), and not its outcome.
    """

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    params: tuple[Param, ...]
    value: Callable[[Values, Values], Float[Numbers, ...]]
    linear: tuple[str, ...] = ()
    optimal_n: Callable[[Values, Float[Numbers, ...]], Float[Numbers, ...]] | None = None
    exponents: Callable[[Values], tuple] | None = None
    observable: str = LOSS
    terms_per_row: int = 1
    optional: tuple[str, ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()
    origin: str | None = None
    of_optimum: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(param.name for param in self.params)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which it predicts nothing."""
        return tuple(variable for variable in self.columns if variable not in self.optional)

    @property
    def has_compute_optimum(self) -> bool:
        """Whether the law is of the loss, size and data (and compute) alone, so that an optimal split can exist."""
        return {"n", "d"} <= set(self.needed) <= {"n", "d", "c"} and self.observable == LOSS

    def target_label(self, column: str) -> str:
        """What a fit to that column predicts: a law of the loss may be fitted to whatever falls as the loss does."""
        return self.observable if self.observable != LOSS or "loss" in column.lower() else column

    def with_fixed(self, fixed: Mapping[str, float] | None) -> Law:
        """The law with some constants held at given values: they are no longer among its own.

        Raises:
            InputError: there is no such constant, its value is not finite, or none is left to fit.
        """
        return _with_fixed(self, tuple((name, float(value)) for name, value in fixed.items())) if fixed else self

    def with_inputs_fixed(self, columns: Mapping[str, float]) -> Law:
        """The law where some of its columns have given values: it no longer reads them."""
        return (
            _with_inputs_fixed(self, tuple((variable, float(value)) for variable, value in columns.items()))
            if columns
            else self
        )

    def constants(self, params: Float[Numbers, "*batch params"]) -> dict[str, Float[Numbers, "*batch"]]:
        """Constants by name, from an array in the order of ``params``."""
        return {name: params[..., i] for i, name in enumerate(self.names)}

    def log_value(self, params: Float[Numbers, "*batch params"], columns: Values) -> Float[Numbers, ...]:
        """Log of the predicted loss."""
        return log(self.value(self.constants(params), columns))

    def terms(self, nonlinear: Values, columns: Values) -> tuple[Any, dict[str, Float[Numbers, ...]]]:
        """What the law predicts without its linear constants, and what one unit of each adds."""
        if not self.linear:
            return self.value(nonlinear, columns), {}
        none = dict.fromkeys(self.linear, 0.0)
        without = self.value({**nonlinear, **none}, columns)
        large = {name: self.value({**nonlinear, **none, name: LARGE}, columns) for name in self.linear}
        return without, {name: (value - without) / LARGE for name, value in large.items()}


@functools.lru_cache(maxsize=64)
def _with_fixed(law: Law, pairs: tuple[tuple[str, float], ...]) -> Law:
    fixed = dict(pairs)
    for name, value in fixed.items():
        if name not in law.names:
            raise InputError(f"law '{law.name}' has no constant '{name}'{nearest(name, law.names)}")
        if not np.isfinite(value):
            raise InputError(f"law '{law.name}': {name} cannot be held at {value}")
    if set(fixed) == set(law.names):
        raise InputError(f"law '{law.name}': all its constants are held, and none is left to fit")
    optimal_n, exponents = law.optimal_n, law.exponents
    return replace(
        law,
        params=tuple(param for param in law.params if param.name not in fixed),
        value=lambda p, x: law.value({**p, **fixed}, x),
        linear=tuple(name for name in law.linear if name not in fixed),
        optimal_n=optimal_n and (lambda p, compute: optimal_n({**p, **fixed}, compute)),
        exponents=exponents and (lambda p: exponents({**p, **fixed})),
        fixed=(*law.fixed, *pairs),
    )


@functools.lru_cache(maxsize=64)
def _with_inputs_fixed(law: Law, pairs: tuple[tuple[str, float], ...]) -> Law:
    given = dict(pairs)
    return replace(
        law,
        columns=tuple(variable for variable in law.columns if variable not in given),
        value=lambda p, x: law.value(p, {**x, **given}),
    )
