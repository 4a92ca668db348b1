"""The whole analysis of a table under a law: fit, bootstrap, hold-out, the three approaches, and what to beware of."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from laws.approaches.envelope import Envelope, envelope
from laws.approaches.isoflop_profiles import METHODS, IsoflopFit, isoflop_profiles
from laws.base.errors import InputError
from laws.base.json_files import sha256
from laws.base.x64 import float64
from laws.data.grouping import budget_groups, frontier
from laws.data.table import Table
from laws.data.token_cost import TokenCost, fit_token_cost
from laws.estimation.estimate import PointEstimate, estimate, weights_of
from laws.estimation.objectives import OBJECTIVES
from laws.forecasting.backtest import backtest
from laws.forecasting.model_averaging import DRAWS, Member, model_average, pooled_inflation
from laws.forecasting.prediction import Predictor, Rival
from laws.inference.allocation import DERIVED, allocate, derive
from laws.inference.noise import RunNoise, interval, noise_of
from laws.inference.profile import Profile, Quantity, collinear, profiles
from laws.inference.resampling import (
    DesignFits,
    LeaveOneOut,
    Resamples,
    draw_bootstrap_errors,
    leave_one_out,
    method_for,
    resample,
)
from laws.model.coordinates import Coordinates
from laws.model.forms import find
from laws.model.law import Law
from laws.results import diagnostics as diagnose
from laws.results.results import FitResult, samples_of

IDENTIFIED = 0.95  # level of the profiles that tell whether a quantity is identified
CURVE_DIGITS = 9  # of what is kept for drawing
TITLES = {
    "pairs": "bootstrap over runs",
    "wild": "wild bootstrap of leave-one-out residuals",
    "jackknife": "jackknife over runs",
}


def baselines(table: Table) -> dict[str, Any]:
    """What a naive forecaster would say: the best loss so far, and a power law without offset along the frontier."""
    out: dict[str, Any] = {"best_loss": float(table.loss.min()), "power_law": None}
    if "c" in table.values:
        rows = frontier(table.values["c"], table.loss)
        if len(rows) >= 2:
            slope, intercept = np.polyfit(np.log(table.values["c"][rows]), np.log(table.loss[rows]), 1)
            out["power_law"] = {"k": float(np.exp(intercept)), "p": float(-slope)}
    return out


def holdout_errors(predictor: Predictor, table: Table, rows: np.ndarray, above: float) -> dict[str, Any]:
    """Errors on the runs that the fit did not see, and the share of them inside their intervals."""
    loss, low, high = predictor.losses({variable: values[rows] for variable, values in table.values.items()})
    error = np.abs(loss / table.loss[rows] - 1)
    return {
        "n": int(rows.sum()),
        "mean_abs_rel_error": float(error.mean()),
        "max_abs_rel_error": float(error.max()),
        "coverage": float(np.mean((low <= table.loss[rows]) & (table.loss[rows] <= high))),
        "above": above,
    }


def _line(line: IsoflopFit) -> dict[str, Any]:
    kept = {"a": line.a, "a_interval": line.a_interval, "b": line.b, "b_interval": line.b_interval}
    minima = [{k: getattr(m, k) for k in ("c", "n", "d", "loss", "low", "high", "reason")} for m in line.minima]
    return kept | {"noise": line.noise, "noise_from": line.noise_from, "log_g": line.log_g, "minima": minima}


def _envelope(found: Envelope) -> dict[str, Any]:
    kept = {"a": found.a, "a_interval": found.a_interval, "b": found.b, "b_interval": found.b_interval}
    return kept | {"points": {k: getattr(found, k) for k in ("c", "n", "d", "loss")}, "runs": found.runs}


def other_approaches(table: Table, cost: TokenCost, curves, level: float, seed: int) -> dict[str, Any]:
    """Approaches 1 and 2 on the same runs, each with its exponents or the reason why there are none."""
    out: dict[str, Any] = {}
    if curves is None:
        out["envelope"] = {"reason": "no learning curves were given"}
    else:
        try:
            out["envelope"] = _envelope(envelope(table, curves, level, seed=seed))
        except InputError as error:
            out["envelope"] = {"reason": str(error)}
    for method in METHODS:
        try:
            out[f"isoflop_{method}"] = _line(isoflop_profiles(table, cost, method, level=level, seed=seed))
        except InputError as error:
            out[f"isoflop_{method}"] = {"reason": str(error)}
    return out


def _ranges(table: Table) -> dict[str, tuple[float, float]]:
    return {variable: (float(values.min()), float(values.max())) for variable, values in table.values.items()}


def _rows(table: Table) -> dict[str, Any]:
    return {"run": table.run.tolist()} | table.values | {"loss": table.loss}


def _inputs(table: Table, law: Law) -> list[dict[str, Any]]:
    """The files behind a fit: its table first, then that of a law of one's own."""
    if not table.path:
        return []
    declared = law.origin.rpartition(":")[0] if law.origin else None
    more = [{"path": declared, "sha256": sha256(declared)}] if declared else []
    return [{"path": table.path, "sha256": table.sha256}, *more]


def _check(objective: str, delta: float, level: float, target: float | None) -> None:
    """Refuses settings that mean nothing."""
    if objective not in OBJECTIVES:
        raise InputError(f"no objective is called '{objective}' (--objective: {', '.join(OBJECTIVES)})")
    if not delta > 0:
        raise InputError(f"--delta must be positive, and is {delta}")
    if not 0 < level < 1:
        raise InputError(f"--level must lie between 0 and 1, and is {level}")
    if target is not None and not target > 0:
        raise InputError(f"--target must be positive FLOPs, and is {target}")


def analyse(
    table: Table,
    law: str | Law = "chinchilla",
    *,
    objective: str = "log_huber",
    delta: float = 1e-3,
    resamples: int = 1000,
    holdout_above: float | None = None,
    target: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    curves: dict | None = None,
    fixed: Mapping[str, float] | None = None,
    method: str = "auto",
) -> FitResult:
    """A law fitted to a table, with all that a reader needs in order to trust it or not.

    Args:
        table: from ``laws.data.table.load``.
        law: a name of ``laws.model.forms.LAWS`` or a declaration.
        objective: a key of ``laws.estimation.objectives.OBJECTIVES``.
        delta: Huber's threshold, in log loss.
        resamples: of the bootstrap over runs; 0 for none.
        holdout_above: runs with more FLOPs are left out of the fit and predicted; a budget is never cut in two.
        target: FLOPs at which the best size and loss are derived; by default the largest compute of the table.
        level: of all intervals.
        seed: of all draws.
        curves: learning curves from ``laws.data.curves.load_curves``, for approach 1.
        fixed: constants of the law that are held at given values.
        method: of the intervals, one of ``laws.inference.resampling.METHODS``.

    Raises:
        InputError: the table does not suit the law, the hold-out leaves nothing, or a setting means nothing.
        FitFailed: no start reached an optimum.
    """
    law = find(law).with_fixed(fixed)
    table = table.for_law(law)
    _check(objective, delta, level, target)
    seen = np.ones(len(table), bool)
    if holdout_above is not None:
        table.need(("c",), "hold-out")
        seen = ~table.above_budget(holdout_above)
        if seen.all():
            raise InputError(f"{table.name}: no run has more than {holdout_above:.4g} FLOPs, so none would be held out")
    weight, train = weights_of(table, seen, objective), table.take(seen)
    optimum = estimate(law, table, objective, delta, weight)
    noise, method = noise_of(optimum, table, weight), method_for(method, train.runs, len(law.params))
    stratum = budget_groups(train.values["c"]) if "c" in train.values else None
    fits = DesignFits.of(optimum, train, weight[seen], stratum)
    left = leave_one_out(fits) if resamples else None
    drawn, forms = _uncertainty(fits, left, noise, method, resamples, seed)
    draws = np.empty((0, len(law.params))) if drawn is None else drawn.params
    cost = fit_token_cost(train) if {"n", "d"} <= set(table.values) else TokenCost()
    ranges = _ranges(train)
    rivals, extrapolation_inflation = rivals_of(forms), pooled_inflation(forms)
    predictor = Predictor(law, optimum.params, draws, cost, noise, ranges, level, seed, rivals, extrapolation_inflation)
    derived, derived_draws = {}, {}
    if law.has_compute_optimum:
        target = float(table.values["c"].max()) if target is None else float(target)
        derived = {k: float(v[0]) for k, v in derive(law, optimum.params[None], cost, target, ranges["n"]).items()}
        if len(draws):
            derived_draws = derive(law, draws, cost, target, ranges["n"])
    report = _report(table, train, optimum, drawn, cost, level, derived, derived_draws)
    if left is not None:
        found = _profiled(fits, left, noise, cost, target if law.has_compute_optimum else None, max(level, IDENTIFIED))
        report["profile"] = {"level": IDENTIFIED} | _ends(found, law, cost, target, IDENTIFIED) | _curves(found)
        report["rollout"] = backtest(DesignFits.of(optimum, table, weight), seen, level)
        if method == "profile":
            report["intervals"] |= {"method": "profile likelihood"} | _ends(found, law, cost, target, level)
    report |= {
        "centred": _centred(fits, draws, level),
        "target": {"c": target} if law.has_compute_optimum else None,
        "holdout": None if holdout_above is None else holdout_errors(predictor, table, ~seen, holdout_above),
        "noise": dataclasses.asdict(noise),
        "ensemble": _ensemble(forms, law, extrapolation_inflation),
        "baselines": baselines(train),
        "approaches": other_approaches(train, cost, curves, level, seed) if law.has_compute_optimum else {},
        "seed": seed,
        "created_at": time.time(),
    }
    if holdout_above is not None:
        report["excluded"] = [
            *report["excluded"],
            {"rule": f"held out: more than {holdout_above:.6g} FLOPs", "n": int(np.sum(~seen))},
        ]
    report["warnings"] = [*table.warnings, *diagnose.warnings(report, optimum, table, weight, cost)]
    return FitResult(law, report)


def _uncertainty(
    fits: DesignFits, left: LeaveOneOut | None, noise: RunNoise, method: str, resamples: int, seed: int
) -> tuple[Resamples | None, list[Member]]:
    """Resampled constants of the law, and the forms that its forecasts mix."""
    if left is None:
        return None, []
    drawn = resample(fits, noise, left, method, resamples, seed)
    rng = np.random.default_rng([seed, 2])
    few = draw_bootstrap_errors(fits, left, np.array([noise.deviation]), noise.dof, DRAWS, rng)
    return drawn, model_average(fits, drawn.params[None], few)


def _profiled(
    fits: DesignFits, left: LeaveOneOut, noise: RunNoise, cost: TokenCost, target: float | None, level: float
):
    """Profiles of every constant and of what is derived at the target, by name."""
    law, params = fits.law, fits.params[0]
    n_range = (float(fits.columns["n"].min()), float(fits.columns["n"].max())) if target else (1.0, 1.0)
    quantities: dict[str, Quantity] = {name: (lambda at, i=i: at[:, i]) for i, name in enumerate(law.names)}
    scales = {param.name for param in law.params if param.scale == "log" and param.name not in law.linear}
    logs = scales | set(collinear(law, params, Coordinates.of(law, fits.columns).centre))
    if target is not None:
        best = lambda at, key: getattr(allocate(law, at, np.array([target]), cost, n_range), key)[:, 0]
        quantities |= {name: (lambda at, key=DERIVED[name]: best(at, key)) for name in ("a", "b", "n_opt", "loss_opt")}
        if not cost.six_nd and (exponents := law.exponents) is not None:
            quantities["a_6nd"] = lambda at: exponents(law.constants(at))[0]
        logs |= {"n_opt", "loss_opt"}
        if not np.isfinite(best(params[None], "n")).all():
            quantities = {name: quantities[name] for name in law.names}
    logs = {name for name in logs if name not in law.names or params[law.names.index(name)] > 0}
    return profiles(fits, left.residual[0], noise.deviation, noise.dof, quantities, frozenset(logs), level)


def _ends(found: dict[str, Profile], law: Law, cost: TokenCost, target: float | None, level: float) -> dict[str, Any]:
    """The intervals of profiles in the layout of ``intervals``; what mirrors a profiled quantity follows from it."""
    ends = {name: profile.interval(level) for name, profile in found.items()}
    ends |= {p.name: (max(ends[p.name][0], p.low), ends[p.name][1]) for p in law.params}
    if "n_opt" in ends and target is not None:
        with np.errstate(all="ignore"):
            log_n = np.log(np.array(ends["n_opt"])[::-1])
            d = target / np.exp(cost.log_flops_per_token(log_n))
            d, ratio = (np.where(np.isnan(v), np.inf, v) for v in (d, d / np.exp(log_n)))
        ends |= {"d_opt": tuple(map(float, d)), "tokens_per_param": tuple(map(float, ratio))}
    if "a_6nd" in ends:
        ends["b_6nd"] = (1 - ends["a_6nd"][1], 1 - ends["a_6nd"][0])
    both = {"params": {}, "derived": {}}
    for name, pair in ends.items():
        both["params" if name in law.names else "derived"][name] = list(pair)
    return both


def _curves(found: dict[str, Profile]) -> dict[str, Any]:
    """The profiles themselves, to be drawn: values of each quantity, and roots of a t distribution there."""
    keep = lambda numbers: [float(f"{x:.{CURVE_DIGITS}g}") for x in numbers]
    curves = {name: dict(zip(("values", "roots"), map(keep, one.curve()), strict=True)) for name, one in found.items()}
    return {"dof": next(iter(found.values())).dof, "curves": curves}


def _centred(fits: DesignFits, draws: np.ndarray, level: float) -> dict[str, Any]:
    """What each linear constant adds to the prediction at the centre of the runs, where A and B are not collinear."""
    coordinates = Coordinates.of(fits.law, fits.columns)
    with float64():
        point, derived_draws = (np.asarray(coordinates.to_unconstrained(params)) for params in (fits.params, draws))
    index = {name: fits.law.names.index(name) for name in fits.law.linear}
    return {
        "at": dict(coordinates.centre),
        "collinear": list(collinear(fits.law, fits.params[0], coordinates.centre)),
        "params": {name: float(point[0, i]) for name, i in index.items()},
        "intervals": {name: [float(x) for x in interval(derived_draws[:, i], level)] for name, i in index.items()}
        if len(draws)
        else {},
    }


def rivals_of(forms: list[Member]) -> tuple[Rival, ...]:
    """The forms beside the law itself, as a prediction needs them."""
    return tuple(
        Rival(form.label, form.law, form.params[0], form.draws[0], float(form.weight[0])) for form in forms[1:]
    )


def _ensemble(forms: list[Member], law: Law, extrapolation_inflation: float) -> dict[str, Any]:
    kept = [
        {
            "form": form.label,
            "law": form.law.name,
            "weight": float(form.weight[0]),
            "score": float(form.score[0]),
            "params": dict(zip(form.law.names, map(float, form.params[0]), strict=True)),
            "samples": {} if k == 0 else samples_of(form.law, form.draws[0]),
        }
        for k, form in enumerate(forms)
    ]
    return {"growth": extrapolation_inflation, "forms": kept}


def _report(
    table: Table,
    train: Table,
    optimum: PointEstimate,
    drawn: Resamples | None,
    cost: TokenCost,
    level: float,
    derived: dict[str, float],
    derived_draws: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The part of ``estimate.json`` that says what was fitted, and how well."""
    law, draws = optimum.law, np.empty((0, len(optimum.params))) if drawn is None else drawn.params
    samples = samples_of(law, draws)
    ends = lambda draws: {k: [float(x) for x in interval(np.asarray(v), level)] for k, v in draws.items()}
    return {
        "law": law.name,
        "declared_in": law.origin,
        "form": law.formula,
        "source": law.source,
        "observable": law.target_label(table.columns["loss"]),
        "fixed": dict(law.fixed),
        "params": optimum.constants,
        "objective": {
            "name": optimum.objective,
            "delta": optimum.delta,
            "reduction": "sum",
            "value": optimum.value,
        },
        "weights": "one a row" if table.noise is None else f"1 / {table.columns['noise']}^2, mean one",
        "n_runs": train.runs,
        "n_rows": len(train),
        "excluded": list(table.excluded),
        "starts": {"n": optimum.starts, "at_best": optimum.at_best},
        "certificate": {
            "gradient": optimum.gradient,
            "decrement": optimum.decrement,
            "condition": optimum.condition,
            "at_bound": list(optimum.at_bound),
        },
        "intervals": {
            "level": level,
            "method": TITLES[drawn.method] if drawn else "none",
            "resamples": drawn.asked if drawn else 0,
            "not_converged": drawn.not_converged if drawn else 0,
            "at_bound": drawn.at_bound if drawn else 0,
            "params": ends(samples) if len(draws) else {},
            "derived": ends(derived_draws),
        },
        "derived": derived,
        "ranges": _ranges(train),
        "columns": table.columns,
        "quantity": dict(table.quantity),
        "read_with": dict(table.options),
        "cost": cost.to_dict(),
        "inputs": _inputs(table, law),
        "samples": samples,
        "data": _rows(train),
    }
