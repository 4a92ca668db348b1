"""Hyper-dual numbers: values with their exact first and second derivatives, by forward mode over numpy arrays.

Source: Fike and Alonso 2011, "The development of hyper-dual numbers for exact second-derivative calculations", AIAA
2011-886.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np

Partials = Mapping[Any, Any]  # variable, or pair of variables -> array


class HyperDual:
    """An array with its first and second partial derivatives in numbered variables.

    Numpy's ufuncs, ``where``, ``clip`` and arithmetic carry the derivatives along. Partials that are zero everywhere are
    left out, and every array has only the axes that it depends on (all broadcast against ``value``): a term that depends
    on two constants of five costs what two constants cost.

    Args:
        value: the value.
        first: variable -> first partial derivative.
        second: pair of variables, the lower number first -> second partial derivative.

    >>> x, y = variables([2.0, 3.0])
    >>> z = x * np.log(y)
    >>> z.first[0] == np.log(3), z.first[1] == 2 / 3, z.second[0, 1] == 1 / 3
    (np.True_, np.True_, np.True_)
    """

    __slots__ = ("first", "second", "value")

    def __init__(self, value: Any, first: Partials, second: Partials):
        self.value, self.first, self.second = value, first, second

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    @property
    def ndim(self) -> int:
        return np.ndim(self.value)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in UNARY:
            (x,) = inputs
            value = ufunc(x.value)
            return _chain(x, value, *UNARY[ufunc](x.value, value))
        if ufunc in COMPARISONS:
            return ufunc(*map(without_derivatives, inputs))
        return BINARY[ufunc](*inputs) if ufunc in BINARY else NotImplemented

    def __array_function__(self, function: Callable, types: Any, args: Any, options: Mapping[str, Any]) -> Any:
        return FUNCTIONS[function](*args, **options) if function in FUNCTIONS else NotImplemented

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a hyper-dual number is no array: it would lose its derivatives")

    def linear(self, function: Callable[[Any], Any]) -> HyperDual:
        """A linear function, which maps the derivatives as it maps the value."""
        each = lambda partials: {key: function(partial) for key, partial in partials.items()}
        return HyperDual(function(self.value), each(self.first), each(self.second))

    def __getitem__(self, index: Any) -> HyperDual:
        return self.linear(lambda part: np.broadcast_to(part, self.shape)[index])

    def sum(self, axis: int) -> HyperDual:
        return self.linear(lambda part: np.broadcast_to(part, self.shape).sum(axis))

    def __add__(self, other: Any) -> HyperDual:
        return _add(self, other)

    def __sub__(self, other: Any) -> HyperDual:
        return _add(self, -other)

    def __rsub__(self, other: Any) -> HyperDual:
        return _add(-self, other)

    def __mul__(self, other: Any) -> HyperDual:
        return _multiply(self, other)

    def __truediv__(self, other: Any) -> HyperDual:
        return _divide(self, other)

    def __rtruediv__(self, other: Any) -> HyperDual:
        return _divide(other, self)

    def __pow__(self, exponent: Any) -> HyperDual:
        return _power(self, exponent)

    def __rpow__(self, base: Any) -> HyperDual:
        return _power(base, self)

    def __neg__(self) -> HyperDual:
        return self.linear(np.negative)

    def __abs__(self) -> HyperDual:
        return np.abs(self)  # type: ignore[return-value]

    def __lt__(self, other: Any) -> Any:
        return np.less(self, other)

    def __le__(self, other: Any) -> Any:
        return np.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return np.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return np.greater_equal(self, other)

    __radd__, __rmul__ = __add__, __mul__


def variables(values: Sequence[Any]) -> list[HyperDual]:
    """Independent variables, numbered in order, at these values."""
    return [HyperDual(np.asarray(value, np.float64), {i: 1.0}, {}) for i, value in enumerate(values)]


def without_derivatives(x: Any) -> Any:
    """The value alone of a hyper-dual number; whatever else as it is."""
    return x.value if isinstance(x, HyperDual) else x


def _lifted(x: Any) -> HyperDual:
    return x if isinstance(x, HyperDual) else HyperDual(x, {}, {})


def _sum(a: Partials, b: Partials) -> Partials:
    """Partial derivatives of a sum."""
    if not a or not b:
        return a or b
    return {**a, **{key: a[key] + partial if key in a else partial for key, partial in b.items()}}


def _scaled(partials: Partials, factor: Any) -> Partials:
    return {key: factor * partial for key, partial in partials.items()}


def _squares(first: Partials, factor: Any) -> Partials:
    """Products of all pairs of first derivatives, times a factor."""
    return {(i, j): factor * (first[i] * first[j]) for i, j in combinations_with_replacement(sorted(first), 2)}


def _chain(x: HyperDual, value: Any, slope: Any, curvature: Any) -> HyperDual:
    """A function of one number by the chain rule, from its value, first and second derivative (None: zero) there."""
    second = _scaled(x.second, slope)
    if curvature is not None:
        second = _sum(second, _squares(x.first, curvature))
    return HyperDual(value, _scaled(x.first, slope), second)


def _add(a: Any, b: Any) -> HyperDual:
    if not isinstance(b, HyperDual):
        return HyperDual(a.value + b, a.first, a.second)
    if not isinstance(a, HyperDual):
        return HyperDual(a + b.value, b.first, b.second)
    return HyperDual(a.value + b.value, _sum(a.first, b.first), _sum(a.second, b.second))


def _multiply(a: Any, b: Any) -> HyperDual:
    if not isinstance(a, HyperDual):
        a, b = b, a
    if not isinstance(b, HyperDual):
        if isinstance(b, float) and b == 0:  # a term that is switched off depends on nothing
            return HyperDual(a.value * b, {}, {})
        return a.linear(lambda part: part * b)
    first = _sum(_scaled(a.first, b.value), _scaled(b.first, a.value))
    second = dict(_sum(_scaled(a.second, b.value), _scaled(b.second, a.value)))
    for i, j in product(a.first, b.first):
        cross = a.first[i] * b.first[j]
        pair, cross = (min(i, j), max(i, j)), 2 * cross if i == j else cross
        second[pair] = second[pair] + cross if pair in second else cross
    return HyperDual(a.value * b.value, first, second)


def _divide(a: Any, b: Any) -> HyperDual:
    if not isinstance(b, HyperDual):
        return a.linear(lambda part: part / b)
    inverse = 1 / b.value
    square = inverse * inverse
    return _multiply(_chain(b, inverse, -square, 2 * square * inverse), a)


def _power(base: Any, exponent: Any) -> HyperDual:
    """A power; the base must be positive where the exponent is a variable."""
    if isinstance(exponent, HyperDual):
        return np.exp(exponent * np.log(base))
    x, p = base.value, exponent
    return _chain(base, x**p, p * x ** (p - 1), p * (p - 1) * x ** (p - 2))


def _logaddexp(a: Any, b: Any) -> HyperDual:
    value = np.logaddexp(without_derivatives(a), without_derivatives(b))
    share, rest = (np.exp(without_derivatives(x) - value) for x in (a, b))
    mean = share * a + rest * b
    return HyperDual(value, mean.first, _sum(mean.second, _squares((a - b).first, share * rest)))


def _where(condition: Any, a: Any, b: Any) -> HyperDual:
    """The first where a condition holds, else the second."""
    a, b = _lifted(a), _lifted(b)
    choose = lambda p, q: {key: np.where(condition, p.get(key, 0.0), q.get(key, 0.0)) for key in {**p, **q}}
    return HyperDual(np.where(condition, a.value, b.value), choose(a.first, b.first), choose(a.second, b.second))


def _clip(x: Any, low: Any, high: Any) -> Any:
    """A number held within bounds, of which either may be None."""
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


# Comparisons have no derivatives: conditions of ``np.where``.
COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal)
# Functions of numpy that are no ufuncs.
FUNCTIONS: dict[Any, Callable[..., Any]] = {np.where: _where, np.clip: _clip}
# Function -> its first and second derivative (None: zero) from where it is taken and its value there.
UNARY: dict[np.ufunc, Callable[[Any, Any], tuple[Any, Any]]] = {
    np.absolute: lambda x, y: (np.sign(x), None),
    np.exp: lambda x, y: (y, y),
    np.expm1: lambda x, y: (y + 1, y + 1),
    np.log: lambda x, y: (1 / x, -1 / x**2),
    np.log1p: lambda x, y: (1 / (1 + x), -1 / (1 + x) ** 2),
    np.negative: lambda x, y: (-1.0, None),
    np.sqrt: lambda x, y: (0.5 / y, -0.25 / (x * y)),
    np.square: lambda x, y: (2 * x, 2.0),
    np.tanh: lambda x, y: (1 - y**2, -2 * y * (1 - y**2)),
}
BINARY: dict[np.ufunc, Callable[[Any, Any], HyperDual]] = {
    np.add: _add,
    np.subtract: lambda a, b: _add(a, -b),
    np.multiply: _multiply,
    np.divide: _divide,
    np.power: _power,
    np.logaddexp: _logaddexp,
    np.maximum: lambda a, b: _where(without_derivatives(a) > without_derivatives(b), a, b),
    np.minimum: lambda a, b: _where(without_derivatives(a) < without_derivatives(b), a, b),
}
