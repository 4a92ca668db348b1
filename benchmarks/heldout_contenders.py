"""Who forecasts in `benchmarks.heldout`: one small function a contender, and the table of all of them.

Every contender gets the same rows. It raises ``CannotForecast`` with a reason where a table is not for it; the report
shows the reason. A median is what the contender prints as its forecast; ends are of the interval of one run.
"""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
from jaxtyping import Float

from benchmarks import heldout_power_sums as power_sums
from benchmarks.heldout_approach2 import approach2
from benchmarks.heldout_bayes import nuts
from benchmarks.heldout_cases import Kind, Points, Rows, budgets
from benchmarks.heldout_earlier import earlier, version_of_kept
from benchmarks.heldout_forecasts import (
    CannotForecast,
    Contender,
    RunForecasts,
    no_ends,
    quantile_ends,
    student_ends,
)
from benchmarks.heldout_isoflop import isoflop, sources_of_laws
from benchmarks.heldout_peer import PEER, simple_scaling_laws
from benchmarks.heldout_processes import around_additive, around_coupled, around_isoflop

RESAMPLES = 200
NOISE_DRAWS = 20  # of a run's residual, for every resample
SEED = 0


def scipy_huber(rows: Rows, points: Points) -> RunForecasts:
    """Huber's loss of log residuals (delta 1e-3), minimised by scipy; runs are resampled, residuals added."""
    fit = power_sums.fit(power_sums.drivers(rows), rows.loss, power_sums.Objective.HUBER)
    rng = np.random.default_rng(SEED)
    draws = power_sums.bootstrap(fit, rows.run, RESAMPLES, rng)
    residual = fit.residual * np.sqrt(len(rows) / max(len(rows) - len(fit.params), 1))
    log_loss = np.stack([fit.at(params, power_sums.drivers(points)) for params in draws])
    noise = rng.choice(residual, (NOISE_DRAWS, *log_loss.shape))
    losses = np.exp(log_loss + noise).reshape(-1, len(points))
    return RunForecasts(np.exp(fit.at(fit.params, power_sums.drivers(points))), quantile_ends(losses))


def projection(rows: Rows, points: Points) -> RunForecasts:
    """Variable projection with squares of the loss (arXiv 2603.22339's VPNLS); intervals by linearisation."""
    fit = power_sums.fit(power_sums.drivers(rows), rows.loss, power_sums.Objective.SQUARES)
    centre, of_constants, of_run = power_sums.linearised(fit, power_sums.drivers(points))
    deviation = np.hypot(of_constants, of_run)
    dof = max(len(rows) - len(fit.params), 1)
    return RunForecasts(np.exp(centre), student_ends(centre, deviation, dof))


def _frontier(rows: Rows) -> tuple[Float[np.ndarray, " budgets"], Float[np.ndarray, " budgets"]]:
    """Log compute and log loss of the best run of each budget, of those that beat every cheaper one."""
    number, _ = budgets(rows.c)
    best = [np.flatnonzero(number == budget)[np.argmin(rows.loss[number == budget])] for budget in np.unique(number)]
    ordered = rows.where(np.array(best)[np.argsort(rows.c[best], kind="stable")])
    beats = ordered.loss <= np.minimum.accumulate(ordered.loss)
    return np.log(ordered.c[beats]), np.log(ordered.loss[beats])


def frontier_power_law(rows: Rows, points: Points) -> RunForecasts:
    """Power law of compute through the best run of each budget: a straight line of logarithms, its intervals Student's t."""
    log_c, log_loss = _frontier(rows)
    if len(log_c) < 3:
        raise CannotForecast(
            f"{len(log_c)} budgets improve on every cheaper one, and a line with intervals needs three"
        )
    design = np.stack([np.ones_like(log_c), log_c - log_c.mean()], axis=1)
    coefficients = np.linalg.lstsq(design, log_loss, rcond=None)[0]
    variance = np.sum((log_loss - design @ coefficients) ** 2) / (len(log_c) - 2)
    ahead = np.stack([np.ones(len(points)), np.log(points.c) - log_c.mean()], axis=1)
    spread = np.sum(ahead * np.linalg.solve(design.T @ design, ahead.T).T, axis=1)
    centre = ahead @ coefficients
    return RunForecasts(np.exp(centre), student_ends(centre, np.sqrt(variance * (1 + spread)), len(log_c) - 2))


def best_so_far(rows: Rows, points: Points) -> RunForecasts:
    """The lowest fitted loss, without an interval."""
    return RunForecasts(np.full(len(points), rows.loss.min()), no_ends(len(points)))


BOTH = (Kind.SURFACE, Kind.CURVE)
CONTENDERS = {
    "isoflop": Contender("what this package prints by default", isoflop, BOTH, version=sources_of_laws),
    "isoflop_42f1c91": Contender("kept forecasts of this package at 42f1c91", earlier, BOTH, version=version_of_kept),
    "scipy_huber": Contender(
        "Huber fit of the additive law by scipy, bootstrap over runs", scipy_huber, BOTH, version=lambda: "3"
    ),
    "projection": Contender("variable projection with squares, linearised intervals", projection, BOTH),
    "approach2": Contender("parabolas of iso-FLOP budgets and power laws through their minima", approach2),
    "simple_scaling_laws": Contender(
        "simple-scaling-laws 0.2.0, intervals of a new run", simple_scaling_laws, needs=PEER
    ),
    "nuts": Contender("additive law with weak priors, sampled by numpyro", nuts, needs="numpyro"),
    "gaussian_process": Contender(
        "Gaussian process of log N and log D around the additive law", around_additive, needs="sklearn"
    ),
    "process_coupled": Contender("the same around the coupled law", around_coupled, needs="sklearn"),
    "process_isoflop": Contender(
        "the same around this package's forecasts", around_isoflop, needs="sklearn", version=sources_of_laws
    ),
    "frontier_power_law": Contender("power law of C through the best runs", frontier_power_law, BOTH),
    "best_so_far": Contender("lowest fitted loss, no interval", best_so_far, BOTH),
}


def unavailable(contender: Contender) -> str:
    """Why a contender cannot run here; empty where it can."""
    if contender.needs and importlib.util.find_spec(contender.needs) is None:
        return f"{contender.needs} is not installed (extra 'bench')"
    return ""


def run(contender: Contender, rows: Rows, points: Points) -> RunForecasts:
    """The forecasts of a contender.

    Raises:
        CannotForecast: it refuses, a library that is not ours fails, or a forecast is not finite and positive.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = contender.forecast(rows, points)
    except CannotForecast:
        raise
    except Exception as error:
        if not contender.needs:
            raise
        raise CannotForecast(
            f"{contender.needs}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error
    if not (np.isfinite(found.median) & (found.median > 0)).all():
        raise CannotForecast("a forecast is not finite and positive")
    if np.isinf(found.ends).any():
        raise CannotForecast("an interval is infinite")
    return found
