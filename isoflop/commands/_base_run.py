"""The run whose size and duration an optimum sets: the base config of the sweep behind a fit, or that of a config file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from isoflop import config_file
from sweeps import base_configs, design as designs, plan as plans, sweep_dir
from training import config as configs, identity
from training.errors import BadInput
from training.task import resolve as family_of

SIZE, DURATION = "model.size", "duration"
REPEATED = ("seed",)  # keys in which repetitions differ


@dataclasses.dataclass(frozen=True)
class BaseRun:
    """A run without a size and a duration.

    Attributes:
        config: completed; its duration, `model.size` and the keys of the shape that varied are open.
        source: the sweep directory or the config file.
        differing: keys beside size, duration and seed in which the runs differ, and which have here the base's value.
    """

    config: ConfigDict
    source: str
    differing: tuple[str, ...] = ()


def of_fit(fit: Path, table: str | None, runs: Sequence[str]) -> BaseRun:
    """The base run of the sweep whose runs were fitted.

    Args:
        fit: the file of the fit, beside which a sweep is looked for where the table has moved.
        table: the path of the table that was fitted; None: not known.
        runs: the fitted runs, by their ids.

    Raises:
        BadInput: no sweep directory holds these runs, or they are of several base configs.
    """
    folders = [*([Path(table).parent] if table else []), fit.parent / "sweep", fit.parent]
    folder = next((path for path in folders if (path / "sweep.json").is_file()), None)
    settle = "--base_config=FILE[:arg] gives the run whose size and duration are set"
    if folder is None:
        raise BadInput(f"{fit}: no sweep directory is beside its table: {settle}")
    sweep = sweep_dir.read(folder)
    entries = {run: sweep.entries[run] for run in dict.fromkeys(runs) if run in sweep.entries}
    if len(entries) < len(set(runs)) or not entries:
        raise BadInput(f"{fit}: not all of its runs are of the sweep {folder}: {settle}")
    compared = base_configs.compare(dataclasses.replace(sweep, entries=entries))
    if warning := compared.warning():
        raise BadInput(f"{folder}: {warning}; {settle}")
    base = next(iter(entries.values())).base
    config = configs.complete(ConfigDict(sweep.bases[base]), f"{folder / 'sweep.json'}")
    return _reduced(config, [entry.overrides for entry in entries.values()], str(folder))


def of_config(spec: str) -> BaseRun:
    """The base run of a config file: the base of a sweep, or a run whose shape is opened.

    Args:
        spec: `FILE[:arg]`.

    Raises:
        BadInput: there is no such file, or it is no config.
    """
    config = config_file.load(spec)
    if "design" not in config:
        return BaseRun(_opened(config, [f"model.{key}" for key in config.model]), spec)
    return _reduced(config.base, [designs.split(point)[0] for point in designs.points(config.design)], spec)


def _reduced(base: ConfigDict, overrides: Sequence[Mapping[str, Any]], source: str) -> BaseRun:
    """The base of several runs with the overrides that they share.

    Args:
        base: a completed config.
        overrides: of each run.
        source: where they are from.
    """
    flat = identity.flatten(base.to_dict())
    values: dict[str, list[Any]] = {
        key: [of_run.get(key, flat.get(key)) for of_run in overrides] for of_run in overrides for key in of_run
    }
    values = {key: all_values for key, all_values in values.items() if not identity.under(key, (SIZE, DURATION))}
    varied = [key for key, all_values in values.items() if len(set(map(json.dumps, all_values))) > 1]
    shared = {key: all_values[0] for key, all_values in values.items() if key not in varied}
    config = _opened(plans.configure(base, shared), varied)
    opened = {key for key in varied if identity.flatten(config.to_dict()).get(key) is None}
    return BaseRun(config, source, tuple(key for key in varied if key not in opened and key not in REPEATED))


def _opened(config: ConfigDict, keys: Sequence[str]) -> ConfigDict:
    """A copy without a size and a duration, and without those of some keys of its model that can follow from a size."""
    config = ConfigDict(config.copy_and_resolve_references())
    options = family_of(config.task).model_options(config.model.get("name"))
    with config.unlocked():
        for key in config.duration:
            config.duration[key] = None
        if "size" in config.model:
            config.model.size = None
        for key in (key.removeprefix("model.") for key in keys if key.startswith("model.")):
            if key in options and options[key] is None:
                config.model[key] = None
    return config.lock()
