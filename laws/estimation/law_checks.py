"""Numeric checks of a law's declaration, made at the runs to which it is about to be fitted.

They say what is wrong with the law where a fit would only say that it failed. Laws that come with the package are held to
them by the tests instead, so that a fit of those loses no time.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from laws.base.differentiate import second_order
from laws.base.errors import InputError, nearest
from laws.base.hyperdual import HyperDual
from laws.estimation.refit import slopes_at
from laws.model.forms import shipped
from laws.model.law import LARGE, Law, Values

ROWS = 64  # of the runs, at which a law is evaluated
POINTS = 8  # of the starts, at which its derivatives are taken
ROUNDING = 1e-6  # relative departure from additivity that is still rounding: float64 leaves 1e-9 of it, float32 1e-3
SHARES = np.array([[0.7], [0.9], [1.6], [0.0]])  # of a linear constant: two, their sum, and none

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def is_shipped(law: Law) -> bool:
    """Whether a law is one of the package's own, maybe with constants held."""
    declared = shipped(law.name)
    return declared is not None and (law == declared or bool(law.fixed))


def check_law(law: Law, columns: Columns, loss: Float[np.ndarray, " rows"]) -> None:
    """Refuse a law whose declaration does not hold at some runs.

    Its value must be real, elementwise and of the shape of the runs, and linear in the constants that are called linear.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        loss: what was measured of each, positive.

    Raises:
        InputError: it does not; the message names the law and the constant.
    """
    chosen = _spread(len(loss))
    rows = {variable: np.asarray(columns[variable], np.float64) for variable in law.columns}
    nonlinear = _middle_starts(law, rows | {"loss": np.asarray(loss, np.float64)})
    rows = {variable: values[chosen] for variable, values in rows.items()}
    some = {variable: values[: len(chosen) // 2] for variable, values in rows.items()}
    sizes = dict.fromkeys(law.linear, np.ones((1, 1)))
    value = _evaluate(law, nonlinear | sizes, rows)
    if not np.allclose(
        _evaluate(law, nonlinear | sizes, some), value[:, : len(chosen) // 2], rtol=1e-9, equal_nan=True
    ):
        raise InputError(
            f"law '{law.name}': value is not elementwise: what it gives for a run depends on the other runs"
        )
    _check_linearity(law, nonlinear, rows, float(np.median(loss)))


def check_starts(law: Law, columns: Columns, points: Float[np.ndarray, "starts params"]) -> None:
    """Refuse a law of which no start can be improved on.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        points: starts in natural units.

    Raises:
        InputError: at none of them is it finite and positive, or none of these has finite derivatives.
    """
    chosen = _spread(len(next(iter(columns.values()))))
    rows = {variable: np.asarray(columns[variable], np.float64)[chosen] for variable in law.columns}
    value = _evaluate(law, law.constants(points[:, None, :]), rows)
    usable = (np.isfinite(value) & (value > 0)).all(axis=1)
    if not usable.any():
        raise InputError(
            f"law '{law.name}': at none of its {len(points)} starts is value finite and positive for all runs"
        )
    try:
        slopes = slopes_at(law, dict(rows), points[usable][:POINTS])
        if law.has_compute_optimum:  # along n and d its split of a budget is found
            _differentiate_in_columns(law, rows, points[usable][0])
    except Exception as error:
        raise InputError(
            f"law '{law.name}': value cannot be differentiated ({_told(error)}): write it with operators, numpy's exp, "
            "log, power, where and the like, or throughout with jax.numpy"
        ) from error
    finite = np.all(np.isfinite(slopes), axis=1)
    if not np.all(finite, axis=1).any():
        name = law.names[int(np.argmin(np.any(finite, axis=0)))]
        raise InputError(
            f"law '{law.name}': the derivative of value in '{name}' is not finite where value itself is "
            f"(at {name} = {points[usable][0, law.names.index(name)]:g})"
        )


def _differentiate_in_columns(law: Law, rows: Columns, point: Float[np.ndarray, " params"]) -> None:
    """Evaluates the law with its derivatives in what it reads; an error of its own functions is left to the caller.

    Args:
        law: the law.
        rows: values of the runs, natural units.
        point: constants, natural units.
    """
    with np.errstate(all="ignore"):
        _value_in_columns(law)([rows[name][:POINTS] for name in law.columns], shared=law.constants(point))


@functools.lru_cache(maxsize=64)
def _value_in_columns(law: Law) -> Callable[..., HyperDual]:
    """The law's value with its derivatives in what it reads; what JAX compiled for it is kept."""
    return second_order(lambda values, _, constants: law.value(constants, dict(zip(law.columns, values, strict=True))))


def _spread(count: int) -> Int[np.ndarray, " rows"]:
    """Numbers of up to ``ROWS`` rows, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, ROWS).astype(int))


def _middle_starts(law: Law, rows: Columns) -> dict[str, Float[np.ndarray, "1 1"]]:
    """The middle starting value of each constant that is not linear."""
    out = {}
    for param in law.params:
        if param.name in law.linear:
            continue
        try:
            starts = param.starts(rows) if callable(param.starts) else param.starts
            starts = np.asarray(starts, np.float64).ravel()
        except Exception as error:
            raise InputError(
                f"law '{law.name}': the starts of '{param.name}' have no values ({_told(error)})"
            ) from error
        if not len(starts) or not np.isfinite(starts).all():
            raise InputError(f"law '{law.name}': the starts of '{param.name}' are {starts} at these runs")
        out[param.name] = np.full((1, 1), starts[len(starts) // 2])
    return out


def _evaluate(law: Law, constants: Values, rows: Columns) -> Float[np.ndarray, "points rows"]:
    """The law's value for sets of constants of shape [points, 1], as floats of the shape that it should have."""
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(law.value(constants, rows))
    except Exception as error:
        raise InputError(f"law '{law.name}': value cannot be evaluated ({_told(error)}){_hint(law, error)}") from error
    shape = np.broadcast_shapes(*(np.shape(array) for array in (*constants.values(), *rows.values())))
    fits = value.ndim <= len(shape) and all(n in (1, m) for n, m in zip(value.shape[::-1], shape[::-1], strict=False))
    if not np.issubdtype(value.dtype, np.floating) or value.dtype.itemsize < 8 or not fits:
        raise InputError(
            f"law '{law.name}': value gives {value.dtype} of shape {value.shape} for constants and runs of shape {shape}"
        )
    return np.broadcast_to(value, shape).astype(np.float64)


def _told(error: Exception) -> str:
    """An error of a law's own functions, in a few words."""
    if type(error).__module__.startswith("jax"):  # a tracer was taken for an array
        return "it asks for plain numbers, by 'if' or by a function of scipy or math"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _hint(law: Law, error: Exception) -> str:
    """Which declared name comes nearest to one that is missing."""
    if not isinstance(error, KeyError) or not error.args:
        return ""
    name = str(error.args[0])
    return f": neither a constant nor a column is called '{name}'{nearest(name, (*law.names, *law.columns))}"


def _sizes(law: Law, nonlinear: Mapping[str, np.ndarray], rows: Columns, loss: float) -> dict[str, float]:
    """Linear constants of which each adds about the loss, judged by what one unit of it adds."""
    sizes, none = {}, dict.fromkeys(law.linear, np.zeros((1, 1)))
    without = _evaluate(law, {**nonlinear, **none}, rows)
    for name in law.linear:
        for unit in (1.0, LARGE):  # a small unit may be lost beside the rest of the law
            with np.errstate(all="ignore"):
                added = _evaluate(law, {**nonlinear, **none, name: np.full((1, 1), unit)}, rows) - without
                size = float(unit * loss / np.median(np.abs(added)))
            if np.isfinite(size) and np.median(np.abs(added)) > ROUNDING * np.median(np.abs(without)):
                break
        sizes[name] = size if np.isfinite(size) and size > 0 else 1.0
    return sizes


def _check_linearity(law: Law, nonlinear: Mapping[str, np.ndarray], rows: Columns, loss: float) -> None:
    """That value(a + b) + value(0) = value(a) + value(b) for each linear constant, and for all of them together."""
    if not law.linear:
        return
    sizes = _sizes(law, nonlinear, rows, loss)
    others = dict(zip(law.linear, np.random.default_rng(0).uniform(0.3, 1.0, len(law.linear)), strict=True))
    for names in dict.fromkeys((*((name,) for name in law.linear), law.linear)):
        share = {name: SHARES if name in names else np.full_like(SHARES, others[name]) for name in law.linear}
        constants = {**nonlinear, **{name: sizes[name] * share[name] for name in law.linear}}
        a, b, both, neither = _evaluate(law, constants, rows)
        departure = np.abs(both + neither - a - b)
        if not (departure <= ROUNDING * np.maximum(np.abs(both), np.abs(neither))).all():
            what = f"'{names[0]}', which" if len(names) == 1 else f"{', '.join(names)} together, which"
            raise InputError(
                f"law '{law.name}': value is not linear in {what} it declares linear (a + b adds other than a and b do)"
            )
