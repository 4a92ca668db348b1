"""Draws of two fits whose runs are paired: runs that share data order or seed err together, so the fits do as well.

The draws of each fit stay as they are; what is chosen is which draw of A goes with which of B. Let x and y be how far two
draws move the predictions of the paired runs, in units of the noise. Two fits to runs whose scores correlate by r have
draws joined with density exp(r / (1 - r^2) x.y), scaled until either fit keeps its own draws in equal shares: for normal
draws of one design this is the joint distribution of the two fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from laws.base.errors import InputError
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.posterior import NU
from laws.inference.noise import NORMAL, m_estimator_moments

if TYPE_CHECKING:
    from laws.results.results import FitResult

FEWEST_PAIRS = 8  # paired runs: of fewer the correlation of the errors is not known
LEVEL = 0.95  # of the correlation's interval, which must lie above zero
LARGEST = 0.995  # correlation of scores, at most: draws are too few to show a closer one
CORRELATIONS = 8  # values of the uncertain correlation that the draws are spread over
ROUNDS = 60  # of scaling rows and columns
SIMULATED = 20_000  # pairs of normal errors whose scores are correlated


class PairedBy(StrEnum):
    """What makes a run of A and one of B a pair."""

    RUN = "the column of the run"
    POINT_AND_SEED = "equal N, D and seed"
    POINT = "equal N and D"


@dataclass(frozen=True)
class Pairing:
    """Runs of two fits that are paired, and how their errors correlate.

    Args:
        by: what makes a pair.
        n_pairs: how many.
        correlation: of the residuals of paired runs; None with too few of them.
        interval: of the correlation, at 95%.
        used: whether the draws of the two fits are paired: the interval lies above zero.
    """

    by: PairedBy
    n_pairs: int
    correlation: float | None = None
    interval: tuple[float, float] | None = None
    used: bool = False

    def __str__(self) -> str:
        runs = f"{self.n_pairs} runs are paired by {self.by}"
        if self.correlation is None or self.interval is None:
            return f"{runs}, too few to pair the draws"
        low, high = self.interval
        errors = f"their errors correlate by {self.correlation:.2f} [{low:.2f}, {high:.2f}]"
        return f"{runs}; {errors}: " + ("draws are paired" if self.used else "draws are independent")


@dataclass(frozen=True)
class _PairedRuns:
    """Rows of the first run of each pair.

    Args:
        by: what makes a pair.
        first, second: for each pair the rows of A and of B, averaged with equal weight.
    """

    by: PairedBy
    first: list[Int[np.ndarray, " rows"]]
    second: list[Int[np.ndarray, " rows"]]


def _keys(fit: FitResult, by: PairedBy) -> list[tuple[str, ...]] | None:
    """What identifies each row's run under a rule; None where the fit does not say."""
    rows = fit.report.data
    if by == PairedBy.RUN:
        return [(run,) for run in rows.run] if "run" in fit.report.columns else None
    if not {"n", "d"} <= set(rows.values) or (by == PairedBy.POINT_AND_SEED and rows.seed is None):
        return None
    point = [(f"{n:.5g}", f"{d:.5g}") for n, d in zip(rows.values["n"], rows.values["d"], strict=True)]
    seeds = rows.seed if by == PairedBy.POINT_AND_SEED and rows.seed is not None else ("",) * len(point)
    return [(*key, seed) for key, seed in zip(point, seeds, strict=True)]


def _rows_by_key(keys: list[tuple[str, ...]], run: tuple[str, ...], by: PairedBy) -> dict[tuple[str, ...], np.ndarray]:
    """The rows of each key that one run alone has: repeats of a point do not say which goes with which.

    Args:
        keys: of the rows.
        run: of each row.
        by: what makes a pair.
    """
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    alone = {key: np.array(which) for key, which in rows.items() if len({run[row] for row in which}) == 1}
    return alone if by == PairedBy.RUN else {key: which for key, which in alone.items() if len(which) == 1}


def paired_runs(a: FitResult, b: FitResult) -> _PairedRuns | None:
    """Runs of two fits that are paired by the first rule under which any are; None where none are."""
    for by in PairedBy:
        keys_a, keys_b = _keys(a, by), _keys(b, by)
        if keys_a is None or keys_b is None:
            continue
        rows_a, rows_b = (_rows_by_key(keys, fit.report.data.run, by) for keys, fit in ((keys_a, a), (keys_b, b)))
        shared = [key for key in rows_a if key in rows_b]
        if shared:
            return _PairedRuns(by, [rows_a[key] for key in shared], [rows_b[key] for key in shared])
    return None


def _means(values: Float[np.ndarray, "*draws rows"], rows: list[np.ndarray]) -> Float[np.ndarray, "*draws pairs"]:
    return np.stack([values[..., which].mean(axis=-1) for which in rows], axis=-1)


def _columns(fit: FitResult) -> dict[str, Float[np.ndarray, " rows"]]:
    return {variable: np.asarray(values, float) for variable, values in fit.report.data.values.items()}


def pairing_of(a: FitResult, b: FitResult, runs: _PairedRuns) -> Pairing:
    """How the errors of paired runs correlate, by Fisher's transform.

    Args:
        a, b: the fits.
        runs: their pairs.
    """
    pairing = Pairing(runs.by, len(runs.first))
    dof = pairing.n_pairs - max(len(a.law.names), len(b.law.names)) - 2
    if pairing.n_pairs < FEWEST_PAIRS or dof < 1:
        return pairing
    residuals = [_means(_residuals(fit), rows) for fit, rows in ((a, runs.first), (b, runs.second))]
    if not all(np.std(values) > 0 for values in residuals):
        return pairing
    correlation = float(np.clip(np.corrcoef(np.stack(residuals))[0, 1], -LARGEST, LARGEST))
    reach = ndtri((1 + LEVEL) / 2) / np.sqrt(dof)
    low, high = np.tanh(np.arctanh(correlation) + np.array([-reach, reach]))
    return replace(pairing, correlation=correlation, interval=(float(low), float(high)), used=bool(low > 0))


def _residuals(fit: FitResult) -> Float[np.ndarray, " rows"]:
    """Residuals of the fitted rows about the forecast, in log loss."""
    predictor, columns = fit.predictor, _columns(fit)
    centre = predictor.central_losses(columns, predictor.log_losses(columns))
    return np.log(np.asarray(fit.report.data.loss)) - np.log(centre)


def _noise(fit: FitResult) -> float:
    """Standard deviation of a run as the draws of its fit reflect it: that of efficient least squares would be smaller."""
    predictor = fit.predictor
    if predictor.of_surfaces:
        squares = [form.weight * np.mean(np.square(form.noise)) for form in predictor.forms if form.noise is not None]
        return float(np.sqrt((NU + 3) / (NU + 1) * np.sum(squares)))
    objective = fit.report.objective
    moments = m_estimator_moments(NORMAL, np.array([predictor.noise.deviation]), objective.name, objective.delta)
    return float(np.sqrt(moments[0][0]) / moments[1][0])


def score_correlation(a: FitResult, b: FitResult, correlation: float) -> float:
    """Correlation of the scores of paired runs whose errors are normal with a correlation: estimators follow scores.

    Args:
        a, b: the fits.
        correlation: of the errors.
    """
    rng = np.random.default_rng(0)
    first, own = rng.standard_normal((2, SIMULATED))
    second = correlation * first + np.sqrt(1 - correlation**2) * own
    scores = []
    for fit, error in ((a, first), (b, second)):
        if fit.predictor.of_surfaces:
            scores.append((NU + 1) * error / (NU + error**2))
        else:
            objective = fit.report.objective
            deviation = max(fit.predictor.noise.deviation, 1e-12)
            scores.append(OBJECTIVES[objective.name].psi(-deviation * error, objective.delta))
    return float(np.clip(np.corrcoef(np.stack(scores))[0, 1], -LARGEST, LARGEST))


def _coupled(log_density: Float[np.ndarray, "first second"]) -> Float[np.ndarray, "first second"]:
    """A joint density scaled until every draw of either fit has an equal share.

    Args:
        log_density: without its scaling.

    Source:
        Cuturi 2013, Advances in Neural Information Processing Systems 26 (scaling of rows and columns).
    """
    joint = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    of_column = np.ones(joint.shape[1])
    for _ in range(ROUNDS):
        of_row = 1 / np.maximum(joint @ of_column, np.finfo(float).tiny)
        of_column = 1 / np.maximum(of_row @ joint, np.finfo(float).tiny)
    return joint * of_column


def paired_draws(a: FitResult, b: FitResult, runs: _PairedRuns, pairing: Pairing) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the draws of A and B that go together.

    Args:
        a, b: the fits.
        runs: their pairs.
        pairing: how their errors correlate.
    """
    assert pairing.correlation is not None and pairing.interval is not None
    moves = []
    for fit, rows in ((a, runs.first), (b, runs.second)):
        draws = fit.predictor.log_losses(_columns(fit))
        moves.append(_means(draws - np.median(draws, axis=0), rows) / _noise(fit))
    product = moves[0] @ moves[1].T
    rng = np.random.default_rng([a.predictor.seed, b.predictor.seed])
    half = (np.arctanh(pairing.interval[1]) - np.arctanh(pairing.interval[0])) / 2 / ndtri((1 + LEVEL) / 2)
    quantiles = np.arctanh(pairing.correlation) + half * ndtri((np.arange(CORRELATIONS) + 0.5) / CORRELATIONS)
    first, second = [], []
    for part, transformed in zip(np.array_split(rng.permutation(len(product)), CORRELATIONS), quantiles, strict=True):
        r = score_correlation(a, b, float(np.tanh(transformed)))
        cumulative = np.cumsum(_coupled(r / (1 - r**2) * product)[part], axis=1)
        chosen = np.sum(cumulative < rng.uniform(size=(len(part), 1)) * cumulative[:, -1:], axis=1)
        first.append(part)
        second.append(chosen)
    return np.concatenate(first), np.concatenate(second)


def independent_draws(a: FitResult, b: FitResult, counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of draws of A and B in random order.

    Args:
        a, b: the fits.
        counts: of their draws.
    """
    permutation = np.random.default_rng([a.predictor.seed, b.predictor.seed]).permutation
    count = min(counts)
    return permutation(counts[0])[:count], permutation(counts[1])[:count]


def check_paired(runs: _PairedRuns | None) -> None:
    """Refuses a paired comparison of fits without paired runs.

    Raises:
        InputError: says what would pair them.
    """
    if runs is None:
        raise InputError(
            "no run of A is paired with one of B: name the pair of each run as the column run of both tables, or train "
            "both at equal N and D",
            flag="--paired=auto",
        )
