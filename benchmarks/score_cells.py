"""Cells of `benchmarks.coverage` for scores: which run is compared with a frozen interval of one run.

A law is fitted to runs without noise and a prediction frozen at ten times their compute. Sizes around the predicted best
one are then run with noise and scored. Whether the measurement lies within the noise's 95% interval about the true loss
shows the rule by which it was chosen, and nothing else: the law is known.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

import laws
from laws.uses.preregistration import freeze
from laws.uses.scoring import score

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
TARGET = 1e21
NORMAL = 1.959964  # half width of a central 95% interval, in standard deviations


class ScoreCell(NamedTuple):
    """Runs at the target: sizes a factor apart, and the noise of one run."""

    sizes: int
    factor: float
    noise: float


SCORE_CELLS = {
    "score-7-1.25-0.01": ScoreCell(7, 1.25, 0.01),
    "score-5-1.6-0.01": ScoreCell(5, 1.6, 0.01),
    "score-5-1.6-0.003": ScoreCell(5, 1.6, 0.003),
    "score-5-2-0.003": ScoreCell(5, 2.0, 0.003),
}
RULES = {"nearest": "loss", "lowest": "lowest_loss"}  # what is scored, and the luckiest of the sizes


def _loss(n: ArrayLike, d: ArrayLike) -> np.ndarray:
    p = TRUTH
    return p["E"] + p["A"] / np.asarray(n) ** p["alpha"] + p["B"] / np.asarray(d) ** p["beta"]


def simulate(cell: ScoreCell, chunk: int, tables: int, seed: int) -> dict[str, np.ndarray]:
    """Distances of the measurements from the true loss, in standard deviations of a run: one array a rule.

    Args:
        cell: the runs at the target.
        chunk: number of the chunk, for its draws.
        tables: how many.
        seed: of the whole simulation.
    """
    rng = np.random.default_rng([seed, chunk, cell.sizes, int(1000 * cell.factor), int(1000 * cell.noise)])
    compute = np.repeat(np.geomspace(1e18, 1e20, 4), 4)
    n = np.sqrt(compute / 120) * np.tile(np.geomspace(0.35, 2.8, 4), 4)
    d = compute / (6 * n)
    fit = laws.load(pd.DataFrame({"n": n, "d": d, "loss": _loss(n, d)}), n="n", d="d").fit(resamples=0)
    distances: dict[str, list[float]] = {rule: [] for rule in RULES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prediction.json"
        best = freeze(fit, path, compute=TARGET).prediction.inputs
        truth = np.log(_loss(best["n"], best["d"]))
        for _ in range(tables):
            steps = np.arange(cell.sizes) - cell.sizes // 2 + rng.uniform(-0.5, 0.5)
            sizes = best["n"] * cell.factor**steps
            data = TARGET / (6 * sizes)
            losses = _loss(sizes, data) * np.exp(cell.noise * rng.standard_normal(cell.sizes))
            runs = laws.load(pd.DataFrame({"n": sizes, "d": data, "loss": losses}), n="n", d="d")
            measured = score(path, runs).measured
            for rule, key in RULES.items():
                distances[rule].append((np.log(getattr(measured, key)) - truth) / cell.noise)
    return {rule: np.array(values) for rule, values in distances.items()}


def summary(cell: ScoreCell, distances: dict[str, np.ndarray]) -> dict[str, Any]:
    """Coverage of the 95% interval, share below it and mean distance, by rule."""
    out: dict[str, Any] = cell._asdict() | {"tables": len(distances["nearest"])}
    for rule in RULES:
        inside, below = np.abs(distances[rule]) <= NORMAL, distances[rule] < -NORMAL
        out[rule] = {
            "coverage": float(inside.mean()),
            "error": float(inside.std() / np.sqrt(len(inside))),
            "below": float(below.mean()),
            "mean_distance": float(distances[rule].mean()),
        }
    return out
