"""Whether the intervals hold what they promise: simulated sweeps of known truth, fitted and predicted as `laws` does.

    python -m benchmarks.coverage --out benchmarks/results/coverage.json --sweeps 1000

A cell is a surface, a design and a noise. For each sweep of a cell the law is fitted, resampled and mixed with its
rivals, and the nominal 50%, 80% and 95% intervals of the loss are compared with the truth in range, at 10 and at 100
times the largest compute: for the mean surface (a run without noise) and for a new run. Beside it stands an oracle,
which knows the true form and the true noise. The cells of `benchmarks.interval_cells` are of the 95% intervals of
constants, by every interval method, where rows are clustered in runs, noise differs, or the objective is another;
those of `benchmarks.score_cells` of the run that a frozen prediction is compared with.

Sweeps are done in chunks, all cells in turn; what is done is kept in `--work`, so that the command can be stopped and
continued, and a shorter one is a part of a longer one.
"""

import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interval_cells, score_cells
from benchmarks.interval_cells import INTERVAL_CELLS, overtrained
from benchmarks.score_cells import SCORE_CELLS, ScoreCell
from benchmarks.simulation import run, summaries
from laws.base.array_math import power
from laws.data.grouping import budget_groups
from laws.data.token_cost import TokenCost
from laws.estimation.estimate import log_predictions
from laws.estimation.refit import refit
from laws.forecasting.ensemble import members_of, rivals_of
from laws.forecasting.member import Member, pooled_inflation
from laws.forecasting.mixture import Predictor
from laws.forecasting.priors import prior_of
from laws.inference.allocation import allocate
from laws.inference.noise import RunNoise, residual_scale
from laws.inference.resampling import DesignFits, draw_bootstrap_errors, leave_one_out, wild_refits
from laws.model.forms import find
from laws.model.law import Law

LEVELS = (0.5, 0.8, 0.95)
FACTORS = (1, 10, 100)  # of the largest compute of the sweep; 1 stands for the middle of it
ASIDE = (0.6, 1.0, 1.7)  # sizes of the targets, relative to the best at their compute
RESAMPLES, CHUNK = 200, 50
SEED = (
    1  # the settings of `laws.forecasting.model_averaging` were chosen on the sweeps of another seed: these are fresh
)
TOLERANCE = 0.04  # of the coverage of well-specified cells, beside two Monte-Carlo errors
REFERENCE = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
STEEP = {"A": 3500.0, "B": 100.0, "E": 1.7, "alpha": 0.5, "beta": 0.25}
BREAK, SLOWER = 3e20, 0.05  # compute of a break beyond the data, and how much the reducible loss slows down there


def _broken(p, x):
    slower = power(1 + (6 * x["n"] * x["d"] / BREAK) ** 2, SLOWER)
    return p["E"] + (p["A"] * power(x["n"], -p["alpha"]) + p["B"] * power(x["d"], -p["beta"])) * slower


CHINCHILLA = find("chinchilla")
REPEATED = find("data_constrained").with_fixed({"rn": 5.31})


@dataclass(frozen=True)
class Surface:
    """A truth, the law that is fitted to it, and the sizes at which it is probed.

    Args:
        truth, constants: the true law.
        fitted: the law fitted to it.
        specified: whether that law can be the truth.
        note: what is to be expected.
    """

    truth: Law
    constants: dict[str, float]
    fitted: Law
    specified: bool
    note: str

    @property
    def params(self) -> np.ndarray:
        return np.array([self.constants[name] for name in self.truth.names])


SURFACES = {
    "chinchilla": Surface(CHINCHILLA, REFERENCE, CHINCHILLA, True, "the law itself"),
    "asymmetric": Surface(CHINCHILLA, STEEP, CHINCHILLA, True, "alpha far from beta"),
    "data_constrained": Surface(
        REPEATED, REFERENCE | {"rd": 15.4}, REPEATED, True, "up to 8 epochs of unique tokens, rn known"
    ),
    "misspecified": Surface(
        find("coupled").with_fixed({"kappa": 0.8}),
        {"A": 700.0, "B": 900.0, "E": 1.69, "alpha": 0.38, "beta": 0.33},
        CHINCHILLA,
        False,
        "the law fitted lacks the common exponent 0.8 of the truth",
    ),
    "coupled": Surface(
        find("coupled"),
        {"A": 22600.0, "B": 216000.0, "E": 1.69, "alpha": 0.6, "beta": 0.62, "kappa": 0.5},
        CHINCHILLA,
        True,
        "size and data coupled, kappa = 0.5; the forecasts are those of the surfaces, which hold it",
    ),
    "broken": Surface(
        replace(CHINCHILLA, name="broken", value=_broken, optimal_n=None, exponents=None),
        REFERENCE,
        CHINCHILLA,
        False,
        f"the reducible loss falls more slowly beyond {BREAK:g} FLOPs, three times the largest: no run shows it",
    ),
}


def _sizes(compute: np.ndarray) -> np.ndarray:
    """Compute-optimal N of the reference law: where designs and targets are centred."""
    params = np.array([[REFERENCE[name] for name in CHINCHILLA.names]])
    return allocate(CHINCHILLA, params, compute, TokenCost(), (1e7, 1e10)).n[0]


def _isoflop() -> tuple[np.ndarray, np.ndarray]:
    compute = np.repeat(np.geomspace(1e18, 1e20, 6), 5)
    n = _sizes(compute) * np.tile(np.geomspace(0.35, 2.8, 5), 6)
    return n, compute / (6 * n)


def _ladder() -> tuple[np.ndarray, np.ndarray]:
    runs = overtrained()
    return runs["n"], runs["d"]


def _wide() -> tuple[np.ndarray, np.ndarray]:
    compute = np.repeat(np.geomspace(1e18, 1e20, 6), 7)
    n = _sizes(compute) * np.tile(np.geomspace(0.1, 10, 7), 6)
    return n, compute / (6 * n)


DESIGNS = {"isoflop": _isoflop, "ladder": _ladder, "wide": _wide}
NOISES = (0.003, 0.01)
CELLS = [
    *itertools.product(
        ("chinchilla", "asymmetric", "coupled", "data_constrained", "misspecified"), ("isoflop", "ladder"), NOISES
    ),
    *itertools.product(("broken",), ("isoflop",), NOISES),
    *itertools.product(("coupled",), ("wide",), NOISES),  # sizes up to ten times off the best, either way
]


def columns_of(n: np.ndarray, d: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
    """The variables of runs that see their unique tokens so often."""
    return {"n": n, "d": d, "c": 6 * n * d, "unique_tokens": d / epochs}


@dataclass(frozen=True)
class Setting:
    """One cell: its runs, and where it is probed.

    Args:
        columns, targets: variables of the runs and of the targets; these are three to each factor of ``FACTORS``.
    """

    surface: Surface
    columns: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    noise: float

    @classmethod
    def of(cls, surface: str, design: str, noise: float) -> "Setting":
        n, d = DESIGNS[design]()
        columns = columns_of(n, d, np.resize([1.0, 2.0, 4.0, 8.0, 3.0], len(n)))
        top, middle = columns["c"].max(), np.exp(np.log(columns["c"]).mean())
        compute = np.repeat([middle if factor == 1 else factor * top for factor in FACTORS], len(ASIDE))
        ratio = np.exp(np.mean(np.log(n / _sizes(columns["c"]))))  # the design's own distance from the optimum
        sizes = _sizes(compute) * ratio * np.tile(ASIDE, len(FACTORS))
        return cls(
            SURFACES[surface], columns, columns_of(sizes, compute / (6 * sizes), np.full(len(sizes), 4.0)), noise
        )


def _quantiles(draws: np.ndarray) -> np.ndarray:
    """Ends of the intervals of all levels: (levels, 2, targets)."""
    return np.stack([np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0) for level in LEVELS])


def oracle(setting: Setting, log_loss: np.ndarray) -> np.ndarray:
    """Intervals of one who knows the form and the noise: least squares, linearised. (sweeps, kinds, levels, 2, targets)"""
    from scipy.special import ndtri

    surface, runs = setting.surface, log_loss.shape[1]
    joined = {
        variable: np.r_[setting.columns[variable], setting.targets[variable]] for variable in surface.truth.columns
    }
    count = len(setting.targets["n"])
    padded = np.pad(log_loss, ((0, 0), (0, count)))
    weight = np.r_[np.ones(runs), np.zeros(count)][None]  # targets weigh nothing, but their slopes are wanted
    start = np.tile(surface.params, (len(log_loss), 1))
    refits = refit(surface.truth, joined, padded, weight, start, "log_squared", slopes=True)
    assert refits.slopes is not None
    fitted, new = refits.slopes[:, :runs], refits.slopes[:, runs:]
    squares = np.einsum("sti,stj->sij", fitted, fitted)
    solved = np.linalg.solve(squares + 1e-12 * np.eye(fitted.shape[2]), np.swapaxes(new, 1, 2))
    variance = setting.noise**2 * np.einsum("sti,sit->st", new, solved)
    centre = log_predictions(surface.truth, refits.params, setting.targets)
    deviation = np.sqrt(np.stack([variance, variance + setting.noise**2], axis=1))
    normal = np.array([[ndtri((1 - level) / 2), ndtri((1 + level) / 2)] for level in LEVELS])
    return centre[:, None, None, None] + normal[None, None, :, :, None] * deviation[:, :, None, None]


def intervals(setting: Setting, log_loss: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of `laws`, (sweeps, kinds, levels, 2, targets), and how the refits went."""
    law, (sweeps, runs) = setting.surface.fitted, log_loss.shape
    truth = log_predictions(setting.surface.truth, setting.surface.params[None], setting.columns)
    constants = [setting.surface.constants.get(name, 1.0) for name in law.names]
    every = np.ones((1, runs))
    near = refit(law, setting.columns, truth, every, np.array([constants]), delta=0.1).params
    near = refit(law, setting.columns, truth, every, near).params
    aside = near * np.where([name in ("alpha", "beta") for name in law.names], 1.2, 1.0)
    starts = [refit(law, setting.columns, log_loss, every, np.tile(start, (sweeps, 1))) for start in (near, aside)]
    better = np.where((starts[0].value <= starts[1].value)[:, None], starts[0].params, starts[1].params)
    stratum = budget_groups(setting.columns["c"])
    fits = DesignFits(law, setting.columns, log_loss, np.arange(runs), stratum, np.ones(runs), better)
    count = len(law.names)
    deviation = residual_scale(log_loss - fits.predicted, fits.run, count, fits.objective, fits.delta)
    drawn = draw_bootstrap_errors(fits, leave_one_out(fits), deviation, runs - count, RESAMPLES, rng)
    refits = wild_refits(fits, drawn)
    draws = refits.params.reshape(sweeps, RESAMPLES, count)
    members = members_of(fits, draws, lambda: drawn, prior_of("public"), int(rng.integers(2**31)))
    ranges = {variable: (float(values.min()), float(values.max())) for variable, values in setting.columns.items()}
    ranges = {variable: ranges[variable] for variable in (*law.columns, "c")}
    ends = []
    for i in range(sweeps):
        noise, seed = RunNoise(None, float(deviation[i]), runs - count), int(rng.integers(2**31))
        extrapolation_inflation = pooled_inflation(members, i)
        predictor = Predictor(
            law, better[i], draws[i], TokenCost(), noise, ranges, 0.95, seed, rivals_of(members, i), extrapolation_inflation
        )  # fmt: skip
        mean = predictor.log_losses(setting.targets)
        ends.append(np.stack([_quantiles(mean), _quantiles(np.log(predictor.scattered(mean, setting.targets)))]))
    went = np.array([[1 - refits.converged.mean(), refits.at_bound.any(axis=1).mean(), _weight_of_law(members, law)]])
    return np.array(ends), went


def _weight_of_law(members: list[Member], law: Law) -> float:
    """Mean weight of the forms of a law."""
    return float(np.mean(np.sum([form.weight for form in members if form.law is law], axis=0)))


def simulate(cell: tuple[str, str, float], chunk: int, sweeps: int) -> dict[str, np.ndarray]:
    """Hits, widths and interval scores of some sweeps of a cell, in percent of the loss: (sweeps, kinds, levels, factors).

    Kinds are the mean surface and a new run. The interval score is the width plus 2 / (1 - level) times the distance by
    which the truth lies outside (Gneiting and Raftery 2007, equation 43).
    """
    setting = Setting.of(*cell)
    rng = np.random.default_rng([SEED, chunk, CELLS.index(cell)])
    truth = setting.surface.truth
    mean, at_targets = (
        log_predictions(truth, setting.surface.params[None], columns)[0]
        for columns in (setting.columns, setting.targets)
    )
    log_loss = mean + setting.noise * rng.standard_normal((sweeps, len(mean)))
    outcome = np.stack(
        [np.tile(at_targets, (sweeps, 1)), at_targets + setting.noise * rng.standard_normal((sweeps, len(at_targets)))],
        axis=1,
    )
    out: dict[str, np.ndarray] = {}
    ours, went = intervals(setting, log_loss, rng)
    for name, ends in (("ours", ours), ("oracle", oracle(setting, log_loss))):
        low, high, y = ends[:, :, :, 0], ends[:, :, :, 1], outcome[:, :, None]
        beyond = np.maximum(low - y, 0) + np.maximum(y - high, 0)
        score = high - low + 2 / (1 - np.array(LEVELS))[:, None] * beyond
        for key, values in (("hit", beyond == 0), ("width", 100 * (high - low)), ("score", 100 * score)):
            shaped = values.reshape(*values.shape[:3], len(FACTORS), len(ASIDE))
            out[f"{name}_{key}"] = shaped.mean(axis=-1)
    return out | {"refits": np.repeat(went, sweeps, axis=0)}


def _verdict(cell: tuple[str, str, float], cell_summary: dict[str, Any]) -> list[str]:
    """Where a well-specified cell misses what it should keep: coverage in range and at 10 times, width in range."""
    if not SURFACES[cell[0]].specified:
        return []
    out = []
    for kind, factor in itertools.product(("mean", "run"), ("1", "10")):
        for level in LEVELS:
            counted = cell_summary[kind][factor][f"{level:.0%}"]
            if abs(counted["coverage"] - level) > TOLERANCE + 2 * counted["error"]:
                out.append(f"{kind} at {factor}x: {level:.0%} intervals cover {counted['coverage']:.1%}")
    wide = cell_summary["mean"]["1"]["95%"]
    if wide["width"] > 2 * wide["oracle_width"]:
        out.append(f"95% intervals in range are {wide['width'] / wide['oracle_width']:.2f} times the oracle's")
    return out


def summary(cell: tuple[str, str, float], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a cell."""
    sweeps = len(arrays["ours_hit"])
    out: dict[str, Any] = {"sweeps": sweeps, "well_specified": SURFACES[cell[0]].specified}
    for k, kind in enumerate(("mean", "run")):
        out[kind] = {str(factor): {} for factor in FACTORS}
        for (i, level), (j, factor) in itertools.product(enumerate(LEVELS), enumerate(FACTORS)):
            values = {key: array[:, k, i, j] for key, array in arrays.items() if key != "refits"}
            out[kind][str(factor)][f"{level:.0%}"] = {
                "coverage": float(values["ours_hit"].mean()),
                "error": float(values["ours_hit"].std() / np.sqrt(sweeps)),
                "width": float(np.median(values["ours_width"])),
                "score": float(values["ours_score"].mean()),
                "oracle_coverage": float(values["oracle_hit"].mean()),
                "oracle_width": float(np.median(values["oracle_width"])),
                "oracle_score": float(values["oracle_score"].mean()),
            }
    names = ("refits_not_converged", "refits_at_bound", "weight_of_the_law")
    out |= dict(zip(names, map(float, arrays["refits"].mean(axis=0)), strict=True))
    return out | {"misses": _verdict(cell, out)}


def name_of(cell: tuple[str, str, float]) -> str:
    """As in the report and in the names of files."""
    surface, design, noise = cell
    return f"{surface}-{design}-{noise:g}"


NAMED = {name_of(cell): cell for cell in CELLS} | {name: name for name in INTERVAL_CELLS} | SCORE_CELLS


def simulate_any(cell: tuple[str, str, float] | str | ScoreCell, chunk: int, sweeps: int) -> dict[str, np.ndarray]:
    """Some sweeps of a cell of predictions, of one of intervals (by its name), or of one of scores."""
    if isinstance(cell, str):
        return interval_cells.simulate(cell, chunk, sweeps, SEED)
    if isinstance(cell, ScoreCell):
        return score_cells.simulate(cell, chunk, sweeps, SEED)
    return simulate(cell, chunk, sweeps)


def report(work: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """All cells that have been begun, and those of an earlier report."""
    of_intervals, of_scores = (earlier.get(part, {}).get("cells", {}) for part in ("intervals", "scores"))
    cells = summaries({name_of(cell): cell for cell in CELLS}, work, summary, earlier.get("cells", {}))
    intervals = summaries({name: name for name in INTERVAL_CELLS}, work, interval_cells.summary, of_intervals)
    return {
        "task": "coverage of the intervals of L(N, D) on simulated sweeps; widths and interval scores in percent of the "
        "loss; factors of the largest compute, 1 being in range; 'mean' the surface, 'run' a new run",
        "resamples": RESAMPLES,
        "surfaces": {name: surface.note for name, surface in SURFACES.items()},
        "cells": cells,
        "misses": {name: entry["misses"] for name, entry in cells.items() if entry["misses"]},
        "intervals": {
            "task": "coverage of the 95% intervals of constants and of what is derived from them, by interval method",
            "resamples": interval_cells.RESAMPLES,
            "claimed_coverage": interval_cells.CLAIMED,
            "cells": intervals,
            "misses": [
                f"{name}: {method}"
                for name, entry in intervals.items()
                for method, figures in entry["methods"].items()
                if figures["claimed"] and not figures["kept"]
            ],
        },
        "scores": {
            "task": "whether what `laws.score` measures lies in the 95% interval of one run at the target, the law being "
            "known; distances in standard deviations of a run",
            "cells": summaries(SCORE_CELLS, work, score_cells.summary, of_scores),
        },
    }


if __name__ == "__main__":
    sys.exit(run("coverage", __doc__, NAMED, 1000, CHUNK, simulate_any, report))
