"""`isoflop evaluate RUN`: a checkpoint on a set, in full."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

EXAMPLE = """
isoflop evaluate runs/fashion
isoflop evaluate runs/small --predictions=tokens.parquet
isoflop evaluate runs/small --average=4
isoflop evaluate runs/fashion --split=validation --predictions=predictions.parquet
isoflop evaluate runs/fashion --probe=10 --figures=figures
"""
WAITING = "evaluating"


def define(flags: absl_flags.FlagValues) -> None:
    """Flags of the command."""
    absl_flags.DEFINE_string("split", None, "Of images: test or validation; as the run by default.", flag_values=flags)
    absl_flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.", flag_values=flags)
    absl_flags.DEFINE_integer(
        "average", 0, "The average of the parameters of that many of the last checkpoints.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "predictions",
        None,
        "Write a row an example, or a token, here (.csv or .parquet).",
        flag_values=flags,
    )
    absl_flags.DEFINE_integer(
        "probe",
        0,
        "Of images: also the accuracy of a linear classifier on that many images a class.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "figures", None, "Of images: draw confusions, filters and attention into this folder.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Load the checkpoint, score the whole set, and say what is to be said of it."""
    if len(args) != 1:
        raise BadInput("evaluate: name one run directory")
    from training import (
        checkpoint,
        config as configs,
        evaluation,
        load,
        mesh as meshes,
        state as states,
        step_spec,
    )
    from training.task import resolve as family_of

    folder, target = Path(args[0]), flags.predictions and Path(flags.predictions)
    if target and target.suffix not in (".csv", ".parquet"):
        raise BadInput(f"--predictions: {target} ends neither in .csv nor in .parquet")
    config = load.config_of(folder)
    if flags.split:
        if "split" not in config.evaluation:
            raise BadInput(f"--split: {config.task} has one evaluation set")
        config.evaluation.split = flags.split
    # On any mesh, as one model, and whatever became of the runs that this one began with and learnt from.
    plain = configs.defaults()
    config.mesh, config.replicas, config.lora = plain.mesh, plain.replicas, plain.lora  # whose factors are merged
    config.init_from.run, config.init_from.step, config.init_from.reinit = "", None, ()
    config.teacher.run, config.teacher.step = "", None
    config.early_stopping.patience = 0  # whatever was chosen by the validation images, they may be looked at
    config = configs.resolve(config)
    task, mesh = family_of(config.task).build(config), meshes.build(config.mesh)
    for flag in ("probe", "figures"):
        if flags[flag].value and not hasattr(task, flag):
            raise BadInput(f"--{flag}: {config.task} has none")
    stats = checkpoint.load_part(folder, "stats", flags.step, mesh)
    variables = states.boxed(task.model, step_spec.hyper(config, task))
    averaged: list[int] = []
    if flags.average:
        params, averaged = load.average(folder, config, variables, flags.average, flags.step, mesh)
    else:
        params = load.parameters(folder, config, variables, flags.step, mesh)
    outputs = list(evaluation.scores(task, params, stats, mesh, config.precision.matmul))
    details = getattr(task, "details", None)
    payload, columns = (task.summarize(outputs), None) if details is None else details(outputs)
    payload |= {"averaged_steps": averaged} if averaged else {}
    if flags.probe:
        payload |= task.probe(params, stats, flags.probe)  # type: ignore[attr-defined]
    if flags.figures:
        payload["figures"] = _draw(task.figures(params, stats, outputs), Path(flags.figures))  # type: ignore[attr-defined]
    if target:
        if columns is None:
            raise BadInput(f"--predictions: {config.task} has none to export")
        _write(columns, target)
    return Output({"run": str(folder), **payload}, _text(payload, target))


def _write(columns: dict[str, Any], target: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(columns)
    if target.suffix == ".csv":
        table.to_csv(target, index=False)
    else:
        table.to_parquet(target, index=False)


def _draw(figures: dict[str, Any], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=160)
    return [str(folder / f"{name}.png") for name in figures]


def _text(payload: dict[str, Any], target: Path | None) -> Any:
    from rich.console import Group
    from rich.table import Table

    parts: list[Any] = [
        f"{name:18} {value:.5g}" if isinstance(value, float) else f"{name:18} {value}"
        for name, value in payload.items()
        if not isinstance(value, list)
    ]
    if "classes" in payload:
        table = Table("class", *(name for name in payload["classes"][0] if name != "class"), box=None)
        for row in payload["classes"]:
            table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        grid = Table("label \\ predicted", *(row["class"][:8] for row in payload["classes"]), box=None)
        for row, counts in zip(payload["classes"], payload["confusion"], strict=True):
            grid.add_row(row["class"], *map(str, counts))
        parts += ["", table, "", *([grid] if len(payload["classes"]) <= 12 else [])]
    return Group(*parts, *payload.get("figures", []), *([str(target)] if target else []))
