"""`isoflop fit`: a scaling law fitted to a table, certified, with intervals; writes `fit.json`."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

SUMMARY = "fit a scaling law to a table (Parquet, CSV, JSONL) or a sweep directory; writes fit.json"
EXAMPLE = """
isoflop fit runs/demo/sweep --law=chinchilla --holdout_above=6e11
isoflop fit runs.csv --n=params --d=tokens --c=flops --drop_highest=5 --bootstrap=4000
isoflop fit repeated.csv --law=data_constrained --columns=unique_tokens=unique --fixed=alpha=0.353,beta=0.353
isoflop fit runs.csv --law=mylaw.py:MYLAW --noise=loss_sem
"""

OBJECTIVES = (
    "Summed over rows: log_huber, log_squared, squared (of the loss itself), or log_asymmetric (Huber's for runs above "
    "the law, squares for those below: badly tuned runs only ever lie above)."
)

INTERVALS = (
    "How intervals are found: pairs (bootstrap over runs), wild (of residuals, for few runs), jackknife, or profile "
    "(likelihood); auto is wild with fewer than 8 runs a constant, else pairs."
)


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command; the columns default to those of a collected table."""
    text, real, whole = absl_flags.DEFINE_string, absl_flags.DEFINE_float, absl_flags.DEFINE_integer
    flag = absl_flags.DEFINE_boolean
    text("law", "chinchilla", "The law (kaplan, power_c, ...), or file.py:NAME for one of your own.", flag_values=flags)
    text("n", None, "Column of the parameters; params_total in collected tables.", flag_values=flags)
    text("d", None, "Column of the training data; tokens in collected tables (examples: images).", flag_values=flags)
    text("c", None, "Column of the training FLOPs; flops_exact in collected tables, else 6 N D.", flag_values=flags)
    text("loss", None, "Column of the loss, or of what else the law predicts; loss by default.", flag_values=flags)
    text("columns", None, "Columns of other variables, as in unique_tokens=seen_once,experts=E.", flag_values=flags)
    text("noise", None, "Column of the standard error of the loss: rows weigh 1 / error^2.", flag_values=flags)
    text("fixed", None, "Constants held at given values, as in alpha=0.35,E=1.7.", flag_values=flags)
    text("run", None, "Column that names the run of a row; run_id, else every row is a run.", flag_values=flags)
    text("where", None, "Only rows for which this holds, as in \"family == 'lm' and flops < 1e20\".", flag_values=flags)
    flag("frontier", False, "Only the best run of each compute, if no cheaper one beats it.", flag_values=flags)
    _laws.define_table_options(flags)
    whole("drop_highest", 0, "Leave out that many of the highest losses.", lower_bound=0, flag_values=flags)
    text("objective", "log_huber", OBJECTIVES, flag_values=flags)
    real("delta", 1e-3, "Huber's threshold, in log loss.", flag_values=flags)
    whole("bootstrap", 1000, "Resamples of the runs; 0 for no intervals.", lower_bound=0, flag_values=flags)
    text("interval", "auto", INTERVALS, flag_values=flags)
    real("holdout_above", None, "Hold out the budgets with more FLOPs, and predict them.", flag_values=flags)
    real("target", None, "FLOPs at which N*, D* and the loss are derived; the table's largest.", flag_values=flags)
    real("level", 0.95, "Level of the intervals.", flag_values=flags)
    text("curves", None, "Learning curves for approach 1; curves.parquet beside runs.parquet.", flag_values=flags)
    whole("seed", 0, "Seed of all draws.", flag_values=flags)
    flag("sensitivity", False, "Also fit under other objectives, outlier rules, forms, conventions.", flag_values=flags)
    text("out", None, "Where to write; fit.json in the sweep directory or here.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Read, fit, write, and say what was found."""
    (operand,) = _laws.operand(args, "fit", "a table or a sweep directory")
    _laws.on_cpu()
    from laws.data.curves import load_curves
    from laws.data.table import load
    from laws.results.analysis import analyse

    path = _laws.table_path(operand)
    named: dict[str, Any] = {
        variable: flags[variable].value
        for variable in ("n", "d", "c", "loss", "run", "noise", "where", "frontier", "drop_highest")
    }
    named["columns"] = _laws.pairs("columns", flags.columns)
    named |= _laws.table_options(flags)
    table = load(path, **named)
    curves = flags.curves or _laws.curves_beside(path)
    fitted = analyse(
        table,
        flags.law,
        objective=flags.objective,
        delta=flags.delta,
        resamples=flags.bootstrap,
        method=flags.interval,
        holdout_above=flags.holdout_above,
        target=flags.target,
        level=flags.level,
        seed=flags.seed,
        curves=load_curves(curves) if curves else None,
        fixed=_laws.numbers("fixed", flags.fixed),
    )
    if flags.sensitivity:
        from laws.uses.sensitivity import sensitivity

        fitted.report["sensitivity"] = sensitivity(fitted, table, lambda **columns: load(path, **named | columns))
    fitted.report["command"] = _laws.typed("fit", flags, args)
    out = Path(flags.out or (Path(operand) / "fit.json" if Path(operand).is_dir() else "fit.json"))
    fitted.save(out)
    payload = {key: value for key, value in fitted.report.items() if key not in ("samples", "data")}
    return Output(_plain(payload) | {"path": str(out)}, _text(fitted.report, out))


def _plain(payload: dict[str, Any]) -> dict[str, Any]:
    from laws.base.json_files import jsonable

    return jsonable(payload)


def _span(ends: Any) -> str:
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""


def _text(report: dict[str, Any], out: Path) -> Any:
    from rich.console import Group
    from rich.table import Table

    intervals, objective, starts = report["intervals"], report["objective"], report["starts"]
    table = Table(box=None, pad_edge=False)
    for title in ("", "value", f"{intervals['level']:.0%} interval"):
        table.add_column(title, justify="left" if not title else "right")
    target = report["target"]
    for name, value in (report["params"] | report["derived"]).items():
        at = f" at {target['c']:.3g} FLOPs" if target and name not in report["params"] and name[0] not in "ab" else ""
        table.add_row(name + at, f"{value:.6g}", _span((intervals["params"] | intervals["derived"]).get(name)))
    cost = "C = 6 N D" if report["cost"]["convention"] == "6ND" else "FLOPs a token follow the sweep"
    source = ", ".join(item["path"] for item in report["inputs"]) or "a table"
    left_out = "; ".join(f"{rule['n']}: {rule['rule']}" for rule in report["excluded"]) or "none"
    fixed = ", ".join(f"{name} = {value:g}" for name, value in report["fixed"].items())
    delta = f" (delta {objective['delta']:g})" if "squared" not in objective["name"] else ""
    column, observable = report["columns"]["loss"], report["observable"]
    lines = [
        report["form"] + (f"; held: {fixed}" if fixed else ""),
        f"{report['n_runs']} runs of {source}; left out: {left_out}",
        f"{observable}{f': {column}' if column != observable else ''}; weights: {report['weights']}",
        f"summed {objective['name']} {objective['value']:.8g}{delta}; {starts['at_best']} of "
        f"{starts['n']} starts reached it; gradient {report['certificate']['gradient']:.1g}",
        *([f"compute: {report['columns']['c']} ({cost})"] if "c" in report["columns"] else []),
    ]
    forms = report["ensemble"]["forms"]
    if len(forms) > 1:
        lines.append("forms, weighed by their forecasts: " + ", ".join(f"{f['form']} {f['weight']:.0%}" for f in forms))
    if report["centred"]["collinear"]:
        at = ", ".join(f"{variable.upper()} {value:.3g}" for variable, value in report["centred"]["at"].items())
        parts = report["centred"]["params"]
        lines.append(f"at the centre of the runs ({at}): " + ", ".join(f"{k} adds {v:.4g}" for k, v in parts.items()))
    after = [_approach(name, found) for name, found in report["approaches"].items()]
    if report["holdout"]:
        held = report["holdout"]
        after.append(
            f"held out: {held['n']} runs above {held['above']:.4g} FLOPs, error {held['mean_abs_rel_error']:.2%} mean, "
            f"{held['max_abs_rel_error']:.2%} worst; {held['coverage']:.0%} inside their intervals"
        )
    after += _moves(report)
    return Group(*lines, "", table, "", *after, *(f"warning: {text}" for text in report["warnings"]), f"{out}")


def _approach(name: str, found: dict[str, Any]) -> str:
    titles = {"envelope": "approach 1 (envelope)", "isoflop_akima": "approach 2 (Akima)"}
    title = titles.get(name, "approach 2 (parabola)")
    if "a" not in found:
        return f"{title}: none, {found['reason']}"
    return f"{title}: a {found['a']:.4f} {_span(found['a_interval'])}"


def _moves(report: dict[str, Any]) -> list[Any]:
    """What every other choice would have said of the target."""
    from rich.table import Table

    if not report.get("sensitivity"):
        return []
    table = Table(box=None, pad_edge=False, title="under other choices", title_justify="left")
    for title in ("", "choice", "a", "N*", "loss"):
        table.add_column(title, justify="left" if title in ("", "choice") else "right")
    for row in report["sensitivity"]:
        said = [f"{row['a']:.4f}", f"{row['n']:.4g}", f"{row['loss']:.5g}"] if "a" in row else [row["reason"]]
        table.add_row(row["kind"], row["choice"], *said)
    return ["", table, ""]
