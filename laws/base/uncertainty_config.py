"""Settings that shape intervals: every number a user may vary, with the reason for its default."""

from dataclasses import dataclass, fields

from laws.base.errors import InputError

SHARES = (
    *("coupled_weight", "law_weight", "equal_weight", "full_draws_weight", "identified_level", "outdone_share"),
    *("isoflop_budget_share", "least_defined_share"),
)
FROM_ZERO = (
    *SHARES,
    *("spare_runs", "inflation_evidence", "inflation_warning", "surface_inflation", "localities", "departures"),
)


@dataclass(frozen=True)
class UncertaintyConfig:
    """Settings of noise, resampling, model averaging, approaches 1 and 2, designs and warnings; written into ``fit.json``.

    Args:
        runs_per_constant: runs a constant from which ``auto`` draws runs with replacement; with fewer, too many
            resamples hold fewer distinct runs than the law has constants.
        smoothing: width of the normal kernel of pooled residuals, in their standard deviations; without it an
            estimator that passes through runs sees the same few residuals again.
        stratum_prior_runs: runs at which the scatter of one budget counts as much as that of all budgets.
        prior_scale: standard deviation of each of the optimiser's coordinates before any run was seen, relative to its
            size; keeps forecasts finite where the runs leave a direction open.
        spare_runs: runs beyond the constants of the largest form below which no backtest is made.
        law_weight: weight of the law itself before any backtest; its rivals share the rest.
        equal_weight: share of the weights spread equally over the forms whatever the backtests say.
        inflation_evidence: gain in log density that an extrapolation inflation must bring for its one constant
            (Akaike's criterion).
        pool_shrinkage: width of each form in a mixture relative to its own: a linear pool of calibrated forecasts is
            too wide (Gneiting and Ranjan 2013, Electronic Journal of Statistics 7). Chosen on ``benchmarks.coverage``.
        member_draws: refits of a rival form, at most.
        least_member_draws: refits of a rival form, at least.
        full_draws_weight: weight of a rival from which it has all its refits.
        mixture_draws: draws of a mixture of forms, at least.
        noise_draws: draws of a run's noise for every draw of the mixture.
        identified_level: level of the profiles that decide whether a quantity is identified.
        unidentified_span: factor between the ends of a profile from which a quantity counts as unidentified.
        outdone_share: weight of the law among its rivals, over that before any backtest, below which the reader is warned.
        inflation_warning: extrapolation inflation over a factor of ten, relative to a run's noise, below which no
            warning is given: at a half it widens the interval of one run there by 12%.
        coupled_weight: weight of the coupled surface before any backtest; the separable one has the rest. Chosen, as are
            the localities and origins, on published tables (``benchmarks.heldout``) and ``benchmarks.coverage``.
        localities: powers p of the forms whose rows count (C / C_max)^p: where a law is wrong over the whole range, it is
            less so near the largest runs.
        locality_weights: what each counts before any backtest.
        surface_origins: forecast origins, the last ones: what forecast well from far below need not from the top.
        near_factor: in size from the best of its budget, at which a run counts half in the score of a forecast.
        least_density: of a run in log loss in a score, so that one outlier does not decide.
        surface_draws: of the posterior of each surface.
        surface_inflation: relative error of surfaces per e-fold of extrapolation beyond their posterior, as forecasts of
            published tables erred beyond it (``benchmarks.heldout``).
        departures: sizes of the law's departures, in a run's noise, under which designs are judged: half of the draws
            trust the form.
        departure_length: length over which departures vary, in log N and log D.
        departure_directions: directions of departures that are kept: the others vary faster than the runs resolve.
        design_draws: draws of the constants over all forms under which designs are judged: the cost of a search is
            proportional to them.
        leave_out_folds: fits without some runs, at most; of more runs several are left out together, since the cost of
            the fits would grow with the square of the runs.
        least_defined_share: share of draws in which a quantity must exist (a minimum inside the sizes, a compute at which
            a law reaches a loss) for it to have an interval: below a half its median is not defined.
        downstream_draws: pairs of draws of two laws in a row: at 2,048 the Monte Carlo error of an end of a 95% interval
            is 1.5% of its width (normal draws).
        isoflop_same_size: difference in log N below which two sizes of a budget are one: seeds and rounded widths.
        isoflop_budget_share: share of the runs that must lie on budgets with enough sizes for a table to be iso-FLOP.
        isoflop_skewness: standard deviation, before any run was seen, of the coefficient of the cube over that of the square
            in a profile of log loss: a third of the difference of the exponents of a separable law, at most 0.1 to 0.2.
        isoflop_near: a parabola or cubic is fitted to sizes whose loss is within this share of the lowest, since
            the loss is not one far from it.
        isoflop_least_near: sizes to which it is fitted, at least: it passes through any three.
        isoflop_least_spread: least standard deviation of log N*, over the spacing of sizes: no minimum is exact.
        curve_window: half width, in log tokens, of the window in which a line stands for a noisy learning curve.
        curve_least_points: points of such a window, at least; with fewer the smoothed loss is unknown.
        envelope_computes: computes, equally spaced in log C, at which the envelope of learning curves is taken.
        envelope_least_points: points of an envelope, at least: two determine a line without any check.

    Raises:
        InputError: a setting is negative, or zero where it divides; a share is above one.

    Example:
        >>> UncertaintyConfig(smoothing=0.4).smoothing
        0.4
    """

    runs_per_constant: int = 8
    smoothing: float = 0.5
    stratum_prior_runs: float = 8.0
    prior_scale: float = 1.0
    spare_runs: int = 2
    law_weight: float = 0.5
    equal_weight: float = 0.02
    inflation_evidence: float = 1.0
    pool_shrinkage: float = 0.93
    member_draws: int = 96
    least_member_draws: int = 8
    full_draws_weight: float = 0.3
    mixture_draws: int = 400
    noise_draws: int = 8
    identified_level: float = 0.95
    unidentified_span: float = 3.0
    outdone_share: float = 0.4
    inflation_warning: float = 0.5
    coupled_weight: float = 0.75
    localities: tuple[float, ...] = (0.0, 1.0, 2.0)
    locality_weights: tuple[float, ...] = (4.0, 1.0, 1.0)
    surface_origins: int = 3
    near_factor: float = 4.0
    least_density: float = 3e-4
    surface_draws: int = 400
    surface_inflation: float = 0.0015
    departures: tuple[float, ...] = (0.0, 2.5)
    departure_length: float = 3.0
    departure_directions: int = 8
    design_draws: int = 24
    leave_out_folds: int = 256
    least_defined_share: float = 0.5
    downstream_draws: int = 2048
    isoflop_same_size: float = 0.02
    isoflop_budget_share: float = 0.5
    isoflop_skewness: float = 0.3
    isoflop_near: float = 0.1
    isoflop_least_near: int = 5
    isoflop_least_spread: float = 0.33
    curve_window: float = 0.25
    curve_least_points: int = 8
    envelope_computes: int = 60
    envelope_least_points: int = 3

    def __post_init__(self) -> None:
        """Refuses values that mean nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = (min(value, default=-1.0), 1.0) if isinstance(value, tuple) else (value, value)
            if not (least >= 0 if field.name in FROM_ZERO else least > 0):
                raise InputError(f"UncertaintyConfig: {field.name} must be positive, and is {value}")
            if field.name in SHARES and most > 1:
                raise InputError(f"UncertaintyConfig: {field.name} is a share of one, and is {value}")
        if len(self.localities) != len(self.locality_weights):
            raise InputError(
                f"UncertaintyConfig: locality_weights has {len(self.locality_weights)} values for {len(self.localities)} "
                "localities"
            )


DEFAULT_UNCERTAINTY = UncertaintyConfig()
