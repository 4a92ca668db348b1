"""From a law and a table to certified constants: projected starts, polished together, and what vouches for the best."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import nnls

from laws.base.errors import FitFailed, InputError
from laws.base.x64 import float64
from laws.data.table import Table
from laws.estimation.law_checks import check_law, check_starts, is_shipped
from laws.estimation.newton import SINGULAR, MinimizerResult, minimise
from laws.estimation.objectives import OBJECTIVES
from laws.model.law import Law

# Huber's threshold begins wide, so that starts with large residuals see a curved objective, and is tightened in turn.
WIDENED = ((0.1, 8), (0.01, 8))  # (threshold in log loss, steps)
SAME_OPTIMUM = 1e-6  # relative difference of objectives below which two starts found the same one
SAME_AS_START = 1e-9
LARGE, FOLLOWED = 4096, 8  # rows of the sample on which starts of a larger table are compared; minima that go on
FAINT = 1e-3  # a term that projection switches off re-enters at this share of the loss


@dataclass(frozen=True)
class PointEstimate:
    """The best of all starts and its certificate.

    Args:
        constants: name -> natural value.
        value: the summed objective.
        starts, at_best: how many starts there were, and how many ended at this objective.
        gradient: largest component of the gradient relative to the objective.
        decrement: what another Newton step would gain, relative to the objective.
        condition: of the Hessian scaled to a unit diagonal.
        at_bound: constants that ended on a bound.
        equals_start: the answer is one of the starts, so nothing was learnt by optimising.
    """

    law: Law
    objective: str
    delta: float
    constants: dict[str, float]
    value: float
    starts: int
    at_best: int
    gradient: float
    decrement: float
    condition: float
    at_bound: tuple[str, ...]
    equals_start: bool

    @property
    def params(self) -> Float[np.ndarray, " params"]:
        """The constants as an array, in the order of the law."""
        return np.array([self.constants[name] for name in self.law.names])

    def predict(self, columns: dict[str, Float[np.ndarray, " runs"]]) -> Float[np.ndarray, " runs"]:
        """Log of the predicted loss."""
        return log_predictions(self.law, self.params[None], columns)[0]


def log_predictions(
    law: Law, params: Float[np.ndarray, "samples params"], columns: dict[str, Float[np.ndarray, " runs"]]
) -> Float[np.ndarray, "samples runs"]:
    """Log of the predicted loss under many sets of constants.

    Args:
        law: the law.
        params: sets of constants, natural units, in the order of the law.
        columns: variable -> values of the runs, natural units; optional ones may be missing.
    """
    with float64():
        read = [variable for variable in law.columns if variable in law.needed or variable in columns]
        inputs = {variable: np.asarray(columns[variable], np.float64) for variable in read}
        return np.asarray(law.log_value(np.asarray(params, np.float64)[:, None, :], inputs))


def _product(law: Law, names: list[str], rows: Mapping[str, np.ndarray]) -> Float[np.ndarray, "starts names"]:
    """All combinations of the declared starting values of some constants."""
    grids = [p.starts(rows) if callable(p.starts) else p.starts for p in law.params if p.name in names]
    return np.array(list(itertools.product(*grids))) if grids else np.zeros((1, 0))


def starting_points(
    law: Law,
    columns: dict[str, Float[np.ndarray, " runs"]],
    loss: Float[np.ndarray, " runs"],
    weight: Float[np.ndarray, " runs"],
) -> Float[np.ndarray, "starts params"]:
    """The multi-start grid in natural units.

    The constants in which the law is linear are projected out: at each grid point of the others they are the
    non-negative least squares of the relative error.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        loss: what was measured of each.
        weight: what each run counts; those of weight zero are left out.

    Source:
        Golub and Pereyra 1973, SIAM Journal on Numerical Analysis 10 (variable projection).
    """
    curved = [param.name for param in law.params if param.name not in law.linear]
    used = weight > 0
    rows = {variable: np.asarray(columns[variable], np.float64)[used] for variable in law.columns}
    measured = np.asarray(loss, np.float64)[used]
    grid = _product(law, curved, rows | {"loss": measured})
    if not law.linear:
        return grid
    points = np.empty((len(grid), len(law.params)))
    with float64():
        for point, values in zip(points, grid, strict=True):
            nonlinear = dict(zip(curved, values, strict=True))
            without, units = law.terms(nonlinear, rows)
            relative = np.stack([np.asarray(unit) + np.zeros(len(measured)) for unit in units.values()], axis=1)
            relative /= measured[:, None]
            size = np.maximum(np.abs(relative).max(axis=0), 1e-300)
            shares, _ = nnls(relative / size, 1 - np.asarray(without) / measured)
            linear = dict(zip(law.linear, np.maximum(shares, FAINT) / size, strict=True))
            point[:] = [(nonlinear | linear)[name] for name in law.names]
    return points


def polish(law: Law, columns, log_loss, weight, starts, objective: str, delta: float) -> MinimizerResult:
    """Starts brought to their local minima, Huber's threshold tightened on the way.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        log_loss: measured log losses, (1, runs).
        weight: what each run counts, (1, runs).
        starts: constants in natural units, (starts, params).
        objective: a key of ``OBJECTIVES``.
        delta: Huber's threshold at the end, in log loss.
    """
    for threshold, steps in WIDENED if OBJECTIVES[objective].has_threshold else ():
        if threshold > delta:
            starts = minimise(law, columns, log_loss, weight, starts, objective, threshold, max_steps=steps).params
    return minimise(law, columns, log_loss, weight, starts, objective, delta)


def _followed(
    law: Law, table: Table, weight: Float[np.ndarray, " rows"], starts, objective: str, delta: float
) -> MinimizerResult:
    """Starts brought to their local minima; in a large table on a sample of its rows, from which the best few go on."""
    log_loss, used = np.log(table.loss), np.flatnonzero(weight > 0)
    if len(used) <= LARGE:
        return polish(law, table.values, log_loss[None], weight[None], starts, objective, delta)
    rows = np.sort(np.random.default_rng(0).choice(used, LARGE, replace=False))
    sample = {variable: values[rows] for variable, values in table.values.items()}
    first = polish(law, sample, log_loss[rows][None], weight[rows][None], starts, objective, delta)
    order = np.argsort(np.where(np.isfinite(first.value), first.value, np.inf), kind="stable")
    value = first.value[order]
    new = np.r_[True, ~(value[1:] <= value[:-1] * (1 + SAME_OPTIMUM) + 1e-24)]
    heads = order[new][:FOLLOWED]
    minima = minimise(law, table.values, log_loss[None], weight[None], first.params[heads], objective, delta)
    member = np.empty(len(starts), int)
    member[order] = np.cumsum(new) - 1
    head_of_start = np.minimum(member, len(heads) - 1)
    ends = {name: getattr(minima, name)[head_of_start] for name in MinimizerResult.__dataclass_fields__}
    ends["value"] = np.where(member < len(heads), ends["value"], np.inf)
    return MinimizerResult(**ends)


def _constant(table: Table, weight: np.ndarray, variables: tuple[str, ...]) -> str:
    """What a failed fit should add about columns that cannot teach it anything."""
    same = [variable for variable in variables if len(np.unique(table.values[variable][weight > 0])) == 1]
    return "".join(f"; '{table.columns[variable]}' is the same in all its runs" for variable in same)


def _certify(
    law: Law, objective: str, delta: float, starts: np.ndarray, solution: MinimizerResult, hint: str
) -> PointEstimate:
    """The best minimum, if there is one; ``hint`` ends the message if there is none."""
    value = np.where(np.isfinite(solution.value), solution.value, np.inf)
    best = int(np.argmin(value))
    # A minimum that was certified stands for an uncertified point that is lower by rounding only.
    tied = np.flatnonzero(value <= value[best] * (1 + SAME_OPTIMUM) + 1e-24)
    best = int(next((i for i in tied if solution.converged[i]), best))
    if not solution.converged[best] and solution.smallest[best] <= SINGULAR:
        raise FitFailed(
            f"law '{law.name}' is not at an optimum: these runs do not determine its constants (the Hessian of the "
            f"best of {len(value)} starts is singular){hint}"
        )
    if not solution.converged[best]:
        raise FitFailed(
            f"law '{law.name}' is not at an optimum: the best of {len(value)} starts has objective {value[best]:.6g}, "
            f"and a further step would still change it by a share of {solution.decrement[best]:.1g}{hint}"
        )
    return PointEstimate(
        law=law,
        objective=objective,
        delta=delta,
        constants=dict(zip(law.names, map(float, solution.params[best]), strict=True)),
        value=float(value[best]),
        starts=len(value),
        at_best=int(np.sum(value <= value[best] * (1 + SAME_OPTIMUM) + 1e-24)),
        gradient=float(solution.gradient[best]),
        decrement=float(solution.decrement[best]),
        condition=float(solution.largest[best] / solution.smallest[best]),
        at_bound=tuple(name for name, bound in zip(law.names, solution.at_bound[best], strict=True) if bound),
        equals_start=bool(
            np.any(
                np.all(np.abs(starts - solution.params[best]) <= SAME_AS_START * np.abs(solution.params[best]), axis=1)
            )
        ),
    )


def weights_of(table: Table, fitted_rows: Bool[np.ndarray, " rows"], objective: str = "log_huber") -> np.ndarray:
    """What each row counts: nothing if it is not seen; else once, or by its noise where the table says it.

    Noise weighs as 1 / error^2, of the loss or of its logarithm as the objective compares it, with mean one over the
    rows that are seen, so that Huber's threshold keeps its meaning.

    Args:
        table: the runs.
        fitted_rows: which rows are fitted.
        objective: a key of ``OBJECTIVES``.
    """
    weight = fitted_rows.astype(np.float64)
    if table.noise is not None:
        error = table.noise if OBJECTIVES[objective].is_relative else table.noise / table.loss
        weight = weight / error**2
        weight *= fitted_rows.sum() / weight.sum()
    return weight


def estimate(
    law: Law,
    table: Table,
    objective: str = "log_huber",
    delta: float = 1e-3,
    weight: Float[np.ndarray, " rows"] | None = None,
    starts: Float[np.ndarray, "starts params"] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> PointEstimate:
    """The constants that minimise the summed objective, from many starts.

    Args:
        law: the law.
        table: the runs.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        weight: what each row counts; by default ``weights_of`` the whole table.
        starts: natural values to start from, in the order of the law's constants; by default its own projected grid.
        fixed: constants held at given values; they are not fitted, nor among those of the optimum's law.

    Raises:
        InputError: a column the law needs is missing, there are too few runs for it, a constant cannot be held, or a law
            of one's own does not keep its declaration.
        FitFailed: no start reached an optimum.
    """
    law, table = law.with_fixed(fixed), table.need(law.columns, law.name)
    every_row = np.ones(len(table), bool)
    weight = weights_of(table, every_row, objective) if weight is None else np.asarray(weight, np.float64)
    runs = len(np.unique(table.run[weight > 0]))
    if runs <= len(law.params):
        raise InputError(
            f"{table.name}: {runs} runs are too few for law '{law.name}', which has {len(law.params)} constants; "
            f"at least {len(law.params) + 1} are needed"
        )
    is_checked = is_shipped(law)
    if not is_checked:
        check_law(law, table.values, table.loss)
    points = starting_points(law, table.values, table.loss, weight) if starts is None else np.asarray(starts)
    if not is_checked:
        check_starts(law, table.values, points)
    distinct, copies = np.unique(points, axis=0, return_inverse=True)
    followed = _followed(law, table, weight, distinct, objective, delta)
    every = MinimizerResult(*(getattr(followed, name)[copies.ravel()] for name in MinimizerResult.__dataclass_fields__))
    return _certify(law, objective, delta, points, every, _constant(table, weight, law.columns))
