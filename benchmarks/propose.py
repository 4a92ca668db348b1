"""Whether proposed runs are worth more than others: the same sweeps gone on with in four ways, at equal compute.

    python -m benchmarks.propose --out benchmarks/results/propose.json --sweeps 300

A cell is a surface (those of `benchmarks.coverage`) and a noise. Every sweep begins with the four smaller budgets of an
iso-FLOP grid (20 runs), is fitted and resampled, and goes on with ten runs for the FLOPs of the two larger budgets:
proposed for the loss, proposed for N*, on an iso-FLOP grid around the fitted optimum, and at random. No run costs more
than a quarter of these FLOPs. The truth, the first 20 losses and the noise of the k-th new run are the same in all
four. Then the law is refitted, and its L and N* at ten times the grid's largest compute are compared with the truth:
the ratio of mean squared errors, with a bootstrap interval over the sweeps. What is done is kept in `--work`, so that
the command can be stopped and continued.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage import DESIGNS, SURFACES, Surface
from benchmarks.simulation import run, summaries
from laws.base.errors import FitFailed
from laws.data.grouping import budget_groups
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.estimation.refit import refit
from laws.forecasting.ensemble import members_of, rivals_of
from laws.forecasting.member import pooled_inflation
from laws.forecasting.mixture import Predictor
from laws.forecasting.priors import prior_of
from laws.inference.allocation import allocate
from laws.inference.noise import RunNoise, residual_scale
from laws.inference.resampling import DesignFits, draw_bootstrap_errors, leave_one_out, wild_refits
from laws.uses.optimal_design import CandidateRuns, FittedRuns, information_state
from laws.uses.propose import LARGEST_SHARE, candidates, choose_design, isoflop_grid, random_design

RESAMPLES, CHUNK = 32, 25
SEED = 1  # the settings of `laws.uses.optimal_design` were chosen on sweeps of another seed
FIRST, NEW = 20, 10  # runs of the iso-FLOP grid that come first, and runs that follow
BEYOND = 10  # the target, relative to the largest compute of the grid
STRETCHED = 1.2  # a second start of every refit: exponents this much larger
ARMS = ("isoflop", "random", "propose_loss", "propose_n")
QUANTITIES = ("loss", "n")
CELLS: list[tuple[str, float]] = list(itertools.product(("chinchilla", "asymmetric", "misspecified"), (0.003, 0.01)))
AIMS = {True: 0.8, False: 1.1}  # ratio to the others: well-specified, and not
BOOTSTRAPS = 4000


@dataclass(frozen=True)
class Study:
    """One cell: what is known first, what may be spent, and what is asked.

    Args:
        columns: variables of the first runs.
        budget, largest: FLOPs of all new runs, and of one.
        target: FLOPs of the predictions.
        truth: log L and log N* there.
    """

    surface: Surface
    noise: float
    columns: dict[str, np.ndarray]
    budget: float
    largest: float
    target: float
    truth: np.ndarray

    @classmethod
    def of(cls, surface: str, noise: float) -> "Study":
        n, d = DESIGNS["isoflop"]()
        c, known = 6 * n * d, SURFACES[surface]
        columns = {"n": n[:FIRST], "d": d[:FIRST], "c": c[:FIRST]}
        target = BEYOND * float(c.max())
        truth = _asked(known.truth, known.params[None], target)[0]
        budget = float(c[FIRST:].sum())
        return cls(known, noise, columns, budget, LARGEST_SHARE * budget, target, truth)

    def mean(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """The true log losses of some runs."""
        return log_predictions(self.surface.truth, self.surface.params[None], columns)[0]


def _asked(law, params: np.ndarray, target: float) -> np.ndarray:
    """Log L and log N* of the target under each set of constants."""
    allocation = allocate(law, params, np.array([target]), TokenCost(), (1e7, 1e10))
    return np.log(np.stack([allocation.loss[:, 0], allocation.n[:, 0]], axis=1))


def _refit(law, columns, log_loss, weight, starts) -> np.ndarray:
    """Constants of each problem: the better of two starts, both in one call."""
    aside = starts * np.where([name in ("alpha", "beta") for name in law.names], STRETCHED, 1.0)
    both = np.concatenate([starts, aside])
    log_loss, weight = (np.resize(array, (len(both), array.shape[1])) for array in (log_loss, weight))
    refits = refit(law, columns, log_loss, weight, both)
    value, params = refits.value.reshape(2, -1), refits.params.reshape(2, len(starts), -1)
    return np.where((value[0] <= value[1])[:, None], params[0], params[1])


def first_fits(study: Study, log_loss: np.ndarray, rng: np.random.Generator) -> list[Predictor]:
    """The first runs of every sweep, fitted, resampled and mixed with the law's rivals."""
    law, columns, (sweeps, runs) = study.surface.fitted, study.columns, log_loss.shape
    constants = np.array([[study.surface.constants.get(name, 1.0) for name in law.names]])
    near = refit(law, columns, study.mean(columns), np.ones((1, runs)), constants, delta=0.1).params
    every = np.ones((sweeps, runs))
    best = _refit(law, columns, log_loss, every, np.tile(near, (sweeps, 1)))
    fits = DesignFits(law, columns, log_loss, np.arange(runs), budget_groups(columns["c"]), np.ones(runs), best)
    count = len(law.names)
    deviation = residual_scale(log_loss - fits.predicted, fits.run, count, fits.objective, fits.delta)
    drawn = draw_bootstrap_errors(fits, leave_one_out(fits), deviation, runs - count, RESAMPLES, rng)
    draws = wild_refits(fits, drawn).params.reshape(sweeps, RESAMPLES, count)
    members = members_of(fits, draws, lambda: drawn, prior_of("public"), int(rng.integers(2**31)))
    ranges = {variable: (float(values.min()), float(values.max())) for variable, values in columns.items()}
    out = []
    for i in range(sweeps):
        rivals = rivals_of(members, i)
        noise = RunNoise(None, float(deviation[i]), runs - count)
        out.append(
            Predictor(law, best[i], draws[i], TokenCost(), noise, ranges, 0.95, 0, rivals, pooled_inflation(members, i))
        )
    return out


def designs(study: Study, predictor: Predictor, rng: np.random.Generator) -> tuple[list[CandidateRuns], list[float]]:
    """The new runs of each arm, and by what factor the proposals expect to lower the variance of what they are for."""
    fitted_runs = FittedRuns.of(study.columns, np.arange(FIRST), predictor.noise.deviation, "log_huber", 1e-3)
    possible, expected = candidates(predictor, fitted_runs, study.largest), []
    out = [
        isoflop_grid(predictor, study.budget, NEW),
        random_design(rng, predictor, fitted_runs, study.budget, NEW, study.largest),
    ]
    for of in QUANTITIES:
        state = information_state(predictor, fitted_runs, CandidateRuns.joined([possible, out[0]]), study.target, of)
        grid = state.expected_error(len(possible.n) + np.arange(NEW))
        chosen = choose_design(state.subset(slice(len(possible.n))), possible, fitted_runs, study.budget, NEW)
        out.append(possible[chosen])
        expected.append((state.expected_error(chosen) / grid) ** 2)
    return out, expected


def simulate(cell: tuple[str, float], chunk: int, sweeps: int) -> dict[str, np.ndarray]:
    """Errors of log L and log N* of some sweeps of a cell, (sweeps, arms, 2); FLOPs spent; ratios that were expected."""
    study = Study.of(*cell)
    rng = np.random.default_rng([SEED, chunk, CELLS.index(cell)])
    log_loss = study.mean(study.columns) + study.noise * rng.standard_normal((sweeps, FIRST))
    fresh = study.noise * rng.standard_normal((sweeps, NEW))
    law, out = study.surface.fitted, {"error": [], "flops": [], "expected": []}
    member = np.repeat(np.arange(1 + len(ARMS)), [FIRST] + [NEW] * len(ARMS))
    for i, predictor in enumerate(first_fits(study, log_loss, rng)):
        try:
            arms, expected = designs(study, predictor, rng)
        except FitFailed:
            out["error"].append(np.full((len(ARMS), 2), np.nan))
            out["flops"].append(np.full(len(ARMS), np.nan))
            out["expected"].append(np.full(2, np.nan))
            continue
        padded = [arm[np.arange(NEW) % len(arm.n)] for arm in arms]  # rows beyond an arm's own weigh nothing
        there = np.concatenate([np.ones(FIRST), *(np.arange(NEW) < len(arm.n) for arm in arms)])
        runs = CandidateRuns.joined([CandidateRuns(**study.columns), *padded])
        columns = {"n": runs.n, "d": runs.d, "c": runs.c}
        measured = study.mean(columns) + np.r_[np.zeros(FIRST), np.tile(fresh[i], len(ARMS))]
        measured[:FIRST] = log_loss[i]
        weight = there * ((member == 0) | (member == np.arange(1, 1 + len(ARMS))[:, None]))
        params = _refit(law, columns, measured[None], weight, np.tile(predictor.constants, (len(ARMS), 1)))
        out["error"].append(_asked(law, params, study.target) - study.truth)
        out["flops"].append([arm.c.sum() / study.budget for arm in arms])
        out["expected"].append(expected)
    return {key: np.array(values) for key, values in out.items()}


def _ratio(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Ratio of the mean squares of paired errors, with its 95% interval over the pairs."""
    pick = rng.integers(0, len(ours), (BOOTSTRAPS, len(ours)))
    drawn = np.mean(ours[pick] ** 2, axis=1) / np.mean(theirs[pick] ** 2, axis=1)
    return {
        "ratio": float(np.mean(ours**2) / np.mean(theirs**2)),
        "interval": [float(end) for end in np.quantile(drawn, [0.025, 0.975])],
    }


def summary(cell: tuple[str, float], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a cell; sweeps without a proposal or a best split in some arm are counted, and left out."""
    rng, specified = np.random.default_rng(SEED), SURFACES[cell[0]].specified
    good = np.asarray(np.isfinite(arrays["error"]).all(axis=(1, 2)))
    error, flops, expected = (arrays[key][good] for key in ("error", "flops", "expected"))
    out: dict[str, Any] = {"sweeps": len(good), "without_a_split": int(np.sum(~good)), "well_specified": specified}
    out["flops"] = dict(zip(ARMS, map(float, flops.mean(axis=0)), strict=True))
    for q, quantity in enumerate(QUANTITIES):
        arm, other = ARMS.index(f"propose_{quantity}"), ARMS.index(f"propose_{QUANTITIES[1 - q]}")
        to = {name: _ratio(error[:, arm, q], error[:, ARMS.index(name), q], rng) for name in ("isoflop", "random")}
        out[quantity] = {
            "error": dict(zip(ARMS, map(float, np.sqrt(np.mean(error[:, :, q] ** 2, axis=0))), strict=True)),
            "bias": dict(zip(ARMS, map(float, np.mean(error[:, :, q], axis=0)), strict=True)),
            "proposed_to": to,
            "proposed_for_the_other_to_isoflop": _ratio(error[:, other, q], error[:, 0, q], rng),
            "expected_to_isoflop": float(np.exp(np.log(expected[:, q]).mean())),
            "aim": AIMS[specified],
            "missed": [name for name, ratio_of_arm in to.items() if ratio_of_arm["ratio"] > AIMS[specified]],
        }
    return out


def name_of(cell: tuple[str, float]) -> str:
    """As in the report and in the names of files."""
    return f"{cell[0]}-{cell[1]:g}"


NAMED = {name_of(cell): cell for cell in CELLS}


def report(work: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """All cells that have been begun."""
    cells = summaries(NAMED, work, summary, earlier.get("cells", {}))
    return {
        "task": "mean squared error of log L and log N* at ten times the largest compute, after ten new runs for the "
        "FLOPs of two more budgets: proposed, over an iso-FLOP grid and over random runs of equal compute",
        "surfaces": {name: SURFACES[name].note for name, _ in CELLS},
        "cells": cells,
        "missed": [
            f"{name}: {q} against {rival}"
            for name, cell in cells.items()
            for q in QUANTITIES
            for rival in cell[q]["missed"]
        ],
    }


if __name__ == "__main__":
    sys.exit(run("propose", __doc__, NAMED, 300, CHUNK, simulate, report))
