"""Optimal design of further runs: those that most reduce the expected error of a prediction within a FLOP budget.

The error is that of ``laws.uses.optimal_design``. Two of the runs are chosen by their distance from the fitted runs
alone: they test the form of the law, and the others are chosen given them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import FitFailed, InputError
from laws.base.json_files import jsonable
from laws.data.ladder import ratio_deviation
from laws.forecasting.mixture import Predictor
from laws.forecasting.prediction import extrapolation, warnings_of
from laws.results.report_parts import WarningKind
from laws.results.results import FitResult
from laws.uses.optimal_design import CandidateRuns, FittedRuns, InformationState, information_state

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS = ("loss", "n")  # what can be predicted at the best split
RUNS = 10  # new runs, by default
TARGET_FACTOR = 10.0  # default target over the compute of the largest fitted run
LARGEST_SHARE = 0.25  # default share of the budget that one run may cost
COMPUTE_STEP = 2**0.5  # ratio of neighbouring computes of the candidates
RATIO_STEP = 2.0  # ratio of neighbouring tokens a parameter of the candidates
RATIO_MARGIN = 1.5  # factor by which tokens a parameter of candidates exceed those of the fitted runs, on either side
LEAST_RATIO_RANGE = 10.0  # factor between the most and the fewest tokens a parameter of candidates, at least
SEPARATED = 0.2  # deviation of log(D / N) at equal compute above which runs separate the terms: a fifth of a factor e
OFF_LINE = 3.0  # factor in size, either way at equal compute, of runs that separate the terms where runs are in step
LACK_OF_FIT_RUNS = 2  # runs that test the form of the law, and the least of a proposal beside one informative run
LACK_OF_FIT_SHARE = 0.1  # share of the budget that they cost at most
MAX_EXCHANGES = 8  # passes of exchanges over the chosen runs
MIN_IMPROVEMENT = 1e-3  # relative gain of a pass below which exchanges end
GRID_SIZES = 5  # sizes a budget of the iso-FLOP grid that a proposal is compared with
GRID_SPAN = (0.35, 2.8)  # smallest and largest of these sizes, over the best
GRID_BUDGET_RATIO = 2.5  # ratio of neighbouring budgets of that grid
RANDOM_DESIGNS = 16  # random designs that a proposal is compared with


class DesignRole(StrEnum):
    """What a proposed run is for: to reduce the expected error, or to test the form of the law."""

    INFORMATIVE = "informative"
    LACK_OF_FIT = "lack of fit"


@dataclass(frozen=True)
class ProposedRun:
    """A run to train.

    Args:
        n: parameters.
        d: training tokens.
        c: training FLOPs.
        tokens_per_param: tokens a parameter.
        design_role: what it is for.
        loss: predicted by the fit.
        interval: of the loss of one run, at the level of the fit; a run for lack of fit outside it is evidence against
            the form of the law.
    """

    n: float
    d: float
    c: float
    tokens_per_param: float
    design_role: DesignRole
    loss: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ProposalTarget:
    """Where the prediction is made: FLOPs ``c``, and parameters, tokens and predicted loss of their best split."""

    c: float
    n: float
    d: float
    loss: float


@dataclass(frozen=True)
class ExpectedError:
    """Expected error of the prediction, relative to its value.

    Args:
        before: with the fitted runs alone.
        after: with the proposed runs.
        isoflop: with an iso-FLOP grid of the same FLOPs.
        random: with random runs of the same FLOPs; geometric mean over designs.
    """

    before: float
    after: float
    isoflop: float
    random: float


@dataclass(frozen=True)
class VarianceRatio:
    """Mean squared error after the proposed runs over that ``before``, after an ``isoflop`` grid, and at ``random``."""

    before: float
    isoflop: float
    random: float


@dataclass(frozen=True, repr=False)
class Proposal:
    """Runs to train next, and by how much they are expected to reduce the error of a prediction.

    Args:
        law: name of the fitted law.
        quantity: what is predicted at the best split: ``loss`` or ``n``.
        target: where.
        budget: training FLOPs for all runs together.
        largest: training FLOPs that one run may cost.
        flops: training FLOPs of the proposed runs together.
        level: nominal coverage of the intervals.
        expected_error: of the prediction, before and after.
        points: the proposed runs, those for lack of fit last.
        warnings: what a reader must know.
    """

    law: str
    quantity: str
    target: ProposalTarget
    budget: float
    largest: float
    flops: float
    level: float
    expected_error: ExpectedError
    points: tuple[ProposedRun, ...]
    warnings: tuple[str, ...]

    @property
    def variance_ratio(self) -> VarianceRatio:
        """Expected mean squared error after the proposed runs over that of each alternative."""
        error = self.expected_error
        return VarianceRatio(*((error.after / other) ** 2 for other in (error.before, error.isoflop, error.random)))

    def frame(self) -> pd.DataFrame:
        """The proposed runs as a table.

        Returns:
            a row a run: ``n``, ``d``, ``c``, ``tokens_per_param``, ``design_role``, ``loss``, and ``low`` and ``high`` of
            its interval.
        """
        import pandas as pd

        rows = [
            {name: value for name, value in asdict(point).items() if name != "interval"}
            | {"design_role": str(point.design_role), "low": point.interval[0], "high": point.interval[1]}
            for point in self.points
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """The proposal as JSON can hold it, with ``variance_ratio``."""
        return jsonable(msgspec.to_builtins(self) | {"variance_ratio": msgspec.to_builtins(self.variance_ratio)})

    def __repr__(self) -> str:
        error = self.expected_error
        return (
            f"<Proposal of {len(self.points)} runs for {self.flops:.3g} FLOPs: expected error of {self.quantity} at "
            f"{self.target.c:.3g} FLOPs {error.before:.2%} -> {error.after:.2%}>"
        )


def ratio_range(fitted_runs: FittedRuns) -> tuple[float, float]:
    """Fewest and most tokens a parameter of a candidate: those of the runs and beyond, at least ``LEAST_RATIO_RANGE`` apart.

    Runs of one ratio do not tell the terms of size and data apart, and neither would candidates of that ratio.
    """
    ratio = fitted_runs.columns["d"] / fitted_runs.columns["n"]
    middle, half = np.sqrt(ratio.min() * ratio.max()), np.sqrt(LEAST_RATIO_RANGE)
    low, high = ratio.min() / RATIO_MARGIN, ratio.max() * RATIO_MARGIN
    return float(min(low, middle / half)), float(max(high, middle * half))


def candidates(predictor: Predictor, fitted_runs: FittedRuns, largest: float) -> CandidateRuns:
    """Grid of runs that could be trained, in compute and tokens a parameter.

    Args:
        predictor: of the fit.
        fitted_runs: its runs; the grid begins at the FLOPs of the smallest.
        largest: training FLOPs of the largest candidate.
    """
    steps = int(np.log(largest / predictor.ranges["c"][0]) / np.log(COMPUTE_STEP) + 1e-9)
    low, high = ratio_range(fitted_runs)
    ratios = np.geomspace(low, high, max(round(np.log(high / low) / np.log(RATIO_STEP)), 2) + 1)
    compute, ratio = np.meshgrid(largest * COMPUTE_STEP ** -np.arange(steps + 1.0), ratios, indexing="ij")
    return CandidateRuns.at_ratio(predictor.cost, compute.ravel(), ratio.ravel())


def search_design(
    state: InformationState, cost: Float[np.ndarray, " points"], budget: float, runs: int
) -> Int[np.ndarray, " chosen"]:
    """Candidates with the least expected error within a budget, none twice.

    Runs are added greedily under each of three caps on the cost of one run, then exchanged one at a time (as in the
    algorithm of Fedorov 1972, Theory of Optimal Experiments); the best of the three designs is returned.

    Args:
        state: information of the runs and of the candidates.
        cost: training FLOPs of each candidate; infinite for one that may not be chosen.
        budget: training FLOPs of all chosen together.
        runs: how many at most.
    """
    best_error, best_design = np.inf, np.zeros(0, int)
    affordable = lambda taken, remaining: (cost <= remaining * (1 + 1e-9)) & ~np.isin(np.arange(len(cost)), taken)
    for cap in sorted({budget, 2 * budget / runs, budget / runs}):
        chosen = np.zeros(0, int)
        for _ in range(runs):
            remaining = min(budget - cost[chosen].sum(), max(cap, cost.min()))
            errors = np.where(affordable(chosen, remaining), state.expected_error_with_one_more(chosen), np.inf)
            if np.isfinite(errors).any():
                chosen = np.r_[chosen, np.argmin(errors)]
        error = state.expected_error(chosen)
        for _ in range(MAX_EXCHANGES):
            error_before = error
            for _ in range(len(chosen)):
                first, rest = chosen[0], chosen[1:]
                remaining = budget - cost[rest].sum()
                errors = np.where(affordable(rest, remaining), state.expected_error_with_one_more(rest), np.inf)
                improves = errors.min() < error * (1 - 1e-9)
                chosen, error = np.r_[rest, np.argmin(errors) if improves else first], min(error, errors.min())
            if error > error_before * (1 - MIN_IMPROVEMENT):
                break
        if error < best_error:
            best_error, best_design = error, chosen
    return best_design


def farthest_points(
    points: CandidateRuns, others: CandidateRuns, budget: float, count: int
) -> Int[np.ndarray, " chosen"]:
    """Candidates farthest from other runs and from each other in log N and log D (a maximin-distance design).

    Args:
        points: the candidates.
        others: the other runs.
        budget: training FLOPs of all chosen together.
        count: how many; each may cost an equal part of what is left of the budget.

    Source:
        Johnson, Moore and Ylvisaker 1990, Minimax and maximin distance designs, Journal of Statistical Planning and
        Inference 26.
    """
    position, other_position = (np.log(np.stack([which.n, which.d], axis=1)) for which in (points, others))
    distance = np.linalg.norm(position[:, None] - other_position[None], axis=2).min(axis=1)
    chosen: list[int] = []
    for to_choose in range(count, 0, -1):
        cap = (budget - points.c[chosen].sum()) / to_choose * (1 + 1e-9)
        chosen.append(int(np.argmax(np.where(points.c <= cap, distance, -np.inf))))
        distance = np.minimum(distance, np.linalg.norm(position - position[chosen[-1]], axis=1))
    return np.array(chosen, int)


def choose_design(
    state: InformationState, points: CandidateRuns, fitted_runs: FittedRuns, budget: float, runs: int
) -> Int[np.ndarray, " runs"]:
    """The proposed candidates: informative ones, and last those for lack of fit, given which the others are chosen.

    Args:
        state: information of the runs and of the candidates.
        points: the candidates.
        fitted_runs: the runs of the fit.
        budget: training FLOPs of all chosen together.
        runs: how many at most.
    """
    tests_budget = max(LACK_OF_FIT_SHARE * budget, LACK_OF_FIT_RUNS * points.c.min())
    tests = farthest_points(points, fitted_runs.points, tests_budget, LACK_OF_FIT_RUNS)
    cost = np.where(np.isin(np.arange(len(points.c)), tests), np.inf, points.c)
    remaining = budget - points.c[tests].sum()
    informative = search_design(state.with_measured(tests), cost, remaining, runs - LACK_OF_FIT_RUNS)
    return np.r_[informative, tests]


def isoflop_grid(predictor: Predictor, budget: float, runs: int) -> CandidateRuns:
    """An iso-FLOP grid of the same FLOPs: a few sizes around the best at each of a few budgets.

    Args:
        predictor: of the fit, which gives the best sizes.
        budget: training FLOPs of all runs together.
        runs: how many.
    """
    levels = np.array_split(np.arange(runs), max(round(runs / GRID_SIZES), 1))
    relative_cost = np.concatenate([np.full(len(level), GRID_BUDGET_RATIO**k) for k, level in enumerate(levels)])
    relative_size = np.concatenate([np.geomspace(*GRID_SPAN, len(level)) for level in levels])
    compute = budget * relative_cost / relative_cost.sum()
    n = predictor.allocation(compute).n[0] * relative_size
    return CandidateRuns(n, compute / np.exp(predictor.cost.log_flops_per_token(np.log(n))), compute)


def random_design(
    rng: np.random.Generator,
    predictor: Predictor,
    fitted_runs: FittedRuns,
    budget: float,
    runs: int,
    largest: float,
) -> CandidateRuns:
    """Runs of random compute and random tokens a parameter that cost the same FLOPs together.

    Args:
        rng: random numbers.
        predictor: of the fit.
        fitted_runs: its runs, which set the ranges of both.
        budget: training FLOPs of all runs together.
        runs: how many.
        largest: training FLOPs that one run may cost.
    """
    compute = np.exp(rng.uniform(np.log(predictor.ranges["c"][0]), np.log(largest), runs))
    for _ in range(50):  # scaled to the budget and capped in turn, until both hold
        compute = np.minimum(compute * budget / compute.sum(), largest)
    ratio = np.exp(rng.uniform(*map(np.log, ratio_range(fitted_runs)), size=runs))
    return CandidateRuns.at_ratio(predictor.cost, compute, ratio)


def propose(
    fitted: FitResult,
    budget: float | None = None,
    runs: int = RUNS,
    *,
    target: float | None = None,
    quantity: str = "loss",
    largest: float | None = None,
) -> Proposal:
    """Runs that most reduce the expected error of a prediction at a best split, within a FLOP budget.

    Args:
        fitted: a fit with resamples, of a law of N and D.
        budget: training FLOPs of all new runs together; by default what the fitted runs have cost.
        runs: how many at most, those for lack of fit included.
        target: training FLOPs of the prediction, split in the best way; by default that of the fit if it lies beyond its
            runs, else ten times the largest run.
        quantity: what is predicted there, one of ``PREDICTIONS``.
        largest: training FLOPs that one run may cost; by default a quarter of the budget.

    Returns:
        the runs, with the expected error before and after them and after other designs of the same FLOPs.

    Raises:
        InputError: the law has no best split, the runs are in step (the message names runs that would separate the terms
            of size and data), the fit has no resamples, or the budget pays for too little.
        FitFailed: there is no best split of the target.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 4), np.tile([1e9, 4e9, 2e10, 1e11], 3)
        >>> noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(12))
        >>> table = pd.DataFrame({"n": n, "d": d, "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise})
        >>> proposal = laws.propose(laws.load(table, n="n", d="d").fit(resamples=50), budget=1e21, runs=5)
        >>> proposal.frame().design_role.value_counts().to_dict()
        {'informative': 3, 'lack of fit': 2}
        >>> proposal.flops <= 1e21, proposal.expected_error.after < proposal.expected_error.before
        (True, True)
    """
    predictor, report = fitted.predictor, fitted.report
    target, budget = _checked_request(fitted, budget, runs, target, quantity, largest)
    columns = {variable: np.asarray(report.data.values[variable], np.float64) for variable in "ndc"}
    objective, deviation = report.objective, predictor.noise.deviation
    fitted_runs = FittedRuns.of(columns, report.data.run, deviation, objective.name, objective.delta)
    split, grid = predictor.allocation(target), isoflop_grid(predictor, budget, runs)
    if not np.isfinite([split.n[0, 0], *grid.n]).all():
        raise FitFailed(f"the fitted law has no compute-optimal size at {target:.4g} FLOPs, or at the budgets before")
    largest = max(LARGEST_SHARE * budget if largest is None else largest, predictor.ranges["c"][0])
    possible, rng = candidates(predictor, fitted_runs, largest), np.random.default_rng([predictor.seed, 3])
    random_designs = [random_design(rng, predictor, fitted_runs, budget, runs, largest) for _ in range(RANDOM_DESIGNS)]
    all_candidates = CandidateRuns.joined([possible, grid, *random_designs])
    state, count = information_state(predictor, fitted_runs, all_candidates, target, quantity), len(possible.n)
    chosen = choose_design(state.subset(slice(count)), possible, fitted_runs, budget, runs)
    errors = [state.expected_error(count + runs * k + np.arange(runs)) for k in range(1 + RANDOM_DESIGNS)]
    points = possible[chosen]
    return Proposal(
        law=fitted.law.name,
        quantity=quantity,
        target=ProposalTarget(target, *(float(getattr(split, name)[0, 0]) for name in ("n", "d", "loss"))),
        budget=budget,
        largest=largest,
        flops=float(points.c.sum()),
        level=predictor.level,
        expected_error=ExpectedError(
            before=state.expected_error(chosen[:0]),
            after=state.expected_error(chosen),
            isoflop=errors[0],
            random=float(np.exp(np.mean(np.log(errors[1:])))),
        ),
        points=_proposed_runs(predictor, points),
        warnings=(
            *warnings_of(predictor, extrapolation(predictor.ranges, {"c": target})),
            *_terms_not_separated(fitted, points),
        ),
    )


def _terms_not_separated(fitted: FitResult, points: CandidateRuns) -> list[str]:
    """That the fitted runs do not tell the terms of size and data apart, and what the proposed ones span."""
    log_n, log_d, log_c = (np.log(fitted.report.data.values[variable]) for variable in "ndc")
    told = any(warning.kind == WarningKind.RATIO_IDENTIFIES_NOTHING for warning in fitted.warnings)
    if not told and ratio_deviation(log_n, log_d, log_c) > SEPARATED:
        return []
    ratio = points.d / points.n
    return [
        "the fitted runs hardly separate the terms of size and data (D / N varies too little); the proposed runs have "
        f"{ratio.min():.3g} to {ratio.max():.3g} tokens a parameter"
    ]


def _check_not_in_step(fitted: FitResult) -> None:
    """Refuses runs whose size and data are in step, and names those that would separate their terms.

    Raises:
        InputError: they are in step.
    """
    ladder = fitted.report.ladder
    if ladder is None:
        return
    predictor, data = fitted.predictor, np.unique(fitted.report.data.values["c"])
    compute = data[[len(data) // 2, -1]]
    sizes = ladder.n_at(np.repeat(compute, 2)) * np.tile([1 / OFF_LINE, OFF_LINE], 2)
    flops = np.repeat(compute, 2)
    tokens = flops / np.exp(predictor.cost.log_flops_per_token(np.log(sizes)))
    listed = ", ".join(f"n {n:.3g} with d {d:.3g}" for n, d in zip(sizes, tokens, strict=True))
    raise InputError(
        f"n and d of the fitted runs are in step, so nothing separates the terms of size and data: train runs off their "
        f"line first, as {listed} ({flops.sum():.3g} FLOPs together), and fit again"
    )


def _proposed_runs(predictor: Predictor, points: CandidateRuns) -> tuple[ProposedRun, ...]:
    """The chosen candidates with their roles and what the fit predicts of them."""
    predictions = np.stack(predictor.losses({"n": points.n, "d": points.d, "c": points.c}), axis=1)
    informative = len(predictions) - LACK_OF_FIT_RUNS
    return tuple(
        ProposedRun(
            n=float(n),
            d=float(d),
            c=float(c),
            tokens_per_param=float(d / n),
            design_role=DesignRole.INFORMATIVE if i < informative else DesignRole.LACK_OF_FIT,
            loss=float(loss),
            interval=(float(low), float(high)),
        )
        for i, (n, d, c, (loss, low, high)) in enumerate(zip(points.n, points.d, points.c, predictions, strict=True))
    )


def _checked_request(fitted: FitResult, budget, runs, target, quantity, largest) -> tuple[float, float]:
    """Training FLOPs of the target and of the budget, with their defaults; refuses requests without a proposal.

    Args:
        fitted: the fit.
        budget: training FLOPs of the new runs, or None.
        runs: how many at most.
        target: training FLOPs of the prediction, or None.
        quantity: what is predicted.
        largest: training FLOPs of one run, or None.
    """
    _check_not_in_step(fitted)
    if not fitted.law.has_compute_optimum:
        raise InputError(
            f"law '{fitted.law.name}' is not of the loss by n and d alone, so it has no optimum to propose for"
        )
    if not fitted.report.intervals.resamples:
        raise InputError("the fit has no resamples, so nothing says what it does not know: fit with resamples above 0")
    if quantity not in PREDICTIONS:
        raise InputError(f"quantity is one of {', '.join(PREDICTIONS)}, and is '{quantity}'")
    fewest = LACK_OF_FIT_RUNS + 1
    if runs < fewest:
        raise InputError(
            f"runs must be at least {fewest}, as {LACK_OF_FIT_RUNS} are kept for lack of fit, and is {runs}"
        )
    smallest, largest_fitted = fitted.report.ranges["c"]
    if target is None:
        fit_target = fitted.report.target_flops or 0.0
        target = fit_target if fit_target > largest_fitted else TARGET_FACTOR * largest_fitted
    budget = float(np.sum(fitted.report.data.values["c"])) if budget is None else budget
    for name, value in (("budget", budget), ("target", target), ("largest", largest)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive, and is {value}")
    least = fewest * smallest
    if budget < least:
        raise InputError(
            f"a budget of {budget:.4g} FLOPs is too small: {fewest} runs like the smallest of the fit cost {least:.4g}"
        )
    return float(target), float(budget)
