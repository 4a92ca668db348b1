"""Cells of `benchmarks.coverage` for the intervals of constants: designs, noises, objectives and interval methods.

A cell is a truth, a design whose runs may have several rows, a noise and an objective. Each of its tables is fitted once
and every method of the cell gives its 95% intervals.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from laws.data.grouping import budget_groups
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.inference.allocation import allocate
from laws.inference.methods import IntervalMethod
from laws.inference.noise import RunNoise, interval, residual_dof, residual_scale
from laws.inference.profile import profiles
from laws.inference.resampling import (
    DesignFits,
    LeaveOneOut,
    draw_bootstrap_errors,
    leave_one_out,
    resample,
    wild_refits,
)
from laws.model.forms import find
from laws.model.law import Law

LEVEL = 0.95
RESAMPLES = 400  # a central 95% interval of so many draws holds 94.6% of them on average
BEYOND = 10.0  # the loss is derived at so many times the largest compute
CLAIMED = (0.93, 0.97)  # coverage that a cell must have, beside two Monte-Carlo errors, mean over its quantities
REFERENCE = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
POWER = {"k": 20.0, "p": 0.05}

# Constants of many fits -> one number each.
Quantity = Callable[[Float[np.ndarray, "sets params"]], Float[np.ndarray, " sets"]]


def _chinchilla_jnp(p: Any, x: Any) -> Any:
    """The reference law as someone writes it who knows JAX alone."""
    return p["E"] + p["A"] / jnp.power(x["n"], p["alpha"]) + p["B"] / jnp.power(x["d"], p["beta"])


CHINCHILLA = find("chinchilla")
LAWS = {
    "chinchilla": (CHINCHILLA, REFERENCE),
    "chinchilla in jnp": (replace(CHINCHILLA, name="chinchilla_jnp", value=_chinchilla_jnp), REFERENCE),
    "power_c": (find("power_c"), POWER),
}


def _best_size(compute: np.ndarray) -> np.ndarray:
    p = REFERENCE
    total = p["alpha"] + p["beta"]
    return (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total) * (compute / 6) ** (p["beta"] / total)


def grid(budgets: int, sizes: int) -> dict[str, np.ndarray]:
    """An iso-FLOP grid from 1e18 to 1e20 FLOPs, sizes centred on the best of each budget."""
    compute = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    n = _best_size(compute) * np.tile(np.geomspace(0.35, 2.8, sizes), budgets)
    return {"n": n, "d": compute / (6 * n), "c": compute}


def ladder(runs: int) -> dict[str, np.ndarray]:
    """Runs of rising compute, for a law of compute alone."""
    return {"c": np.geomspace(1e18, 1e21, runs)}


def overtrained() -> dict[str, np.ndarray]:
    """Four sizes at 20, 40, 100 and 200 tokens a parameter."""
    n = np.repeat([1.9e8, 3.7e8, 7.6e8, 1.28e9], 4)
    d = n * np.tile([20.0, 40.0, 100.0, 200.0], 4)
    return {"n": n, "d": d, "c": 6 * n * d}


DESIGNS = {
    "ladder of 10": ladder(10),
    "ladder of 16": overtrained(),
    "grid of 30": grid(6, 5),
    "grid of 48": grid(8, 6),
}


def checkpoints(columns: dict[str, np.ndarray], rows: Int[np.ndarray, " runs"], same: bool):
    """Rows of each run: evaluations of its end, or checkpoints from 40% of its training on.

    Args:
        columns: of the runs.
        rows: how many each run has.
        same: whether all are of its end.

    Returns:
        columns of the rows, and the run of each.
    """
    run = np.repeat(np.arange(len(rows)), rows)
    done = np.concatenate([np.linspace(0.4, 1, count) if count > 1 else np.ones(1) for count in rows])
    done = np.ones(len(run)) if same else done
    return {name: values[run] * (done if name in "dc" else 1.0) for name, values in columns.items()}, run


@dataclass(frozen=True)
class IntervalCell:
    """Simulated tables, and the methods that give intervals for them.

    Args:
        law: a key of ``LAWS``.
        design: a key of ``DESIGNS``.
        methods: interval methods.
        objective: of the fit.
        rows: rows of a run; None for 1 to 8, different in every run.
        same: whether the rows of a run are evaluations of its end rather than checkpoints.
        between: standard deviation of log loss between runs.
        between_small: the same of the smaller half of the computes; as ``between`` by default.
        within: standard deviation of log loss between the rows of a run.
        quantities: whose intervals are looked at.
        claimed: methods that keep their nominal coverage here; all by default. Where another is chosen, a fit warns;
            rows of one run that are independent after all make intervals too wide.
    """

    law: str
    design: str
    methods: tuple[str, ...]
    objective: str = "log_huber"
    rows: int | None = 1
    same: bool = False
    between: float = 0.003
    between_small: float | None = None
    within: float = 0.0
    quantities: tuple[str, ...] = ("alpha", "beta", "a", "loss")
    claimed: tuple[str, ...] | None = None


BOTH = ("wild", "profile")
WITH_JACKKNIFE = ("wild", "profile", "jackknife")
LINE = ("p", "loss")
RATIOS = ("alpha", "beta", "a")  # what a constant factor of the loss leaves as it is
INTERVAL_CELLS: dict[str, IntervalCell] = {
    "ladder": IntervalCell("power_c", "ladder of 10", BOTH, between=0.01, quantities=LINE),
    "ladder-evaluations": IntervalCell(
        "power_c", "ladder of 10", BOTH, rows=6, same=True, between=0.01, within=0.001, quantities=LINE
    ),
    "ladder-checkpoints": IntervalCell(
        "power_c", "ladder of 10", BOTH, rows=6, between=0.01, within=0.01, quantities=LINE
    ),
    "ladder-independent_rows": IntervalCell(
        "power_c", "ladder of 10", BOTH, rows=6, between=0.0, within=0.01, quantities=LINE, claimed=()
    ),
    "ladder16": IntervalCell("chinchilla", "ladder of 16", (*BOTH, "pairs"), claimed=BOTH),
    "grid": IntervalCell("chinchilla", "grid of 30", (*BOTH, "pairs"), claimed=BOTH),
    "grid-jnp": IntervalCell("chinchilla in jnp", "grid of 30", BOTH),
    "grid-log_squared": IntervalCell("chinchilla", "grid of 30", WITH_JACKKNIFE, "log_squared"),
    "grid-squared": IntervalCell("chinchilla", "grid of 30", WITH_JACKKNIFE, "squared"),
    "grid-log_asymmetric": IntervalCell("chinchilla", "grid of 30", BOTH, "log_asymmetric", quantities=RATIOS),
    "grid-noisy_small": IntervalCell("chinchilla", "grid of 30", BOTH, between_small=0.01),
    "grid-noisy_large": IntervalCell("chinchilla", "grid of 30", BOTH, between=0.01, between_small=0.003),
    "grid-noisy_small-log_squared": IntervalCell(
        "chinchilla", "grid of 30", WITH_JACKKNIFE, "log_squared", between_small=0.01
    ),
    "grid-checkpoints": IntervalCell("chinchilla", "grid of 30", BOTH, rows=4, within=0.001),
    "grid-checkpoints-log_squared": IntervalCell(
        "chinchilla", "grid of 30", WITH_JACKKNIFE, "log_squared", rows=4, within=0.001
    ),
    "grid-uneven_checkpoints": IntervalCell("chinchilla", "grid of 30", BOTH, rows=None, within=0.001),
    "grid48": IntervalCell("chinchilla", "grid of 48", ("pairs", *BOTH)),
    "grid48-log_squared": IntervalCell("chinchilla", "grid of 48", ("pairs", *WITH_JACKKNIFE), "log_squared"),
    "grid48-checkpoints": IntervalCell("chinchilla", "grid of 48", ("pairs", *BOTH), rows=4, within=0.001),
}


def _quantities(law: Law, names: tuple[str, ...], top: float) -> dict[str, Quantity]:
    """Functions of the constants: a constant, the exponent a, or the least loss at ``BEYOND`` times the top compute."""
    compute = np.array([BEYOND * top])

    def loss(params: Float[np.ndarray, "sets params"]) -> Float[np.ndarray, " sets"]:
        if law.has_compute_optimum:
            return allocate(law, params, compute, TokenCost(), (1e7, 1e10)).loss[:, 0]
        return np.exp(log_predictions(law, params, {"c": compute})[:, 0])

    named: dict[str, Quantity] = {name: (lambda params, i=i: params[:, i]) for i, name in enumerate(law.names)}
    named |= {"loss": loss}
    if law.exponents is not None:
        exponents = law.exponents
        named["a"] = lambda params: np.asarray(exponents(law.constants(params))[0])
    return {name: named[name] for name in names}


def _fitted(cell: IntervalCell, log_loss: np.ndarray, columns: dict, run: np.ndarray) -> DesignFits:
    """The fits of all tables, each the better of two starts near the truth."""
    law, truth = LAWS[cell.law]
    true_constants = np.array([truth[name] for name in law.names])
    aside = true_constants * np.where([name in ("alpha", "beta", "p") for name in law.names], 1.2, 1.0)
    stratum = budget_groups(columns["c"])
    every, tables = np.ones(len(run)), len(log_loss)
    near = DesignFits(law, columns, log_loss, run, stratum, every, np.tile(true_constants, (tables, 1)), cell.objective)
    fits = [near.refit(log_loss, every[None], np.tile(start, (tables, 1))) for start in (true_constants, aside)]
    better = np.where((fits[0].value <= fits[1].value)[:, None], fits[0].params, fits[1].params)
    return replace(near, params=better)


def _intervals(
    fits: DesignFits, quantities: dict[str, Quantity], methods: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "tables quantities 2"]]:
    """Ends of the intervals by each method, as ``laws`` finds them."""
    constants, tables = len(fits.law.names), len(fits.params)
    left, dof = leave_one_out(fits), residual_dof(fits.run, constants)
    error = fits.log_loss - fits.predicted
    deviation = residual_scale(error, fits.run, constants, fits.objective, fits.delta)
    ends = {method: np.empty((tables, len(quantities), 2)) for method in methods}
    drawn = draw_bootstrap_errors(fits, left, deviation, dof, RESAMPLES, rng)
    wild = wild_refits(fits, drawn).params.reshape(tables, RESAMPLES, constants)
    for i, method in itertools.product(range(tables), methods):
        one = replace(fits, log_loss=fits.log_loss[i : i + 1], params=fits.params[i : i + 1])
        without = LeaveOneOut(left.params[i : i + 1], left.residual[i : i + 1], 0, 0)
        noise = RunNoise(None, float(deviation[i]), dof)
        if method == "profile":
            curves = profiles(one, left.residual[i], noise.deviation, dof, quantities, frozenset(), LEVEL)
            ends[method][i] = [curves[name].interval(LEVEL) for name in quantities]
            continue
        draws = wild[i]
        if method != "wild":
            draws = resample(one, noise, without, IntervalMethod(method), RESAMPLES, int(rng.integers(2**31))).params
        ends[method][i] = [interval(quantity(draws), LEVEL) for quantity in quantities.values()]
    return ends


def simulate(name: str, chunk: int, tables: int, seed: int) -> dict[str, np.ndarray]:
    """Hits and widths of some tables of a cell, one array a method: (tables, quantities).

    Args:
        name: a key of ``INTERVAL_CELLS``.
        chunk: number of the chunk, for its draws.
        tables: how many.
        seed: of the whole simulation.
    """
    cell = INTERVAL_CELLS[name]
    law, truth = LAWS[cell.law]
    rng = np.random.default_rng([seed, chunk, list(INTERVAL_CELLS).index(name)])
    design = DESIGNS[cell.design]
    runs = len(design["c"])
    rows = np.full(runs, cell.rows) if cell.rows else np.random.default_rng(seed).integers(1, 9, runs)
    columns, run = checkpoints(design, rows, cell.same)
    small = design["c"] < np.sqrt(design["c"].min() * design["c"].max())
    between = np.where(small, cell.between if cell.between_small is None else cell.between_small, cell.between)
    true_constants = np.array([[truth[name] for name in law.names]])
    mean = log_predictions(law, true_constants, columns)
    noise = (between * rng.standard_normal((tables, runs)))[:, run]
    log_loss = mean + noise + cell.within * rng.standard_normal((tables, len(run)))
    quantities = _quantities(law, cell.quantities, design["c"].max())
    true = np.array([quantity(true_constants)[0] for quantity in quantities.values()])
    out: dict[str, np.ndarray] = {}
    for method, ends in _intervals(_fitted(cell, log_loss, columns, run), quantities, cell.methods, rng).items():
        out[f"{method}_hit"] = (ends[..., 0] <= true) & (true <= ends[..., 1])
        out[f"{method}_width"] = ends[..., 1] - ends[..., 0]
    return out


def summary(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a cell: coverage of each quantity by each method, and whether what is claimed was kept."""
    cell = INTERVAL_CELLS[name]
    tables = len(next(iter(arrays.values())))
    claimed = cell.methods if cell.claimed is None else cell.claimed
    out: dict[str, Any] = {
        "tables": tables,
        "runs": len(DESIGNS[cell.design]["c"]),
        "rows_of_a_run": cell.rows or "1 to 8",
        "between": cell.between,
        "between_small": cell.between_small,
        "within": cell.within,
        "objective": cell.objective,
        "methods": {},
    }
    for method in cell.methods:
        hit, width = arrays[f"{method}_hit"].astype(float), arrays[f"{method}_width"]
        mean = hit.mean(axis=1)  # over quantities, which are correlated within a table
        coverage, error = float(mean.mean()), float(mean.std() / np.sqrt(tables))
        out["methods"][method] = {
            "coverage": coverage,
            "error": error,
            "claimed": method in claimed,
            "kept": CLAIMED[0] - 2 * error <= coverage <= CLAIMED[1] + 2 * error,
            "quantities": {
                quantity: {"coverage": float(hit[:, k].mean()), "width": float(np.median(width[:, k]))}
                for k, quantity in enumerate(cell.quantities)
            },
        }
    return out
