"""What a law is: data. Names, bounds and scales of its constants, and its prediction as one pure function."""

from __future__ import annotations

import functools
import numbers
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from laws.base.array_math import log
from laws.base.errors import InputError, nearest
from laws.base.x64 import InFloat64
from laws.model.variables import VARIABLES

if TYPE_CHECKING:
    from laws.base.array_math import Numbers

# Constants or columns by name; a single number stands for all runs.
Values = Mapping[str, Any]
# Starting values from the columns of the runs and their loss, by variable and ``loss``.
Starts = Callable[[Mapping[str, np.ndarray]], np.ndarray]
# On which a constant is fitted: the functions stand in ``laws.model.coordinates.SCALES``.
Scale = Literal["log", "linear"]

LOSS = "loss (nats)"  # per token or per image, as the runs counted it
LARGE = 2.0**300  # so much of a linear constant that beside it the rest of a law is lost in rounding
NAME = re.compile(r"[^\s=,:]+")  # of laws and constants: what ``--fixed=NAME=VALUE,...`` and ``file.py:NAME`` can hold


@dataclass(frozen=True)
class Param:
    """One constant of a law.

    Args:
        name: as in the formula and in ``fit.json``; without spaces, ``=``, ``,`` and ``:``.
        meaning: a few words for people.
        low: lower bound in natural units; a fit that ends on it says so. A linear constant is never negative.
        high: upper bound likewise; a linear constant has none.
        scale: "log" or "linear", the scale on which the constant is fitted unless the law is linear in it.
        starts: natural values of the multi-start grid, or a function from the columns of the runs (and ``loss``) to
            them (``laws.model.forms.start_values``). A linear constant needs none: projection supplies them.
        unit: ``(other constants, columns) -> size of the term at a constant of one``, where the law is not linear in it.
            It is then fitted by the log of its term at the centre of the runs, to which its bounds apply as well.

    Example:
        >>> Param("alpha", "exponent of size", low=1e-3, high=5, scale="linear", starts=[0.1, 0.5]).starts
        (0.1, 0.5)
    """

    name: str
    meaning: str
    low: float = 0.0
    high: float = np.inf
    scale: Scale = "log"
    starts: Sequence[float] | Starts = ()
    unit: Callable[[Values, Values], Any] | None = None

    def __post_init__(self) -> None:
        """Starts as a tuple, so that the constant can be hashed."""
        if isinstance(self.starts, Iterable) and not isinstance(self.starts, str):
            object.__setattr__(self, "starts", tuple(self.starts))


@dataclass(frozen=True)
class Law:
    """A scaling law, declared once; the fit, the intervals, the predictions and the figures follow from it.

    What can be said without evaluating it is checked here, the rest (that ``value`` is elementwise, positive somewhere,
    differentiable, and linear in what is called linear) at the runs to which it is fitted
    (``laws.estimation.law_checks``).

    Args:
        name: on the command line and in ``fit.json``.
        formula: one line, as printed.
        source: paper and equation.
        columns: the variables that the law reads, keys of ``laws.model.variables.VARIABLES``.
        params: its constants, in order.
        value: ``(constants, columns) -> prediction``, elementwise, natural units, written with operators and numpy's
            functions, or with ``jax.numpy``. It is evaluated in float64 on the CPU whoever calls it.
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

    Raises:
        InputError: the declaration contradicts itself; the message names the law and the constant or column.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(
        ...     name="power_of_data",
        ...     formula="L(D) = E + B / D^beta",
        ...     source="an example",
        ...     columns=("d",),
        ...     params=(
        ...         Param("E", "irreducible loss"),
        ...         Param("B", "weight of data"),
        ...         Param("beta", "exponent", 1e-3, 5, "linear", starts=(0.1, 0.3, 0.6)),
        ...     ),
        ...     value=lambda p, x: p["E"] + p["B"] * jnp.power(x["d"], -p["beta"]),
        ...     linear=("E", "B"),
        ... )
        >>> law.value({"E": 1.5, "B": 100.0, "beta": 0.5}, {"d": np.array([1e4, 1e6])})
        array([2.5, 1.6])
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

    def __post_init__(self) -> None:
        """Lists become tuples and functions enter float64; what contradicts itself is refused."""
        for field in ("columns", "params", "linear", "optional"):
            value = getattr(self, field)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, field, tuple(value))
        for field in ("value", "optimal_n", "exponents"):
            function = getattr(self, field)
            if callable(function) and not isinstance(function, InFloat64):
                object.__setattr__(self, field, InFloat64(function))
        fault = next(_faults(self), None)
        if fault is not None:
            raise InputError(f"law '{self.name}': {fault}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constants, in order."""
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

        Args:
            fixed: constant -> value in natural units; nothing for the law as it is.

        Raises:
            InputError: there is no such constant, its value is not finite, or none is left to fit.

        Example:
            >>> from laws import LAWS
            >>> LAWS["chinchilla"].with_fixed({"E": 1.7, "alpha": 0.34}).names
            ('A', 'B', 'beta')
        """
        return _with_fixed(self, tuple((name, float(value)) for name, value in fixed.items())) if fixed else self

    def with_inputs_fixed(self, columns: Mapping[str, float]) -> Law:
        """The law where some of its columns have given values: it no longer reads them.

        Args:
            columns: variable -> value of all runs.
        """
        return (
            _with_inputs_fixed(self, tuple((variable, float(value)) for variable, value in columns.items()))
            if columns
            else self
        )

    def constants(self, params: Float[Numbers, "*batch params"]) -> dict[str, Float[Numbers, "*batch"]]:
        """Constants by name.

        Args:
            params: their values along the last axis, in the order of the law.
        """
        return {name: params[..., i] for i, name in enumerate(self.names)}

    def log_value(self, params: Float[Numbers, "*batch params"], columns: Values) -> Float[Numbers, ...]:
        """Natural log of the prediction.

        Args:
            params: constants in natural units, along the last axis.
            columns: variable -> values of the runs, which broadcast against the other axes.
        """
        return log(self.value(self.constants(params), columns))

    def terms(self, nonlinear: Values, columns: Values) -> tuple[Any, dict[str, Float[Numbers, ...]]]:
        """The law as a linear function of its linear constants: value = rest + sum of constant times unit.

        Args:
            nonlinear: the other constants, by name.
            columns: variable -> values of the runs.

        Returns:
            the prediction without the linear constants, and what one unit of each of them adds, by name.

        Example:
            >>> from laws import LAWS
            >>> rest, units = LAWS["power_offset_n"].terms({"p": 0.5}, {"n": np.array([1e4, 1e6])})
            >>> units["k"], units["E"]
            (array([0.01 , 0.001]), array([1., 1.]))
        """
        if not self.linear:
            return self.value(nonlinear, columns), {}
        none = dict.fromkeys(self.linear, 0.0)
        without = self.value({**nonlinear, **none}, columns)
        large = {name: self.value({**nonlinear, **none, name: LARGE}, columns) for name in self.linear}
        return without, {name: (value - without) / LARGE for name, value in large.items()}


def _faults(law: Law) -> Iterator[str]:
    """What is wrong with a declaration, each in a line that ends the refusal; types first, on which the rest relies."""
    if not (isinstance(law.name, str) and NAME.fullmatch(law.name)):
        yield "the name of a law is a word without spaces, '=', ',' and ':'"
    for field, kind in (("columns", str), ("params", Param), ("linear", str), ("optional", str)):
        declared = getattr(law, field)
        if not isinstance(declared, tuple) or not all(isinstance(item, kind) for item in declared):
            yield f"{field} is a tuple of {'names' if kind is str else 'Param'}, and is {declared!r}"
    if not callable(law.value):
        yield f"value is a function of constants and columns, and is {law.value!r}"
    if not law.params:
        yield "it has no constants, so that nothing is left to fit"
    if not law.columns:
        yield "it reads no column"
    for field, names in (("params", law.names), ("columns", law.columns), ("linear", law.linear)):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            yield f"{field} names '{repeated[0]}' more than once"
    for variable in law.columns:
        if variable not in VARIABLES:
            yield (
                f"columns: no variable is called '{variable}'{nearest(variable, VARIABLES)} "
                f"(variables: {', '.join(VARIABLES)})"
            )
    for variable in law.optional:
        if variable not in law.columns:
            yield f"optional: '{variable}' is not among its columns{nearest(variable, law.columns)}"
    for name in law.linear:
        if name not in law.names:
            yield f"linear: '{name}' is not among its constants{nearest(name, law.names)}"
    for param in law.params:
        fault = next(_faults_of_param(param, param.name in law.linear), None)
        if fault is not None:
            yield f"constant '{param.name}' {fault}"


def _faults_of_param(param: Param, is_linear: bool) -> Iterator[str]:
    """What is wrong with the declaration of a constant."""
    if not (isinstance(param.name, str) and NAME.fullmatch(param.name)):
        yield "needs a name without spaces, '=', ',' and ':'"
    if param.scale not in get_args(Scale):
        yield f"has the scale {param.scale!r}; scales are {' and '.join(map(repr, get_args(Scale)))}"
    if not (_is_number(param.low) and _is_number(param.high) and param.low < param.high):
        yield f"has the bounds low={param.low!r} and high={param.high!r}; the lower one must be less"
    if is_linear:
        if (param.low, param.high) != (0.0, np.inf):
            yield (
                f"is linear, so its bounds are 0 and infinity: low={param.low:g} and high={param.high:g} would be ignored"
            )
        return
    if param.scale == "log" and param.low < 0:
        yield f'is fitted on a logarithmic scale, where low={param.low:g} cannot be (scale="linear" is the other)'
    if callable(param.starts):
        return
    if not isinstance(param.starts, tuple) or not all(_is_number(start) for start in param.starts):
        yield f"has starts that are neither numbers nor a function of the columns: {param.starts!r}"
    elif not param.starts:
        yield "has no starts, and is not among the linear ones, for which they are found by projection"
    else:
        for start in param.starts:
            if not param.low <= start <= param.high or (param.scale == "log" and start <= 0):
                yield f"starts at {start:g}, which is outside its bounds {param.low:g} and {param.high:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not np.isnan(float(value))


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
    inputs = dict(pairs)
    return replace(
        law,
        columns=tuple(variable for variable in law.columns if variable not in inputs),
        optional=tuple(variable for variable in law.optional if variable not in inputs),
        value=lambda p, x: law.value(p, {**x, **inputs}),
    )
