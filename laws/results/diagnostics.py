"""What a reader of a fit must be told: the traps that published fits fell into, looked for one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from laws.data.table import Table
from laws.data.token_cost import ROUGH, TokenCost
from laws.estimation.estimate import PointEstimate
from laws.estimation.newton import minimise
from laws.inference.resampling import RUNS_PER_CONSTANT

SPANS = 3.0  # an interval whose ends differ by more than this factor identifies nothing
FEW_STARTS = 0.05
OUTDONE = 0.2  # weight below which a law is outdone by its rivals
OUTLIERS = 0.02
FAR = 2.0


def _few_runs(report, optimum: PointEstimate) -> str | None:
    count, constants, method = report["n_runs"], len(optimum.params), report["intervals"]["method"]
    if count >= RUNS_PER_CONSTANT * constants:
        return None
    text = f"few runs: {count} for {constants} constants, fewer than {RUNS_PER_CONSTANT} a constant"
    if method == "bootstrap over runs":
        return f"{text}: the bootstrap over runs is unreliable (--interval=wild)"
    return f"{text}: intervals by {method}, as the bootstrap over runs degenerates" if method != "none" else text


def _starts(report, optimum: PointEstimate) -> str | None:
    share = optimum.at_best / optimum.starts
    if optimum.starts > 1 and (optimum.at_best == 1 or share < FEW_STARTS):
        return f"only {optimum.at_best} of {optimum.starts} starts reached the best objective, which may not be global"
    return None


def _equals_start(report, optimum: PointEstimate) -> str | None:
    return "the answer equals one of the starts: the optimiser did not move" if optimum.equals_start else None


def _bounds(report, optimum: PointEstimate) -> str | None:
    if not optimum.at_bound:
        return None
    ends = {p.name: f"{optimum.constants[p.name]:.3g}" for p in optimum.law.params if p.name in optimum.at_bound}
    listed = ", ".join(f"{name} = {value}" for name, value in ends.items())
    return f"at a bound: {listed}; the runs do not determine it"


def _spans(low: float, high: float) -> bool:
    """Whether an interval leaves even the size of a quantity open."""
    return not np.isfinite([low, high]).all() or high > SPANS * max(low, 1e-300)


def _unidentified(report, optimum: PointEstimate) -> str | None:
    """By the profile where there is one. A and B are always nearly collinear with their exponents and are not judged."""
    kept, what = report.get("profile") or report["intervals"], "profile" if report.get("profile") else "interval"
    weights = report.get("centred", {}).get("collinear", ())
    ends = {k: v for k, v in kept["params"].items() if k not in weights} | kept["derived"]
    wide = [name for name, (low, high) in ends.items() if _spans(low, high)]
    if not wide:
        return None
    return f"unidentified: the {kept['level']:.0%} {what} of {', '.join(wide)} spans more than a factor {SPANS:g}"


def _forms(report, optimum: PointEstimate) -> str | None:
    """Rivals that forecast the larger runs better, and errors of forecasts that grow with distance."""
    forms, out = report["ensemble"]["forms"], []
    if len(forms) > 1 and forms[0]["weight"] < OUTDONE:
        better = max(forms[1:], key=lambda form: form["weight"])
        out.append(
            f"the law has a weight of {forms[0]['weight']:.0%} among its rivals: '{better['form']}' "
            f"({better['weight']:.0%}) forecast the larger runs better from the smaller"
        )
    if report["ensemble"]["growth"] > 0:
        out.append(
            "forecasts of the larger runs from the smaller erred by more than their intervals: predictions widen by "
            f"{report['ensemble']['growth']:.2%} for every factor e of extrapolation"
        )
    return "; ".join(out) or None


def _resamples(report, optimum: PointEstimate) -> str | None:
    kept = report["intervals"]
    lost = [
        f"{kept[k]} {text}"
        for k, text in (("not_converged", "did not converge"), ("at_bound", "ended on a bound"))
        if kept[k]
    ]
    return f"of {kept['resamples']} resamples {' and '.join(lost)}" if lost else None


def _extrapolation(report, optimum: PointEstimate) -> str | None:
    if not report["target"]:
        return None
    factor = report["target"]["c"] / report["ranges"]["c"][1]
    if factor < 1.05:
        return None
    return f"the target lies a factor {factor:.3g} in compute beyond the fitted runs"


def _compute(report, cost: TokenCost) -> str | None:
    if report["columns"].get("c") == "6ND":
        return "no column of compute: C = 6 N D"
    if cost.error > ROUGH:
        return (
            f"FLOPs a token are not one smooth curve of N: a run lies {cost.error:.1%} off it; N*(C) mixes shapes or "
            "contexts"
        )
    return None


def _parabola(report) -> list[str]:
    """Approach 2 is biased even without noise (arXiv 2603.22339): say so wherever its exponent is shown."""
    out, ours = [], report["intervals"]["derived"].get("a")
    found = {k: v for k, v in report["approaches"].items() if "a" in v}
    lines = {k: v for k, v in found.items() if k.startswith("isoflop")}
    if not lines:
        return []
    rejected = max(sum("minimum" in (m["reason"] or "") for m in v["minima"]) for v in lines.values())
    edge = f"; {rejected} of the budgets have their minimum at an edge and are left out" if rejected else ""
    out.append(
        "approach 2 is biased by the width and centring of each budget's sizes and by alpha != beta, even without "
        f"noise: compare the three approaches{edge}"
    )
    if ours:
        apart = [
            f"{k} {v['a']:.3f} [{v['a_interval'][0]:.3f}, {v['a_interval'][1]:.3f}]"
            for k, v in found.items()
            if v["a_interval"][0] > ours[1] or v["a_interval"][1] < ours[0]
        ]
        if apart:
            out.append(
                f"the approaches disagree on a: {'; '.join(apart)} against [{ours[0]:.3f}, {ours[1]:.3f}] here"
                + (
                    "; the envelope reads unfinished runs, whose schedules have not decayed"
                    if "envelope" in apart[0]
                    else ""
                )
            )
    return out


def _rows(report) -> str | None:
    if report["n_rows"] <= report["n_runs"]:
        return None
    return (
        f"{report['n_rows']} rows of {report['n_runs']} runs: those of one run are not independent (resampled by run), "
        "and unfinished runs on a decaying schedule lie above the law"
    )


def _outliers(report, optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"]) -> str | None:
    """How far the exponent moves when the worst-fitted 2% of the runs are left out."""
    ours, law = report["intervals"]["derived"].get("a"), optimum.law
    count = int(np.ceil(OUTLIERS * weight.sum()))
    if not ours or law.exponents is None or weight.sum() - count <= len(law.params):
        return None
    miss = np.abs(np.log(table.loss) - optimum.predict(table.values)) * (weight > 0)
    fewer = weight.copy()
    fewer[np.argsort(-miss)[:count]] = 0
    found = minimise(
        law,
        table.values,
        np.log(table.loss)[None],
        fewer[None],
        optimum.params[None],
        optimum.objective,
        optimum.delta,
    )
    constants = dict(zip(law.names, found.params[0], strict=True))
    before = report["derived"].get("a_6nd", report["derived"]["a"])
    after = float(law.exponents(constants)[0])
    if abs(after - before) < 0.5 * (ours[1] - ours[0]) / 2:
        return None
    return (
        f"outliers matter: leaving out the {count} worst-fitted runs moves a = beta / (alpha + beta) from {before:.3f} "
        f"to {after:.3f}"
    )


def warnings(
    report: dict[str, Any], optimum: PointEstimate, table: Table, weight: Float[np.ndarray, " rows"], cost: TokenCost
) -> list[str]:
    """All that applies, in the order in which it matters."""
    found = [
        *(
            check(report, optimum)
            for check in (_bounds, _equals_start, _starts, _unidentified, _few_runs, _resamples, _forms)
        ),
        _extrapolation(report, optimum),
        _rows(report),
        _compute(report, cost),
        _outliers(report, optimum, table, weight),
        *(_parabola(report) if report["approaches"] else []),
    ]
    return [text for text in found if text]
