"""A config file of the compute-optimal run of a budget and of a ladder of smaller budgets below it, from a fit."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from isoflop.commands._base_run import DURATION, SIZE, BaseRun
from sweeps import plan as plans
from sweeps.untrusted_files import printable
from training import config as configs, identity
from training.errors import BadInput
from training.task import resolve as family_of

if TYPE_CHECKING:
    from laws import FitResult, Forecast

FACTOR = 4.0  # between two budgets of a ladder: four rungs cost a third of the optimum
SEARCHES = 20  # shapes that are tried for a size that is counted by another convention than all parameters
COUNTS = ("params_total", "params_non_embedding", "params_active")  # conventions of N that a record holds


@dataclasses.dataclass(frozen=True)
class Rung:
    """One budget of a ladder.

    Attributes:
        budget: training FLOPs.
        forecast: of the loss of its optimum, with the split.
        n: parameters of the shape, by the convention of the fit.
        point: the resolved run.
    """

    budget: float
    forecast: "Forecast"
    n: int
    point: plans.Point


def ladder(fit: "FitResult", base: BaseRun, budget: float, rungs: int, given: dict[str, float]) -> list[Rung]:
    """The optimum of a budget, and those of smaller budgets, the smallest first.

    Args:
        fit: a fit of a law with a compute optimum.
        base: the run whose size and duration are set.
        budget: training FLOPs.
        rungs: smaller budgets, each of them a quarter of the one above. Those below the smallest run of the fit, and
            those for which no model is small enough, are left out.
        given: values of other columns of the law.

    Raises:
        BadInput: no shape is near enough to the optimum, or the run is refused.
        FitFailed: the law has no optimum.
    """
    top = _rung(fit, base, budget, given)
    smallest = fit.report.ranges.get("c", (0.0, 0.0))[0]
    below: list[Rung] = []
    for k in range(1, rungs + 1):
        lower = budget / FACTOR**k
        if lower < smallest:
            break
        try:
            below.insert(0, _rung(fit, base, lower, given))
        except BadInput:  # below the smallest shape, or shorter than a step
            break
    return [*below, top]


def _rung(fit: "FitResult", base: BaseRun, budget: float, given: dict[str, float]) -> Rung:
    forecast = fit.forecast(compute=budget, **given)
    columns = fit.report.columns
    convention = next((name for name in COUNTS if name == columns.get("n")), COUNTS[0])
    n, d = forecast.inputs["n"], forecast.inputs["d"]
    unit = columns.get("d") if columns.get("d") in ("tokens", "examples") else None
    unit = unit or ("tokens" if family_of(base.config.task).UNIT == "tokens" else "examples")
    size, best = n, None
    for _ in range(SEARCHES if convention != COUNTS[0] else 1):
        point = _point(base, budget, {SIZE: size, f"{DURATION}.{unit}": d})
        count = point.counts[convention]
        if best is None or abs(math.log(count / n)) < abs(math.log(best[1] / n)):
            best = point, count
        if size == size * n / count:
            break
        size *= n / count
    assert best is not None and best[0].config is not None
    # The nearest shape has more or fewer parameters than the optimum: the budget is kept, not the tokens.
    exact = columns.get("c") == "flops_exact"
    duration = {f"{DURATION}.flops": budget} if exact else {f"{DURATION}.{unit}": d * n / best[1]}
    return Rung(budget, forecast, best[1], _point(base, budget, _shape(base.config, best[0].config) | duration))


def _point(base: BaseRun, budget: float, overrides: dict[str, Any]) -> plans.Point:
    try:
        config = configs.resolve(plans.configure(base.config, overrides))
    except BadInput as error:
        raise BadInput(f"the optimum of {budget:g} FLOPs: {error}") from error
    return plans.Point(overrides, {"budget": budget}, config)


def _shape(base: ConfigDict, resolved: ConfigDict) -> dict[str, Any]:
    """The keys of the model that follow from its size: those without a default that the base leaves open."""
    options = family_of(base.task).model_options(base.model.get("name"))
    keys = [key for key, value in options.items() if value is None and base.model.get(key) is None]
    return {f"model.{key}": resolved.model[key] for key in keys if resolved.model.get(key) is not None}


def write(path: Path, rungs: list[Rung], base: BaseRun, notes: list[str]) -> None:
    """Write the config of a ladder.

    Args:
        path: of the file, which must not exist.
        rungs: the smallest budget first.
        base: the run whose size and duration they set.
        notes: for the head of the file: where the forecasts are from, and what the reader must know of them.

    Raises:
        BadInput: the file exists, cannot be written, or would be refused as a sweep.
    """
    given = _given(base.config)
    design = [{"label.budget": rung.budget, **rung.point.overrides} for rung in rungs]
    plans.plan(plans.complete(ConfigDict({"base": given, "design": tuple(design), "strict": True}), str(path)))
    head = [*notes, "", *_table(rungs)]
    comment = "\n".join(f"# {printable(line, 10**6)}".rstrip() for line in head)
    text = TEMPLATE.format(
        budget=f"{rungs[-1].budget:g}",
        file=printable(path.name.replace("\\", "/").replace('"', "'")),
        stem=printable(path.stem.replace("\\", "/").replace('"', "'")),
        comment=comment,
        base=_literal(given),
        design="".join(map(_point_literal, design)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"--config: {path}: cannot be written ({error.strerror})") from error


def check_new(path: Path) -> None:
    """Raise BadInput where a file is already there, or would not be a config."""
    if path.exists() or path.is_symlink():
        raise BadInput(f"--config: {path} exists, and is not overwritten")
    if path.suffix != ".py" or not path.stem.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise BadInput(f"--config: {path}: a config is a file NAME.py of letters, digits, '-', '_' and '.'")


def _given(config: ConfigDict) -> dict[str, Any]:
    """The keys of a completed config that differ from their defaults, nested, and its task."""
    usual = identity.flatten(configs.complete(ConfigDict({"task": config.task})).to_dict())
    tree: dict[str, Any] = {"task": config.task}
    for key, value in identity.flatten(config.to_dict()).items():
        if value is None or json.dumps(value) == json.dumps(usual.get(key)):
            continue
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def _literal(value: Any, indent: str = "") -> str:
    """A value of JSON as Python source: a key of a dict a line, a dict of a list a line."""
    if isinstance(value, dict):
        inner = f"{indent}    "
        rows = [f"{inner}{json.dumps(key)}: {_literal(each, inner)},\n" for key, each in value.items()]
        return f"{{\n{''.join(rows)}{indent}}}" if rows else "{}"
    if isinstance(value, str):
        return json.dumps(value)
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if "e" in short and float(short) == value else repr(value)


def _point_literal(point: dict[str, Any]) -> str:
    return f"    {{{', '.join(f'{json.dumps(key)}: {_literal(value)}' for key, value in point.items())}}},\n"


def _table(rungs: list[Rung]) -> list[str]:
    """A line a budget: the optimum of the law, the parameters of the nearest shape, the loss that is forecast."""
    level = f"{rungs[-1].forecast.level:.0%} interval"
    lines = [f"{'budget':>10} {'N*':>10} {'N':>14} {'D':>10} {'loss':>8}  {level}"]
    for rung in rungs:
        assert rung.point.config is not None
        (low, high), d = rung.forecast.interval, rung.point.config.derived.tokens
        size = f"{rung.forecast.inputs['n']:>10.4g} {rung.n:>14,} {d:>10.4g}"
        lines.append(f"{rung.budget:>10.4g} {size} {rung.forecast.value:>8.5g}  [{low:.5g}, {high:.5g}]")
    return lines


TEMPLATE = '''"""The optimum of {budget} training FLOPs and a ladder of smaller budgets below it, written by isoflop predict.

    isoflop plan --config={file}
    isoflop sweep --config={file} --workdir=runs/{stem}
    isoflop train --config={file}:optimum --workdir=runs/{stem}-optimum
"""

{comment}

from ml_collections import ConfigDict

# What differs from the defaults; what is not given follows from size and duration (recipe.name).
BASE = {base}

DESIGN = (
{design})


def get_config(arg=""):
    """The ladder; with the argument "optimum", its largest budget as a single run."""
    if arg not in ("", "optimum"):
        raise ValueError(f"no config {{arg!r}}: give optimum, or nothing")
    if not arg:
        return ConfigDict({{"base": BASE, "design": DESIGN, "strict": True}})
    run = ConfigDict(BASE)
    for key, value in DESIGN[-1].items():
        section, _, name = key.rpartition(".")
        if section != "label":
            run.update(ConfigDict({{section: {{name: value}}}}))
    return run
'''
