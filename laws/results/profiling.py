"""Profile likelihoods of a fit's constants and of what is derived from them at a target compute."""

from collections.abc import Mapping

import numpy as np

from laws.data.token_cost import TokenCost
from laws.inference.allocation import DERIVED, allocate
from laws.inference.noise import RunNoise
from laws.inference.profile import Profile, Quantity, collinear, profiles
from laws.inference.resampling import DesignFits, LeaveOneOut
from laws.model.coordinates import Coordinates
from laws.model.law import Law
from laws.results.report_parts import Interval, ProfileCurve, Profiles, interval_of

PROFILED = ("a", "b", "n_opt", "loss_opt")  # derived quantities that are profiled; the others follow from them
CURVE_DIGITS = 9  # significant digits of a stored curve


def profile_all(
    fits: DesignFits, left: LeaveOneOut, noise: RunNoise, cost: TokenCost, target: float | None, level: float
) -> dict[str, Profile]:
    """Profiles of every constant and of what is derived at the target.

    Args:
        fits: the fit of one table.
        left: the fits without each run.
        noise: of one run.
        cost: training FLOPs a token.
        target: training FLOPs; None for a law without an optimum.
        level: as far as which the profiles go.

    Returns:
        name -> profile; constants first.
    """
    law, params = fits.law, fits.params[0]
    quantities: dict[str, Quantity] = {name: (lambda sets, i=i: sets[:, i]) for i, name in enumerate(law.names)}
    log_scaled = {param.name for param in law.params if param.scale == "log" and param.name not in law.linear}
    log_scaled |= set(collinear(law, params, Coordinates.of(law, fits.columns).centre))
    if target is not None:
        n_range = (float(fits.columns["n"].min()), float(fits.columns["n"].max()))
        optimum = lambda sets, key: getattr(allocate(law, sets, np.array([target]), cost, n_range), key)[:, 0]
        if np.isfinite(optimum(params[None], "n")).all():
            quantities |= {name: (lambda sets, key=DERIVED[name]: optimum(sets, key)) for name in PROFILED}
            if not cost.six_nd and (exponents := law.exponents) is not None:
                quantities["a_6nd"] = lambda sets: exponents(law.constants(sets))[0]
            log_scaled |= {"n_opt", "loss_opt"}
    constants = dict(zip(law.names, params, strict=True))
    log_scaled = frozenset(name for name in log_scaled if name in quantities and constants.get(name, 1.0) > 0)
    return profiles(fits, left.residual[0], noise.deviation, noise.dof, quantities, log_scaled, level)


def profile_intervals(
    profiled: Mapping[str, Profile], law: Law, cost: TokenCost, target: float | None, level: float
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Intervals of the constants, and of what is derived.

    The intervals of D* and D* / N* follow from that of N*, and that of b_6nd from that of a_6nd.

    Args:
        profiled: constant or derived quantity -> its profile.
        law: the law.
        cost: what a token costs at every size.
        target: training FLOPs of the derived quantities; None for a law without an optimum.
        level: nominal coverage.

    Returns:
        intervals of the constants, and those of the derived quantities.
    """
    ends = {name: profile.interval(level) for name, profile in profiled.items()}
    ends |= {p.name: (max(ends[p.name][0], p.low), ends[p.name][1]) for p in law.params}
    if "n_opt" in ends and target is not None:
        with np.errstate(all="ignore"):
            log_n = np.log(np.array(ends["n_opt"])[::-1])
            d = target / np.exp(cost.log_flops_per_token(log_n))
            d, ratio = (np.where(np.isnan(v), np.inf, v) for v in (d, d / np.exp(log_n)))
        ends |= {"d_opt": tuple(map(float, d)), "tokens_per_param": tuple(map(float, ratio))}
    if "a_6nd" in ends:
        ends["b_6nd"] = (1 - ends["a_6nd"][1], 1 - ends["a_6nd"][0])
    intervals = {name: interval_of(pair) for name, pair in ends.items()}
    params = {name: intervals[name] for name in law.names}
    return params, {name: pair for name, pair in intervals.items() if name not in params}


def profile_report(
    profiled: Mapping[str, Profile], law: Law, cost: TokenCost, target: float | None, level: float
) -> Profiles:
    """The profiles as a report states them, curves included.

    Args:
        profiled: constant or derived quantity -> its profile.
        law: the law.
        cost: what a token costs at every size.
        target: training FLOPs of the derived quantities; None for a law without an optimum.
        level: nominal coverage.
    """
    rounded = lambda numbers: tuple(float(f"{x:.{CURVE_DIGITS}g}") for x in numbers)
    params, derived = profile_intervals(profiled, law, cost, target, level)
    curves = {name: ProfileCurve(*map(rounded, profile.curve())) for name, profile in profiled.items()}
    return Profiles(level, next(iter(profiled.values())).dof, params, derived, curves)
