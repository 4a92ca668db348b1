"""Resampled constants: refits to runs drawn with replacement, to drawn errors, and the jackknife.

Several tables that share a design (the same sizes and data, other losses) are resampled together; a fit of one table
is the case of one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from laws.base.errors import InputError
from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.base.x64 import float64
from laws.data.table import Table
from laws.estimation.estimate import PointEstimate, log_predictions
from laws.estimation.objectives import OBJECTIVES
from laws.estimation.refit import RefitResult, refit
from laws.inference.clusters import between_share, between_within, effective_runs, nearest_rank_rows, run_sums
from laws.inference.methods import IntervalMethod
from laws.inference.noise import RunNoise, dof_correction
from laws.model.coordinates import Coordinates
from laws.model.law import Law

METHODS = ("auto", *(method.value for method in IntervalMethod if method != IntervalMethod.NONE))
CELLS = 2**23  # memory: fits without some runs times rows, at most


@dataclass(frozen=True)
class DesignFits:
    """One law fitted to tables that share a design.

    Args:
        law: the law.
        columns: variable -> values of the runs, natural units.
        log_loss: log losses of each table.
        run: number of the run that a row belongs to.
        stratum: number of the stratum of each row; scatter may differ between strata.
        weight: what each row counts, one on average.
        params: fitted constants of each table.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        config: settings of resampling and noise.
    """

    law: Law
    columns: dict[str, Float[np.ndarray, " rows"]]
    log_loss: Float[np.ndarray, "tables rows"]
    run: Int[np.ndarray, " rows"]
    stratum: Int[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    params: Float[np.ndarray, "tables params"]
    objective: str = "log_huber"
    delta: float = 1e-3
    config: UncertaintyConfig = DEFAULT_UNCERTAINTY

    @classmethod
    def of(
        cls,
        optimum: PointEstimate,
        table: Table,
        weight: Float[np.ndarray, " rows"] | None = None,
        stratum: Int[np.ndarray, " rows"] | None = None,
        config: UncertaintyConfig = DEFAULT_UNCERTAINTY,
    ) -> "DesignFits":
        """The fit of one table.

        Args:
            optimum: the fit.
            table: its rows.
            weight: what each row counts; 1 by default.
            stratum: number of the stratum of each row; one for all by default.
            config: settings of resampling and noise.
        """
        run = np.unique(table.run, return_inverse=True)[1].ravel()
        return cls(
            law=optimum.law,
            columns=table.values,
            log_loss=np.log(table.loss)[None],
            run=run,
            stratum=np.zeros(len(table), int) if stratum is None else stratum,
            weight=np.ones(len(table)) if weight is None else weight,
            params=optimum.params[None],
            objective=optimum.objective,
            delta=optimum.delta,
            config=config,
        )

    @property
    def runs(self) -> int:
        return int(self.run.max()) + 1

    @property
    def predicted(self) -> Float[np.ndarray, "tables rows"]:
        """Log losses that the fits predict."""
        return log_predictions(self.law, self.params, self.columns)

    def refit(self, log_loss, counts, starts, **options):
        """``laws.estimation.refit.refit`` of this law, columns and objective.

        Args:
            log_loss: measured log losses, one row for all problems or one each.
            counts: by which the weights of the rows are multiplied, likewise.
            starts: constants to start from, natural units.
            options: further arguments of ``refit``.
        """
        weight = self.weight * counts
        return refit(self.law, self.columns, log_loss, weight, starts, self.objective, self.delta, **options)


@dataclass(frozen=True)
class Resamples:
    """Refits to resampled runs.

    Args:
        params: constants of every refit; one that stopped short of its optimum stands where it stopped.
        asked: how many resamples were drawn.
        not_converged, at_bound: how many did not reach an optimum, and how many ended on a bound.
        seed: of the draws.
        method: how they were drawn.
    """

    params: Float[np.ndarray, "resamples params"]
    asked: int
    not_converged: int
    at_bound: int
    seed: int
    method: IntervalMethod = IntervalMethod.PAIRS


def pairs_weights(
    run: np.ndarray, weight: Float[np.ndarray, " rows"], resamples: int, seed: int
) -> Float[np.ndarray, "resamples rows"]:
    """How often each row counts in each resample: whole runs are drawn with replacement, with all their rows.

    Args:
        run: identity of each row's run.
        weight: rows with weight 0 are never drawn.
        resamples: number of draws.
        seed: of the draws.
    """
    names, member = np.unique(run[weight > 0], return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.zeros((resamples, len(run)))
    weights[:, weight > 0] = drawn[:, member]
    return weights * weight


def pairs_bootstrap(
    optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"], resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Refits to runs drawn with replacement, each started at the optimum and brought to its own.

    Rows of one training run are not independent, so runs are drawn, with all their rows.

    Args:
        optimum: the fit.
        table: its rows.
        weight: what each row counts; rows of weight 0 are not drawn.
        resamples: number of draws.
        seed: of the draws.
    """
    weights = pairs_weights(table.run, weight, resamples, seed)
    starts = np.tile(optimum.params, (resamples, 1))
    refits = DesignFits.of(optimum, table).refit(np.log(table.loss)[None], weights, starts)
    return _resamples(refits, resamples, seed, IntervalMethod.PAIRS)


def _resamples(refits: RefitResult, asked: int, seed: int, method: IntervalMethod) -> Resamples:
    finite = np.isfinite(refits.params).all(axis=1)
    lost = int(np.sum(~(refits.converged & finite)))
    return Resamples(refits.params[finite], asked, lost, int(np.sum(refits.at_bound.any(axis=1))), seed, method)


@dataclass(frozen=True)
class LeaveOneOut:
    """Every fit without each of its runs, or without each fold of them where they are many.

    Args:
        params: the constants without a fold.
        residual: log loss of every row against the fit without its fold: what a new run there would have missed by.
        not_converged, at_bound: how many of these fits did not reach an optimum, or ended on a bound.
    """

    params: Float[np.ndarray, "tables folds params"]
    residual: Float[np.ndarray, "tables rows"]
    not_converged: int
    at_bound: int


def leave_one_out(fits: DesignFits) -> LeaveOneOut:
    """Refits without each run in turn; of many runs without each fold, so that memory grows with the rows alone."""
    tables, rows = fits.log_loss.shape
    folds = min(fits.runs, fits.config.leave_out_folds, max(2, CELLS // rows))
    fold = fits.run % folds
    weight = np.tile(fold[None] != np.arange(folds)[:, None], (tables, 1)).astype(np.float64)
    start = np.repeat(fits.params, folds, axis=0)
    refits = fits.refit(np.repeat(fits.log_loss, folds, axis=0), weight, start)
    params = np.where(np.isfinite(refits.params), refits.params, start)
    predicted = log_predictions(fits.law, params, fits.columns).reshape(tables, folds, -1)
    return LeaveOneOut(
        params.reshape(tables, folds, -1),
        fits.log_loss - predicted[:, fold, np.arange(rows)],
        int(np.sum(~refits.converged)),
        int(np.sum(refits.at_bound.any(axis=1))),
    )


def _scales(fits: DesignFits, residual: Float[np.ndarray, "tables rows"]) -> Float[np.ndarray, "tables rows"]:
    """Relative scatter of each row's stratum, shrunk towards that of all rows as far as the stratum holds few runs."""
    share = 1 / np.bincount(fits.run)[fits.run]  # of its run, so that every run counts once
    square = residual**2 / np.maximum(residual**2 @ share / share.sum(), 1e-300)[:, None]
    _, pair, repeats = np.unique(
        fits.run * (fits.stratum.max() + 1) + fits.stratum, return_inverse=True, return_counts=True
    )
    once = 1 / repeats[pair.ravel()]  # rows of one run in one stratum are one observation of it
    sums, member, _ = run_sums(np.stack([*(square * once), once]), fits.stratum)
    prior = fits.config.stratum_prior_runs
    return np.sqrt((prior + sums[:-1]) / (prior + sums[-1]))[:, member]


def _residual_pools(
    fits: DesignFits,
    left: LeaveOneOut,
    scale: Float[np.ndarray, "tables rows"],
    deviation: Float[np.ndarray, " tables"],
) -> tuple[Float[np.ndarray, "tables rows"], Float[np.ndarray, "tables rows"]]:
    """Leave-one-out residuals in units of the noise: the means of runs, and rows about them.

    The mean squares of the two parts, over runs, are the shares of the noise's variance that lie between and within
    runs: leaving a run out makes its mean miss by more, and hardly changes its rows about the mean.
    """
    correction = dof_correction(
        len(fits.law.names), effective_runs(fits.run), deviation, fits.objective, fits.delta, fits.config
    )
    between = between_share((fits.log_loss - fits.predicted) / scale, fits.run, correction)[:, None]
    share = 1 / np.bincount(fits.run)[fits.run]
    pools = []
    for part, variance in zip(between_within(left.residual / scale, fits.run), (between, 1 - between), strict=True):
        size = np.sqrt(part**2 @ share / share.sum())[:, None]
        pools.append(np.sqrt(variance) * np.divide(part, size, out=np.zeros_like(part), where=size > 0))
    return pools[0], pools[1]


def draw_bootstrap_errors(
    fits: DesignFits,
    left: LeaveOneOut,
    deviation: Float[np.ndarray, " tables"],
    dof: float,
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "tables resamples rows"]:
    """Errors as a repetition of the runs might have had them.

    The estimator that minimises Huber's objective with a small threshold passes through as many runs as it has
    constants, so its own residuals are too small and some are zero: a plain wild bootstrap, which flips their signs,
    holds these runs fixed and finds intervals a quarter too short. So errors are drawn from the leave-one-out
    residuals of all runs, signs flipped, smoothed, and brought to the noise's standard deviation in each stratum; and
    each resample has its own standard deviation from the t distribution's mixture, as the noise is known from few runs.

    A run's rows are drawn together: the run has the errors of another, row by row, with one sign. Their means and
    their deviations from the means are first brought to the variances between and within runs.

    Args:
        fits: the fits.
        left: their leave-one-out residuals.
        deviation: standard deviation of the noise of one row.
        dof: degrees of freedom of that figure.
        resamples: number of draws.
        rng: of the draws.

    Source: Feng, He and Hu 2011, Biometrika 98 (wild bootstrap for quantile regression); Chambers and
    Chandra 2013, Journal of Computational and Graphical Statistics 22 (random effect block bootstrap).
    """
    tables, rows = fits.log_loss.shape
    smoothing = fits.config.smoothing
    scale = _scales(fits, left.residual * np.sqrt(fits.weight)) / np.sqrt(fits.weight)
    between, within = _residual_pools(fits, left, scale, deviation)
    sides = [1.0] if fits.objective == "log_asymmetric" else [-1.0, 1.0]
    shape = (tables, resamples, fits.runs)
    sign = rng.choice(sides, shape)[:, :, fits.run]
    source = nearest_rank_rows(fits.run, rng.integers(0, fits.runs, shape))
    smooth = smoothing * rng.standard_normal(shape)[:, :, fits.run]
    take = lambda pool: np.take_along_axis(pool[:, None], source, 2)
    share = 1 / np.bincount(fits.run)[fits.run]
    smooth *= np.sqrt(between**2 @ share / share.sum())[:, None, None]
    drawn = (take(between) * sign + smooth) / np.sqrt(1 + smoothing**2)
    if fits.runs < rows:
        drawn += take(within) * sign
    student = np.sqrt(dof / rng.chisquare(dof, (tables, resamples, 1)))
    return drawn * scale[:, None] * deviation[:, None, None] * student


def wild_refits(fits: DesignFits, drawn: Float[np.ndarray, "tables resamples rows"], **options):
    """Refits to the fits' own predictions with drawn errors, of tables times resamples."""
    log_loss = (fits.predicted[:, None] + drawn).reshape(-1, drawn.shape[2])
    weight = np.ones((1, drawn.shape[2]))
    return fits.refit(log_loss, weight, np.repeat(fits.params, drawn.shape[1], axis=0), **options)


def _jackknife(
    fits: DesignFits, left: LeaveOneOut, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples params"]:
    """Constants with the jackknife's covariance: t-distributed sums of what leaving out each run changes.

    Only for objectives that are smooth everywhere: the jackknife's variance is not consistent for medians and their
    like unless many rows are left out at once, and Huber's with a small threshold is nearly one.
    """
    coordinates = Coordinates.of(fits.law, fits.columns)
    low, high = coordinates.bounds()
    folds = left.params.shape[1]
    with float64():
        without, whole = (
            np.asarray(coordinates.to_unconstrained(left.params[0])),
            np.asarray(coordinates.to_unconstrained(fits.params[0])),
        )
        change = (without - without.mean(axis=0)) * np.sqrt((folds - 1) / folds)
        student = np.sqrt((folds - 1) / rng.chisquare(folds - 1, (resamples, 1)))
        unconstrained = whole + student * (rng.standard_normal((resamples, folds)) @ change)
        return np.asarray(coordinates.to_params(np.clip(unconstrained, low, high)))


def method_for(
    method: str, runs: int, constants: int, objective: str, config: UncertaintyConfig = DEFAULT_UNCERTAINTY
) -> IntervalMethod:
    """The method itself, or what ``auto`` stands for.

    Args:
        method: one of ``METHODS``.
        runs: how many were fitted.
        constants: how many were fitted.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        config: its ``runs_per_constant`` decides for ``auto``.

    Raises:
        InputError: no method has the name, or it is not valid for the objective.
    """
    if method not in METHODS:
        raise InputError(f"no interval method is called '{method}' (methods: {', '.join(METHODS)})")
    if method == IntervalMethod.JACKKNIFE and OBJECTIVES[objective].has_threshold:
        smooth = " and ".join(name for name, other in OBJECTIVES.items() if not other.has_threshold)
        raise InputError(
            f"ci_method jackknife is valid for objective {smooth} alone, not for {objective}: take ci_method wild",
            flag="--ci_method=wild",
        )
    if method != "auto":
        return IntervalMethod(method)
    return IntervalMethod.WILD if runs < config.runs_per_constant * constants else IntervalMethod.PAIRS


def resample(
    fits: DesignFits,
    noise: RunNoise,
    left: LeaveOneOut,
    method: IntervalMethod,
    resamples: int,
    seed: int = 0,
) -> Resamples:
    """Constants as repetitions of one table's runs might have given them.

    Args:
        fits: the fit of one table.
        noise: of a run.
        left: the fits without each run.
        method: pairs (runs drawn with replacement), jackknife, or wild (see ``draw_bootstrap_errors``), which also draws
            the constants where intervals come from the profile likelihood.
        resamples: number of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    if method == IntervalMethod.PAIRS:
        weights = pairs_weights(fits.run, np.ones(len(fits.run)), resamples, seed)
        refits = fits.refit(fits.log_loss, weights, np.tile(fits.params, (resamples, 1)))
        return _resamples(refits, resamples, seed, method)
    if method == IntervalMethod.JACKKNIFE:
        params = _jackknife(fits, left, resamples, rng)
        return Resamples(params, resamples, left.not_converged, left.at_bound, seed, method)
    drawn = draw_bootstrap_errors(fits, left, np.array([noise.deviation]), noise.dof, resamples, rng)
    return _resamples(wild_refits(fits, drawn), resamples, seed, IntervalMethod.WILD)
