"""`isoflop fit`: a scaling law fitted to a table, certified, with intervals; writes `fit.json`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

if TYPE_CHECKING:
    from laws import FitResult
    from laws.results.report import FitReport
    from laws.results.report_parts import ApproachReport, Interval
    from laws.uses.collapse import Collapse

EXAMPLE = """
isoflop fit runs.csv
isoflop fit runs/demo/sweep --law=chinchilla --holdout_above=6e11
isoflop fit runs.csv --n_column=params --d_column=tokens --c_column=flops --drop_highest=5 --resamples=4000
isoflop fit repeated.csv --law=data_constrained --columns=unique_tokens=unique --fixed=alpha=0.353,beta=0.353
isoflop fit runs.csv --law=mylaw.py:MYLAW --loss_stderr=loss_sem
isoflop fit runs/ladder --law=power_offset_c --collapse
isoflop fit runs.csv --group=optimizer
"""
WAITING = "fitting"

OBJECTIVES = (
    "Summed over rows: log_huber, log_squared, squared (of the loss itself), or log_asymmetric (Huber's for runs above "
    "the law, squares for those below: badly tuned runs only ever lie above)."
)

USUAL = "the only column with a usual name"

APPROACHES = {
    "envelope": "approach 1 (envelope)",
    "isoflop_cubic": "approach 2 (cubic)",
    "isoflop_akima": "approach 2 (Akima)",
    "isoflop_parabola": "approach 2 (parabola)",
}

CI_METHODS = (
    "How intervals are found: pairs (bootstrap over runs), wild (of residuals, for few runs), jackknife, or profile "
    "(likelihood); auto is wild with fewer than 8 runs a constant, else pairs."
)


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command; columns default to those of a collected table, then to the usual names."""
    text, real, whole = absl_flags.DEFINE_string, absl_flags.DEFINE_float, absl_flags.DEFINE_integer
    flag = absl_flags.DEFINE_boolean
    text("law", "chinchilla", "The law (kaplan, power_c, ...), or file.py:NAME for one of your own.", flag_values=flags)
    text("n_column", None, f"Column of the parameters; params_total, else {USUAL}.", flag_values=flags)
    text("d_column", None, f"Column of the training data; tokens, else {USUAL}.", flag_values=flags)
    text(
        "c_column",
        None,
        f"Column of the training FLOPs; flops_exact, else {USUAL}, else 6 N D.",
        flag_values=flags,
    )
    text(
        "loss_column",
        None,
        f"Column of the loss, or of what else the law predicts; loss, else {USUAL}.",
        flag_values=flags,
    )
    text("columns", None, "Columns of other variables, as in unique_tokens=seen_once,experts=E.", flag_values=flags)
    text("loss_stderr", None, "Column of the loss's standard error: rows weigh 1 / error^2.", flag_values=flags)
    text("fixed", None, "Constants held at given values, as in alpha=0.35,E=1.7.", flag_values=flags)
    text(
        "run_column",
        None,
        "Column that names the run of a row; trunk where runs were forked, else run_id, else a row is a run.",
        flag_values=flags,
    )
    text("where", None, "Only rows for which this holds, as in \"family == 'lm' and flops < 1e20\".", flag_values=flags)
    flag("frontier", False, "Only the best run of each compute, if no cheaper one beats it.", flag_values=flags)
    _laws.define_table_options(flags)
    whole("drop_highest", 0, "Leave out that many of the highest losses.", lower_bound=0, flag_values=flags)
    text("objective", "log_huber", OBJECTIVES, flag_values=flags)
    real("delta", 1e-3, "Huber's threshold, in log loss.", flag_values=flags)
    whole("resamples", 1000, "Draws of the constants; 0 for no intervals.", lower_bound=0, flag_values=flags)
    text("ci_method", "auto", CI_METHODS, flag_values=flags)
    real("holdout_above", None, "Hold out the budgets with more FLOPs, and predict them.", flag_values=flags)
    real("target", None, "FLOPs at which N*, D* and the loss are derived; the table's largest.", flag_values=flags)
    real("level", 0.95, "Level of the intervals.", flag_values=flags)
    text("curves", None, "Learning curves for approach 1; curves.parquet beside runs.parquet.", flag_values=flags)
    whole("seed", 0, "Seed of all draws.", flag_values=flags)
    absl_flags.DEFINE_enum(
        "prior",
        "public",
        ["public", "weak", "none"],
        "Prior of forecasts over size and data: what published tables have in common, a weak one, or none.",
        flag_values=flags,
    )
    text("prior_without", None, "Sources that the public prior leaves out, as marin,refinedweb.", flag_values=flags)
    text("group", None, "Column of groups that share the law, each with its efficiency.", flag_values=flags)
    flag("sensitivity", False, "Also fit under other objectives, outlier rules, forms, conventions.", flag_values=flags)
    flag(
        "collapse",
        False,
        "Whether the learning curves of all sizes fall onto one, and which do not.",
        flag_values=flags,
    )
    text("out", None, "Where to write; fit.json in the sweep directory or here.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read, fit, write, and state the result."""
    (operand,) = _laws.operand(args, "fit", "a table or a sweep directory")
    _laws.on_cpu()
    import laws

    path = _laws.table_path(operand)
    columns: dict[str, Any] = {
        "n": flags.n_column,
        "d": flags.d_column,
        "c": flags.c_column,
        "loss": flags.loss_column,
        "run": flags.run_column,
        "columns": _laws.pairs("columns", flags.columns),
        "loss_stderr": flags.loss_stderr,
        "where": flags.where,
        "frontier": flags.frontier,
        "drop_highest": flags.drop_highest,
        **_laws.table_options(flags),
    }
    runs = laws.load(path, **columns)
    curves_path = flags.curves or _laws.curves_beside(path)
    curves = laws.load_curves(curves_path) if curves_path else None
    if flags.collapse and curves is None:
        raise laws.InputError("--collapse compares learning curves: give them with --curves")
    fit = runs.fit(
        flags.law,
        objective=flags.objective,
        delta=flags.delta,
        resamples=flags.resamples,
        ci_method=flags.ci_method,
        holdout_above=flags.holdout_above,
        target=flags.target,
        level=flags.level,
        seed=flags.seed,
        curves=curves,
        fixed=_laws.numbers("fixed", flags.fixed),
        prior=flags.prior,
        group=flags.group,
        prior_without=flags.prior_without.split(",") if flags.prior_without else (),
    )
    report = dataclasses.replace(fit.report, command=_laws.typed("fit", flags, args))
    if flags.sensitivity:
        rows = laws.sensitivity(fit, runs, lambda **changed: laws.load(path, **columns | changed))
        has_floor = "E" in fit.law.names and fit.law.has_compute_optimum
        floors = laws.floor_profile(fit, runs) if has_floor else ()
        report = dataclasses.replace(report, sensitivity=rows, floor_profile=floors)
    fit = dataclasses.replace(fit, report=report)
    collapsed = laws.collapse(fit, curves) if flags.collapse and curves else None
    out = Path(flags.out or (Path(operand) / "fit.json" if Path(operand).is_dir() else "fit.json"))
    fit.save(out)
    payload = {key: value for key, value in fit.to_dict().items() if key not in ("samples", "data")}
    if collapsed is not None:
        payload["collapse"] = {
            "spread": collapsed.late_spread,
            "noise": collapsed.late_noise,
            "holds": collapsed.holds,
            "apart": collapsed.apart(),
        }
    payload |= {"guessed_columns": dict(runs.guessed), "path": str(out)}
    return Output(payload, _text(fit, out, runs.guesses, collapsed))


def _frontier(report: "FitReport") -> list[str]:
    """The loss of the target by the surfaces and by the law of the frontier."""
    beside = report.frontier
    if beside is None or beside.surfaces is None or beside.frontier is None:
        return []
    named = {"surfaces": beside.surfaces, "frontier": beside.frontier}
    parts = [f"{name} {loss.value:.5g} {_span((loss.low, loss.high))}" for name, loss in named.items()]
    return [f"mean loss at {report.target_flops:.3g} FLOPs: {', '.join(parts)}"]


def _prior_and_runs(report: "FitReport") -> list[Any]:
    """Prior and posterior of the coupled surface beside each other, and where the prior decides."""
    from rich.table import Table

    check, average = report.model_average.surface, report.model_average
    if check is None:
        return []
    without = f" without {', '.join(average.prior_without)}" if average.prior_without else ""
    table = Table(box=None, pad_edge=False, title="coupled surface (kappa = 1 is separable)", title_justify="left")
    for title in ("", f"prior '{average.prior}'{without}", "with the runs", ""):
        table.add_column(title, justify="right" if title else "left")
    for row in check.coordinates:
        table.add_row(
            row.name,
            f"{row.prior:.3g} {_span((row.prior_low, row.prior_high))}",
            f"{row.value:.4g} {_span((row.low, row.high))}",
            "prior decides" if row.prior_decides else "",
        )
    return [table, ""]


def _span(ends: "Interval | None") -> str:
    return "" if ends is None else f"[{', '.join('open' if end is None else f'{end:.4g}' for end in ends)}]"


def _text(fit: "FitResult", out: Path, guessed: str, collapsed: "Collapse | None") -> Any:
    """What is shown of a fit.

    Args:
        fit: the fit.
        out: the file that it was written to.
        guessed: which columns were guessed, in one line; empty where none was.
        collapsed: its learning curves, where they were asked for.
    """
    from rich.console import Group

    report = fit.report
    average = [form for form in report.model_average.forms if form.weight]
    lines = [
        *([guessed] if guessed else []),
        report.formula + _held(report),
        _runs(report),
        _target(report),
        _objective(report),
        *([f"compute: {report.columns['c']} ({_convention(report)})"] if "c" in report.columns else []),
    ]
    if len(average) > 1:
        weights = ", ".join(f"{form.label} {form.weight:.0%}" for form in average)
        lines.append(f"forms, weighed by their forecasts: {weights}")
    terms = report.terms_at_centroid
    if terms.collinear:
        centre = ", ".join(f"{variable.upper()} {value:.3g}" for variable, value in terms.centroid.items())
        parts = ", ".join(f"{name} adds {value:.4g}" for name, value in terms.params.items())
        lines.append(f"at the centre of the runs ({centre}): {parts}")
    lines += _frontier(report)
    after = [_approach(name, approach) for name, approach in report.approaches.items()]
    if report.holdout:
        held = report.holdout
        after.append(
            f"held out: {held.n} runs above {held.above:.4g} FLOPs, error {held.mean_abs_rel_error:.2%} mean, "
            f"{held.max_abs_rel_error:.2%} worst; {held.coverage:.0%} inside their intervals"
        )
    after += _groups(report)
    after += _sensitivity(report)
    after += _collapse(collapsed) if collapsed else []
    warned = [f"warning: {warning}" for warning in fit.warnings]
    return Group(*lines, "", _constants(report), "", *_prior_and_runs(report), *after, *warned, f"{out}")


def _held(report: "FitReport") -> str:
    fixed = ", ".join(f"{name} = {value:g}" for name, value in report.fixed.items())
    return f"; held: {fixed}" if fixed else ""


def _runs(report: "FitReport") -> str:
    source = ", ".join(file.path for file in report.inputs) or "a table"
    left_out = "; ".join(f"{rule.n}: {rule.rule}" for rule in report.excluded) or "none"
    return f"{report.n_runs} runs of {source}; left out: {left_out}"


def _target(report: "FitReport") -> str:
    column, observable = report.columns["loss"], report.observable
    return f"{observable}{f': {column}' if column != observable else ''}; weights: {report.weights}"


def _objective(report: "FitReport") -> str:
    objective, certificate = report.objective, report.certificate
    delta = f" (delta {objective.delta:g})" if objective.has_threshold else ""
    return (
        f"summed {objective.name} {objective.value:.8g}{delta}; {certificate.n_at_best} of {certificate.n_starts} "
        f"starts reached it; gradient {certificate.gradient:.1g}"
    )


def _convention(report: "FitReport") -> str:
    return "C = 6 N D" if report.token_cost.six_nd else "FLOPs a token follow the sweep"


def _constants(report: "FitReport") -> Any:
    """Constants and what is derived from them, with intervals."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "value", f"{report.intervals.level:.0%} interval"):
        table.add_column(title, justify="left" if not title else "right")
    for name, value in report.params.items():
        table.add_row(name, f"{value:.6g}", _span(report.intervals.params.get(name)))
    for name, value in report.derived.items():
        target = "" if name[0] in "ab" else f" at {report.target_flops:.3g} FLOPs"
        table.add_row(name + target, f"{value:.6g}", _span(report.intervals.derived.get(name)))
    return table


def _approach(name: str, approach: "ApproachReport") -> str:
    title = APPROACHES[name]
    if approach.a is None:
        return f"{title}: none, {approach.reason}"
    return f"{title}: a {approach.a:.4f} {_span(approach.a_interval)}"


def _groups(report: "FitReport") -> list[Any]:
    """Efficiencies of the groups, relative to the first."""
    from rich.table import Table

    if report.groups is None:
        return []
    first, *others = report.groups.efficiencies
    title = f"one of each group in those of {first.group} (compute: where C = 6 N D)"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for heading in (report.groups.column, "runs", "N", "D", "compute"):
        table.add_column(heading, justify="left" if heading == report.groups.column else "right")
    table.add_row(first.group, str(first.n_runs), "1", "1", "1")
    for entry in others:
        values = ((entry.size, entry.size_interval), (entry.data, entry.data_interval))
        cells = [f"{value:.3g} {_span(ends)}" for value, ends in (*values, (entry.compute, entry.compute_interval))]
        table.add_row(entry.group, str(entry.n_runs), *cells)
    return ["", table, ""]


def _sensitivity(report: "FitReport") -> list[Any]:
    """What the fit says of the target under every other choice."""
    from rich.table import Table

    if not report.sensitivity:
        return []
    table = Table(box=None, pad_edge=False, title="under other choices", title_justify="left")
    for title in ("", "choice", "a", "N*", "loss"):
        table.add_column(title, justify="left" if title in ("", "choice") else "right")
    for row in report.sensitivity:
        cells = [row.reason] if row.reason else [f"{row.a:.4f}", f"{row.n:.4g}", f"{row.loss:.5g}"]
        table.add_row(row.kind, row.choice, *cells)
    return ["", table, "", *_floors(report), *_mixture_by_floor(report)]


def _mixture_by_floor(report: "FitReport") -> list[Any]:
    """What the mixture of surfaces forecasts for the target, by the interval in which the floor lies."""
    from rich.table import Table

    if not report.floor_forecast:
        return []
    table = Table(
        box=None, pad_edge=False, title="the mixture's forecast by E, each part of equal weight", title_justify="left"
    )
    for title in ("E", "median", "N*", "mean loss", ""):
        table.add_column(title, justify="right")
    for part in report.floor_forecast:
        ends = (
            f"{part.floor_low:.4g} to {part.floor_high:.4g}",
            f"{part.floor:.4g}",
            f"{part.n:.4g}",
            f"{part.loss:.5g}",
        )
        table.add_row(*ends, _span((part.low, part.high)))
    return [table, ""]


def _floors(report: "FitReport") -> list[Any]:
    """What is forecast at the target with the floor held."""
    from rich.table import Table

    if not report.floor_profile:
        return []
    table = Table(box=None, pad_edge=False, title="with E held", title_justify="left")
    for title in ("E", "N*", "loss", "objective", "inside its interval"):
        table.add_column(title, justify="right")
    for point in report.floor_profile:
        inside = {True: "yes", False: "no", None: ""}[point.inside]
        values = (f"{point.floor:.4g}", f"{point.n:.4g}", f"{point.loss:.5g}", f"{point.objective:.4g}")
        table.add_row(*values, inside)
    return [table, ""]


def _collapse(collapsed: "Collapse") -> list[str]:
    """How far the late learning curves lie apart, beside the noise of repeated runs, and the runs furthest off."""
    noise = collapsed.late_noise
    beside = "no run is repeated" if noise is None else f"repeated runs differ by {noise:.2%}"
    answer = {True: "they collapse", False: "they do not collapse", None: "not to be told from noise"}[collapsed.holds]
    furthest = ", ".join(f"{run} {distance:.2%}" for run, distance in list(collapsed.apart().items())[:3])
    return [
        f"late learning curves of {len(collapsed.runs)} runs, above E = {collapsed.floor:.4g} and scaled to end alike, "
        f"differ by {collapsed.late_spread:.2%}; {beside}: {answer}",
        f"furthest from the others: {furthest}",
    ]
