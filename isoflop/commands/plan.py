"""`isoflop plan`: the points of a run or sweep and what they cost; nothing is run."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags
from rich.console import Group

from isoflop.cli import Output
from isoflop.commands import _topology
from isoflop.commands._sweep_flags import define_points, planned
from isoflop.commands._tables import FittingTable, duration
from sweeps import cost_estimate, placement, plan as plans
from sweeps.measure import Measurement
from sweeps.run_batching import best_batch
from training import optimizer, parametrization
from training.errors import Absent, BadInput
from training.task import resolve as family_of

EXAMPLE = """
isoflop plan --config=configs/lm/demo.py
isoflop plan --config=configs/lm/demo.py --config.base.model.depth=3 --where='budget<=1e11' --memory=false
isoflop plan --config=configs/lm/ladder.py:1b --topology=v5p:4x4x4 --price_per_device_hour=4.2
isoflop plan --config=configs/lm/ladder.py:1b --topology=h100:8 --search=mesh,remat
"""
CONFIG = True
MOST_RECIPES = 4  # shapes whose multipliers are printed
COLUMNS = {
    "run_id": ("run", "{}"),
    "params_total": ("N", "{:,}"),
    "params_active": ("N active", "{:,}"),
    "params_non_embedding": ("N non-emb.", "{:,}"),
    "tokens": ("D", "{:.3g}"),
    "epochs": ("epochs", "{:.2g}"),
    "steps": ("steps", "{:,}"),
    "batch_size": ("batch", "{}"),
    "peak_lr": ("peak lr", "{:.3g}"),
    "seed": ("seed", "{}"),
    "flops_6nd": ("6ND", "{:.3g}"),
    "flops_exact": ("exact FLOPs", "{:.3g}"),
    "trunk": ("trunk", "{}"),
    "fork_step": ("from step", "{:,}"),
    "own_flops": ("own FLOPs", "{:.3g}"),
    "memory_bytes": ("MiB", "{:.0f}"),
    "minutes": ("minutes", "{:.2f}"),
}

# Columns that a narrow terminal does without, the first one first.
DISPENSABLE = (
    *("params_non_embedding", "flops_6nd", "epochs", "params_active", "batch_size", "seed", "peak_lr", "memory_bytes"),
    *("flops_exact", "steps"),
)


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    define_points(flags)
    absl_flags.DEFINE_boolean(
        "memory",
        None,
        f"Compile every distinct shape for its memory, and time it; by default up to {cost_estimate.MAX_SHAPES} shapes, "
        "where the data is on this machine.",
        flag_values=flags,
    )
    absl_flags.DEFINE_boolean(
        "pack",
        None,
        "Time packs too, several runs of a shape as one program; by default where there is an accelerator.",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "flops_per_second", None, "The speed of one worker, instead of timing it.", flag_values=flags
    )
    absl_flags.DEFINE_string("workdir", None, "Take the speed from the records of this sweep.", flag_values=flags)
    absl_flags.DEFINE_integer("workers", None, "Workers that share the hours; default as in sweep.", flag_values=flags)
    _topology.define(flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Plan, estimate the cost and print."""
    if args:
        raise BadInput(f"plan takes no operands, got {args[0]!r}")
    plan = planned(flags)
    if flags.topology is not None:
        return _topology.run(flags, plan)
    workers = flags.workers
    if workers is not None and workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {workers}")
    largest = max(point.config.derived.params_total for point in plan.points if point.config)
    placements = placement.placements(workers, [point.own_flops for point in plan.points], largest)
    batches, speed, notes = _measured(flags, plan, placements[0], len(placements))
    single = {key: measurements[0] for key, measurements in batches.items()}
    rows = [cost_estimate.row(point) for point in plan.points]
    for row, point in zip(rows, plan.points, strict=True):
        row["memory_bytes"] = single[point.compile_key].memory_bytes if point.compile_key in single else None
        row["minutes"] = None
    hours, packs = None, []
    if speed is not None:
        for row, seconds in zip(rows, cost_estimate.training_seconds(plan.points, speed, single), strict=True):
            row["minutes"] = seconds / 60
        packs = [_batching_gain(plan, key, measured) for key, measured in batches.items() if len(measured) > 1]
        saved = sum(pack["minutes_alone"] - pack["minutes"] for pack in packs)
        hours = (sum(row["minutes"] for row in rows) - saved) / 60 / len(placements)
    payload = {
        "name": plan.name,
        "points": rows,
        "recipes": [_recipe(point) for point in _distinct_recipes(plan)],
        "refused": [cost_estimate.row(point) for point in plan.refused],
        "duplicates": len(plan.duplicates),
        "shapes": len(plan.compile_keys),
        "flops_exact": plan.flops,
        "data_per_param": plan.data_per_param,
        "one_ratio": plan.one_ratio,
        "workers": [str(place) for place in placements],
        "hours": hours,
        "hours_source": None if speed is None else speed.source,
        "packs": packs,
        "notes": notes,
    }
    return Output(payload, _text(payload, plan))


def _distinct_recipes(plan: plans.Plan) -> list[plans.Point]:
    """A point of every recipe and shape that its parametrization scales differently, in the order of the plan."""
    points = [point for point in plan.points if point.config]
    key = lambda point: (point.config.recipe.name, str(point.config.derived.parametrization))
    return list({key(point): point for point in reversed(points)}.values())[::-1]


def _recipe(point: plans.Point) -> dict[str, Any]:
    """What the recipe of a point says: name, source, reference, the optimizer's hyperparameters, and multipliers."""
    config = point.config
    assert config is not None
    scaling, section = parametrization.of(config), config.optimizer
    own = optimizer.options(section)
    return {
        "name": config.recipe.name,
        **config.derived.recipe.to_dict(),
        "width": config.model.get("width"),
        "depth": config.model.get("depth"),
        "optimizer": section.name,
        "learning_rate": section.learning_rate,
        "batch_size": config.batch_size,
        "warmup_steps": config.derived.warmup_steps,
        "weight_decay": section.weight_decay,
        **{name: own[name] for name in ("b1", "b2", "eps") if name in own},
        "init_scale": config.model.get("init_scale", 1.0),
        "forward": parametrization.forward(scaling),
        "multipliers": {role: factors._asdict() for role, factors in parametrization.by_role(scaling).items()}
        if scaling
        else {},
    }


def _recipe_lines(recipe: dict[str, Any]) -> list[str]:
    """The recipe of a shape for people: where it comes from, and what it multiplies where that is not 1."""
    reference = ", ".join(f"{key} {value:g}" for key, value in recipe["reference"].items() if value is not None)
    description = "; ".join(filter(None, (recipe.get("source"), reference and f"reference: {reference}")))
    lines = [f"recipe {recipe['name']}{description and f': {description}'}"]
    if recipe["multipliers"]:
        forward = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in recipe["forward"].items())
        lines.append(f"  width {recipe['width']}, depth {recipe['depth']}: {forward or 'nothing in the forward pass'}")
        for role, factors in recipe["multipliers"].items():
            scaled = ", ".join(f"{name} x {value:.3g}" for name, value in factors.items() if value != 1)
            lines += [f"    {role}: {scaled}"] if scaled else []
    return lines


def _batching_gain(plan: plans.Plan, compile_key: str, measurements: list[Measurement]) -> dict[str, Any]:
    """The gain of training runs of a shape as one program: the best number of runs, its speed over one, minutes.

    Args:
        plan: the plan.
        compile_key: of the shape.
        measurements: of 1, 2, 4, ... runs as one program.
    """
    flops = [point.own_flops for point in plan.points if point.compile_key == compile_key]
    speeds = {measurement.runs: measurement.flops_per_second or 0.0 for measurement in measurements}
    size = best_batch(measurements).runs
    return {
        "params_total": measurements[0].params,
        "runs": len(flops),
        "size": size,
        "gain": speeds[size] / speeds[1],
        "gains": {runs: speed / speeds[1] for runs, speed in speeds.items()},
        "minutes_alone": sum(flops) / speeds[1] / 60,
        "minutes": sum(flops) / speeds[size] / 60,
    }


def _measured(
    flags: absl_flags.FlagValues, plan: plans.Plan, where: placement.Placement, workers: int
) -> tuple[dict[str, list[Measurement]], cost_estimate.Speed | None, list[str]]:
    """Measurements by compile key, the speed of the shapes that were not measured, and notes for people.

    Args:
        flags: of the command.
        plan: the plan.
        where: the placement of a worker.
        workers: how many there are.
    """
    wanted, stated, workdir = flags.memory, flags.flops_per_second, flags.workdir
    if stated is not None and stated <= 0:
        raise BadInput(f"--flops_per_second: must be positive, got {stated}")
    speed = None
    if stated is not None:
        speed = cost_estimate.Speed(((1, stated),), "as stated by --flops_per_second")
    elif workdir is not None:
        speed = cost_estimate.speed_of_records(Path(workdir))
        if speed is None:
            raise BadInput(f"--workdir {workdir}: no completed run to take the speed from")
    shapes = cost_estimate.representatives(plan)
    if wanted is False or (wanted is None and len(shapes) > cost_estimate.MAX_SHAPES and speed is not None):
        return {}, speed, ["memory was not asked for" if wanted is False else _unasked(shapes)]
    notes = []
    if wanted is None and len(shapes) > cost_estimate.MAX_SHAPES:
        notes.append(_unasked(shapes))
        shapes = cost_estimate.representatives(plan, cost_estimate.SAMPLED_SHAPES)
    batched = placement.accelerators()[0] != "cpu" if flags.pack is None else flags.pack
    try:
        runs = {key: -(-count // workers) for key, count in plan.compile_keys.items()}  # a worker's share
        measured = cost_estimate.measure_points(plan.base, shapes, where, runs if batched else None)
    except Absent as error:  # the counts hold all the same
        if wanted:
            raise
        return {}, speed, [*notes, f"memory and time are not measured: {error}"]
    single = [measurements[0] for measurements in measured.values()]
    notes += [
        f"N {shape.params:,}: a step needs {shape.memory_bytes / 2**30:,.1f} GiB of each device, more than this "
        "machine has: its runs would be refused here"
        for shape in single
        if shape.step_seconds is None
    ]
    timed = tuple((shape.params, shape.flops_per_second) for shape in single if shape.flops_per_second)
    source = f"a few steps of {len(timed)} shape{'s' * (len(timed) > 1)}, timed on {where}"
    return measured, speed or (cost_estimate.Speed(timed, source) if timed else None), notes


def _unasked(shapes: list[Any]) -> str:
    return f"{len(shapes)} distinct shapes are not compiled for their memory unless --memory is given"


def _text(payload: dict[str, Any], plan: plans.Plan) -> Any:
    labels = list(dict.fromkeys(name for point in plan.points for name in point.labels))
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in payload["points"])]
    if all(row.get("params_active") == row.get("params_total") for row in payload["points"]):
        columns = [name for name in columns if name != "params_active"]
    headings = [COLUMNS[name][0] if name in COLUMNS else name for name in (*columns[:1], *labels, *columns[1:])]
    rows = []
    for row in payload["points"]:
        values = [_cell(row.get(name), COLUMNS[name][1], name) for name in columns]
        rows.append([values[0], *(_label(row.get(name)) for name in labels), *values[1:]])
    table = FittingTable(headings, rows, [*(COLUMNS[name][0] for name in DISPENSABLE), *reversed(labels)])
    recipes = payload["recipes"][:MOST_RECIPES]
    lines = list(dict.fromkeys(line for recipe in recipes for line in _recipe_lines(recipe)[:1]))
    lines += [line for recipe in recipes for line in _recipe_lines(recipe)[1:]]
    if len(payload["recipes"]) > MOST_RECIPES:
        lines.append(f"  and {len(payload['recipes']) - MOST_RECIPES} more shapes: --json has all")
    lines += [f"{len(plan.points)} runs, {payload['shapes']} shapes to compile, {plan.flops:.3g} exact FLOPs"]
    if payload["hours"] is not None:
        where = f"{len(payload['workers'])} worker{'s' * (len(payload['workers']) > 1)}"
        lines.append(
            f"about {duration(3600 * payload['hours'])} of training on {where} (speed: {payload['hours_source']})"
        )
    else:
        lines.append("no estimate of hours: --memory, --flops_per_second or --workdir would give one")
    for pack in payload["packs"]:
        gains = ", ".join(f"{size} at a time {gain:.2f}" for size, gain in pack["gains"].items() if size > 1)
        best = f"packs of {pack['size']}" if pack["size"] > 1 else "one at a time"
        lines.append(f"{pack['runs']} runs of N {pack['params_total']:,}: {best} (speed over one at a time: {gains})")
    if branches := sum(point.trunk is not None for point in plan.points):
        lines.append(
            f"{branches} runs are forked from their trunks, whose batch, learning rate and warmup they have; steps before "
            "a fork are counted once"
        )
    ratios = sorted(plan.data_per_param)
    if len(ratios) > 1:
        unit = family_of(plan.base.task).UNIT
        lines.append(
            f"{unit} per parameter: {ratios[0]:.3g} to {ratios[-1]:.3g}, median {ratios[len(ratios) // 2]:.3g}"
        )
        if plan.one_ratio:
            lines.append(
                f"warning: one ratio of {unit} to parameters: size and data grow together, so no law of both is "
                "identified; sweeps.design has isoflop, branch and lshape"
            )
    if plan.duplicates:
        lines.append(f"{len(plan.duplicates)} points are the same run as another and were dropped")
    for point in plan.refused:
        stated = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in point.overrides.items()
        )
        lines.append(f"refused: {stated}: {point.refused}")
    return Group(table, "", *lines, *payload["notes"])


def _cell(value: Any, form: str, name: str) -> str:
    if value is None:
        return ""
    return form.format(value / 2**20 if name == "memory_bytes" else value)


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
