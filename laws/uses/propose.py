"""Which runs next: those that most reduce the expected error of a prediction, within a FLOP budget.

The error is that of ``laws.uses.optimal_design``. Two of the runs are chosen by nothing but their distance from the
runs that are there: they test the form, and the others are chosen beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import FitFailed, InputError
from laws.base.json_files import jsonable
from laws.forecasting.prediction import Predictor, extrapolation, warnings_of
from laws.results.results import FitResult
from laws.uses.optimal_design import CandidateRuns, FittedRuns, InformationState, information_state

PREDICTIONS = ("loss", "n")  # at the best split
INFORMATIVE, LACK_OF_FIT = "informative", "lack of fit"
COMPUTES, RATIOS = 2**0.5, 2.0  # steps between the candidates' computes, and their tokens a parameter
WIDER = 1.5  # factor by which candidates' tokens a parameter go beyond those of the runs, on either side
TESTS, KEPT = 2, 0.1  # runs for lack of fit, and the share of the budget that they have at most
LARGEST = 0.25  # share of the budget that one run may cost, by default
SWEEPS = 8  # of exchanges, at most
RUNS, FURTHER = 10, 10.0  # by default: new runs, and the target's distance from the largest run
SIZES, WIDE, BETWEEN = 5, (0.35, 2.8), 2.5  # of an iso-FLOP grid: sizes a budget, relative to the best; between budgets
RANDOM = 16  # random designs that a proposal is compared with


def ratios_of(seen: FittedRuns) -> tuple[float, float]:
    """Fewest and most tokens a parameter of a candidate."""
    ratio = seen.columns["d"] / seen.columns["n"]
    return float(ratio.min() / WIDER), float(ratio.max() * WIDER)


def candidates(predictor: Predictor, seen: FittedRuns, largest: float) -> CandidateRuns:
    """The grid of runs that might be made: from the FLOPs of the smallest run to the largest allowed."""
    steps = int(np.log(largest / predictor.ranges["c"][0]) / np.log(COMPUTES) + 1e-9)
    low, high = ratios_of(seen)
    ratios = np.geomspace(low, high, max(round(np.log(high / low) / np.log(RATIOS)), 2) + 1)
    compute, ratio = np.meshgrid(largest * COMPUTES ** -np.arange(steps + 1.0), ratios, indexing="ij")
    return CandidateRuns.at(predictor.cost, compute.ravel(), ratio.ravel())


def search(
    known: InformationState, cost: Float[np.ndarray, " points"], budget: float, runs: int
) -> Int[np.ndarray, " chosen"]:
    """The points that leave the least error for a budget, none twice: greedy under a few caps, then exchanged."""
    best, found = np.inf, np.zeros(0, int)
    unconstrained = lambda taken, room: (cost <= room * (1 + 1e-9)) & ~np.isin(np.arange(len(cost)), taken)
    for cap in sorted({budget, 2 * budget / runs, budget / runs}):
        chosen = np.zeros(0, int)
        for _ in range(runs):
            room = min(budget - cost[chosen].sum(), max(cap, cost.min()))
            score = np.where(unconstrained(chosen, room), known.with_one_more(chosen), np.inf)
            if np.isfinite(score).any():
                chosen = np.r_[chosen, np.argmin(score)]
        value = known.deviation(chosen)
        for _ in range(SWEEPS):
            before = value
            for _ in range(len(chosen)):
                first, rest = chosen[0], chosen[1:]
                score = np.where(unconstrained(rest, budget - cost[rest].sum()), known.with_one_more(rest), np.inf)
                better = score.min() < value * (1 - 1e-9)
                chosen, value = np.r_[rest, np.argmin(score) if better else first], min(value, score.min())
            if value > before * (1 - 1e-3):
                break
        if value < best:
            best, found = value, chosen
    return found


def remote(points: CandidateRuns, others: CandidateRuns, budget: float, count: int) -> Int[np.ndarray, " chosen"]:
    """The points farthest in log N and log D from all others and from each other, for a budget."""
    at, near = (np.log(np.stack([which.n, which.d], axis=1)) for which in (points, others))
    distance = np.linalg.norm(at[:, None] - near[None], axis=2).min(axis=1)
    chosen: list[int] = []
    for left in range(count, 0, -1):
        room = (budget - points.c[chosen].sum()) / left * (1 + 1e-9)
        chosen.append(int(np.argmax(np.where(points.c <= room, distance, -np.inf))))
        distance = np.minimum(distance, np.linalg.norm(at - at[chosen[-1]], axis=1))
    return np.array(chosen, int)


def choose(
    known: InformationState, points: CandidateRuns, seen: FittedRuns, budget: float, runs: int
) -> Int[np.ndarray, " runs"]:
    """The proposal among candidates: informative points, given those for lack of fit, which come last."""
    tests = remote(points, seen.points, max(KEPT * budget, TESTS * points.c.min()), TESTS)
    left = np.where(np.isin(np.arange(len(points.c)), tests), np.inf, points.c)
    return np.r_[search(known.measured(tests), left, budget - points.c[tests].sum(), runs - TESTS), tests]


def isoflop_grid(predictor: Predictor, budget: float, runs: int) -> CandidateRuns:
    """What is usually done with the same FLOPs: a few sizes around the best at each of a few budgets."""
    levels = np.array_split(np.arange(runs), max(round(runs / SIZES), 1))
    share = np.concatenate([np.full(len(level), BETWEEN**k) for k, level in enumerate(levels)])
    around = np.concatenate([np.geomspace(*WIDE, len(level)) for level in levels])
    compute = budget * share / share.sum()
    n = predictor.allocation(compute).n[0] * around
    return CandidateRuns(n, compute / np.exp(predictor.cost.log_flops_per_token(np.log(n))), compute)


def random_design(
    rng: np.random.Generator, predictor: Predictor, seen: FittedRuns, budget: float, runs: int, largest: float
) -> CandidateRuns:
    """The same FLOPs in runs of random cost and random tokens a parameter, within the candidates' ranges."""
    compute = np.exp(rng.uniform(np.log(predictor.ranges["c"][0]), np.log(largest), runs))
    for _ in range(50):  # shares of the budget, none above the largest
        compute = np.minimum(compute * budget / compute.sum(), largest)
    return CandidateRuns.at(predictor.cost, compute, np.exp(rng.uniform(*map(np.log, ratios_of(seen)), size=runs)))


def propose(
    fitted: FitResult,
    budget: float | None = None,
    runs: int = RUNS,
    *,
    target: float | None = None,
    quantity: str = "loss",
    largest: float | None = None,
) -> dict[str, Any]:
    """The next runs: what to train so that a prediction becomes surer.

    Args:
        fitted: a fit with resamples, of a law of N and D.
        budget: FLOPs of all new runs together; by default what the fitted runs have cost.
        runs: how many at most, those for lack of fit included.
        target: FLOPs of the prediction, split in the best way; by default that of the fit if it lies beyond its runs,
            else ten times the largest run.
        quantity: a key of ``PREDICTIONS``.
        largest: FLOPs that one run may cost; by default a quarter of the budget.

    Returns:
        ``points``: ``n``, ``d``, ``c``, ``tokens_per_param``, ``design_role``, and the ``loss`` that the fit predicts there
        with its ``interval``. ``deviation``: expected relative error of the prediction ``before`` and ``after``, and
        after the same FLOPs in an iso-FLOP grid (``isoflop``) and at ``random``; ``variance_ratio`` to either.

    Raises:
        InputError: the law has no best split, the fit no resamples, or the budget pays for too little.
        FitFailed: there is no best split of the target.
    """
    predictor, report = fitted.predictor, fitted.report
    target, budget = _checked(fitted, budget, runs, target, quantity, largest)
    columns, objective = (
        {variable: np.asarray(report.data.values[variable], np.float64) for variable in "ndc"},
        report.objective,
    )
    seen = FittedRuns.of(columns, report.data.run, predictor.noise.deviation, objective.name, objective.delta)
    point, grid = predictor.allocation(target), isoflop_grid(predictor, budget, runs)
    if not np.isfinite([point.n[0, 0], *grid.n]).all():
        raise FitFailed(f"the fitted law has no compute-optimal size at {target:.4g} FLOPs, or at the budgets before")
    largest = max(LARGEST * budget if largest is None else largest, predictor.ranges["c"][0])
    possible, rng = candidates(predictor, seen, largest), np.random.default_rng([predictor.seed, 3])
    drawn = [random_design(rng, predictor, seen, budget, runs, largest) for _ in range(RANDOM)]
    known, count = (
        information_state(predictor, seen, CandidateRuns.joined([possible, grid, *drawn]), target, quantity),
        len(possible.n),
    )
    chosen = choose(known.among(slice(count)), possible, seen, budget, runs)
    others = [known.deviation(count + runs * k + np.arange(runs)) for k in range(1 + RANDOM)]
    after, points = known.deviation(chosen), possible[chosen]
    deviation = {"before": known.deviation(chosen[:0]), "isoflop": others[0]}
    deviation["random"] = float(np.exp(np.mean(np.log(others[1:]))))
    return jsonable(
        {
            "law": fitted.law.name,
            "quantity": quantity,
            "target": {"c": target} | {name: float(getattr(point, name)[0, 0]) for name in ("n", "d", "loss")},
            "budget": budget,
            "largest": largest,
            "flops": float(points.c.sum()),
            "level": predictor.level,
            "deviation": deviation | {"after": after},
            "variance_ratio": {name: (after / other) ** 2 for name, other in deviation.items()},
            "points": _said(predictor, points),
            "warnings": warnings_of(predictor, extrapolation(predictor.ranges, {"c": target})),
        }
    )


def _said(predictor: Predictor, points: CandidateRuns) -> list[dict[str, Any]]:
    """The points of a proposal with what the fit predicts there."""
    loss, low, high = predictor.losses({"n": points.n, "d": points.d, "c": points.c})
    role = [INFORMATIVE] * (len(loss) - TESTS) + [LACK_OF_FIT] * TESTS
    table = {"n": points.n, "d": points.d, "c": points.c, "tokens_per_param": points.d / points.n, "loss": loss}
    table = {name: values.tolist() for name, values in table.items()}
    table |= {"interval": np.stack([low, high], axis=1).tolist(), "design_role": role}
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _checked(fitted: FitResult, budget, runs, target, quantity, largest) -> tuple[float, float]:
    """Target and budget, with their defaults; refuses what makes no proposal."""
    if not fitted.law.has_compute_optimum:
        raise InputError(
            f"law '{fitted.law.name}' is not of the loss by n and d alone, so it has no optimum to propose for"
        )
    if not fitted.report.intervals.resamples:
        raise InputError("the fit has no resamples, so nothing says what it does not know: fit with resamples above 0")
    if quantity not in PREDICTIONS:
        raise InputError(f"quantity is one of {', '.join(PREDICTIONS)}, and is '{quantity}'")
    if runs <= TESTS:
        raise InputError(f"runs must be at least {TESTS + 1}, as {TESTS} are kept for lack of fit, and is {runs}")
    smallest, top = fitted.report.ranges["c"]
    own = fitted.report.target_flops or 0.0
    target = (own if own > top else FURTHER * top) if target is None else target
    budget = float(np.sum(fitted.report.data.values["c"])) if budget is None else budget
    for name, value in (("budget", budget), ("target", target), ("largest", largest)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive, and is {value}")
    least = (TESTS + 1) * smallest
    if budget < least:
        raise InputError(
            f"a budget of {budget:.4g} FLOPs is too small: {TESTS + 1} runs like the smallest of the fit cost {least:.4g}"
        )
    return float(target), float(budget)
