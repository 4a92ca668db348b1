"""What a reader must know of surfaces behind a forecast: prior contradicted, floors, spread of D / N, or none for groups."""

from __future__ import annotations

from laws.forecasting.surface_check import CONTRADICTION, UNTOLD
from laws.results.report import FitReport
from laws.results.report_parts import FitWarning, WarningKind

HIGHEST_FLOOR = 0.85  # of the best loss: a floor above it leaves little to gain at any compute


def in_step(report: FitReport) -> list[FitWarning]:
    """Runs whose parameters and tokens are in step: the law that was asked for is not determined by them."""
    if report.ladder is None:
        return []
    text = (
        f"n and d of the runs are in step (n rises as c^{report.ladder.slope:.3g}): they do not determine law "
        f"'{report.asked_law}'; fitted is '{report.law}', which forecasts along their line alone"
    )
    return [FitWarning(WarningKind.IN_STEP, text)]


def not_determined(report: FitReport) -> list[FitWarning]:
    """A law of n and d that the runs do not determine, in whose place a simpler one is fitted."""
    if report.ladder is not None or report.asked_law in (None, report.law):
        return []
    same = [variable for variable in ("n", "d") if report.ranges[variable][0] == report.ranges[variable][1]]
    why = f" ({same[0]} is the same in all of them)" if same else ""
    unknown = f"how the loss depends on {same[0]}" if same else "what tells the two apart"
    text = (
        f"the runs do not determine law '{report.asked_law}'{why}; fitted is '{report.law}'. Forecasts are those of the "
        f"surfaces, in which the prior alone says {unknown}"
    )
    return [FitWarning(WarningKind.NOT_DETERMINED, text)]


def frontier_disagrees(report: FitReport) -> list[FitWarning]:
    """Surfaces and the law of the frontier that forecast different losses at the target."""
    beside = report.frontier
    if beside is None or not beside.disagree or beside.surfaces is None or beside.frontier is None:
        return []
    text = (
        f"at {report.target_flops:.3g} FLOPs the surfaces forecast {beside.surfaces.value:.4g} "
        f"[{beside.surfaces.low:.4g}, {beside.surfaces.high:.4g}] and the frontier {beside.frontier.value:.4g} "
        f"[{beside.frontier.low:.4g}, {beside.frontier.high:.4g}]: intervals of a budget's best loss widen to hold both"
    )
    return [FitWarning(WarningKind.FRONTIER_DISAGREES, text)]


def prior_contradicted(report: FitReport) -> list[FitWarning]:
    """Learned coordinates in which the runs, under the weak prior, lie far from the public one."""
    check = report.model_average.surface
    if check is None:
        return []
    far = [
        f"{summary.name} {summary.contradiction:.1f}"
        for summary in check.coordinates
        if summary.contradiction is not None and summary.contradiction > CONTRADICTION
    ]
    if not far:
        return []
    text = (
        f"the runs contradict the public prior, by standard deviations: {', '.join(far)}; compare the forecast under the "
        "weak prior"
    )
    return [FitWarning(WarningKind.PRIOR_CONTRADICTED, text)]


def _floors(report: FitReport) -> dict[str, float]:
    """The floors of a fit: E of the law, and the median of the coupled surface."""
    check = report.model_average.surface
    of_law = {f"law '{report.law}'": report.params["E"]} if "E" in report.params else {}
    return of_law | ({} if check is None else {"the coupled surface": check.coordinate("E").value})


def floor_above_reached(report: FitReport) -> list[FitWarning]:
    """Floors that larger runs went below: of fits below a forecast origin, and of the fit where runs are held out."""
    check, holdout = report.model_average.surface, report.holdout
    passed = []
    if check is not None:
        passed += [
            f"the surface fitted up to {origin.c:.3g} FLOPs has E {origin.floor:.4g}, and a larger run reached "
            f"{origin.reached:.4g}"
            for origin in check.floors
            if origin.floor >= origin.reached
        ]
    if holdout is not None:
        passed += [
            f"{name} has E {floor:.4g}, and a held-out run reached {holdout.best_loss:.4g}"
            for name, floor in _floors(report).items()
            if floor >= holdout.best_loss
        ]
    if not passed:
        return []
    return [FitWarning(WarningKind.FLOOR_ABOVE_REACHED, f"a floor that runs went below: {'; '.join(passed)}")]


def floor_near_best(report: FitReport) -> list[FitWarning]:
    """Floors close to the best loss."""
    high = {
        name: floor / report.baselines.best_loss
        for name, floor in _floors(report).items()
        if floor > HIGHEST_FLOOR * report.baselines.best_loss
    }
    if not high:
        return []
    listed = ", ".join(f"{share:.0%} by {name}" for name, share in high.items())
    text = f"E is above {HIGHEST_FLOOR:.0%} of the best loss: {listed}; forecasts far ahead hang on it"
    return [FitWarning(WarningKind.FLOOR_NEAR_BEST, text)]


def ratio_identifies_nothing(report: FitReport) -> list[FitWarning]:
    """Runs whose spread of D / N says nothing of alpha against beta (arXiv 2605.08541)."""
    check = report.model_average.surface
    if check is None or check.exponents_spread <= UNTOLD:
        return []
    text = (
        f"the runs do not tell alpha from beta (spread {check.exponents_spread:.0%} of the prior's): at equal compute D / N "
        f"varies by a factor {check.ratio_spread:.3g}; the best split of compute is the prior's"
    )
    return [FitWarning(WarningKind.RATIO_IDENTIFIES_NOTHING, text)]


def forecast_of_groups(report: FitReport) -> list[FitWarning]:
    """A law shared by groups of runs: the surfaces have no groups, and do not forecast in its place."""
    if report.groups is None:
        return []
    numbers = ", ".join(f"{number} is {entry.group}" for number, entry in enumerate(report.groups.efficiencies))
    text = (
        f"forecasts are those of law '{report.groups.law}' as the groups share it, not of the mixture of surfaces: no prior "
        f"enters and no other form is mixed in; each is of one group, by its number ({numbers})"
    )
    return [FitWarning(WarningKind.FORECAST_OF_GROUPS, text)]


SURFACE_CHECKS = (
    in_step,
    not_determined,
    frontier_disagrees,
    prior_contradicted,
    floor_above_reached,
    floor_near_best,
    ratio_identifies_nothing,
    forecast_of_groups,
)
