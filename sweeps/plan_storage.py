"""Plans in a sweep directory: their points written into `sweep.json`, and the config of a run made from it again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sweeps import plan as plans, sweep_dir
from sweeps.sweep_dir import Entry, Sweep
from training import config as configs, identity
from training.errors import BadInput
from training.files import clear_temporaries, locked, write_json

# Keys that are no part of a run's identity themselves, since what is derived from them is: steps, warm-up and widths.
DETERMINING = ("duration", "recipe", "model.size", "model.variant")


def add_points(path: Path, plan: plans.Plan) -> Sweep:
    """Add the points of a plan to a sweep directory, made on first use; labels and trunk of a known point are renewed.

    Raises:
        BadInput: the directory holds something else, or a sweep of another name.
    """
    if path.exists() and not path.is_dir():
        raise BadInput(f"workdir {path} is a file")
    if (path / "config.json").exists():
        raise BadInput(f"workdir {path} holds a run, not a sweep")
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / "sweep.lock", f"workdir {path}: sweep.json is being written", wait=True):
        clear_temporaries(path, "sweep.json")
        before = sweep_dir.read(path) if (path / "sweep.json").exists() else Sweep(path, plan.name, {}, {})
        if before.name != plan.name:
            raise BadInput(f"workdir {path} holds the sweep {before.name!r}, not {plan.name!r}: give another --workdir")
        base = json.loads(plan.base.to_json_best_effort())
        base_key = plans.digest(base)
        entries = {point.run_id: _entry(base_key, point) for point in plan.points}
        for run_id, entry in before.entries.items():
            # A run keeps the base that it was first planned with: it is the same run by whatever way it is described.
            planned = entries.get(run_id)
            if planned is not None:
                renewed = {name: getattr(planned, name) for name in ("labels", "trunk", "fork_step")}
                entry = dataclasses.replace(entry, **renewed)
            entries[run_id] = entry
        used = {entry.base for entry in entries.values()}
        bases = {key: config for key, config in {**before.bases, base_key: base}.items() if key in used}
        points = {run_id: _as_json(entry) for run_id, entry in entries.items()}
        indifferent = _indifferent(plan.base)
        content = {
            "format": sweep_dir.FORMAT,
            "name": plan.name,
            "indifferent": indifferent,
            "bases": bases,
            "points": points,
        }
        if points.keys() != before.entries.keys() or any(_as_json(before.entries[i]) != points[i] for i in points):
            write_json(path / "sweep.json", content)
        return Sweep(path, plan.name, bases, entries, indifferent)


def run_config(sweep: Sweep, entry: Entry) -> ConfigDict:
    """The completed config of a point.

    Raises:
        BadInput: this version of the code has no such keys, or makes another run of them.
    """
    where = f"{sweep.path / 'sweep.json'}"
    config = plans.configure(configs.complete(ConfigDict(sweep.bases[entry.base]), where), dict(entry.overrides))
    run_id = configs.resolve(config).derived.run_id
    if run_id != entry.run_id:
        raise BadInput(
            f"{where}: the run {entry.run_id} is now {run_id}: planned by another version, or with other data"
        )
    return config


def _indifferent(base: ConfigDict) -> tuple[str, ...]:
    """Keys and sections of a config that are no part of a run's identity, nor is anything that is derived from them."""
    keys = identity.indifferent(base.task)
    return tuple(key for key in keys if key not in DETERMINING)


def _entry(base: str, point: plans.Point) -> Entry:
    assert point.config is not None
    derived = point.config.derived
    described = json.loads(json.dumps({"overrides": point.overrides, "labels": point.labels}))
    return Entry(
        run_id=point.run_id,
        base=base,
        **described,
        compile_key=point.compile_key,
        flops=point.flops,
        params=derived.params_total,
        steps=derived.steps,
        trunk="" if point.trunk is None else point.trunk.run_id,
        fork_step=point.fork_step,
    )


def _as_json(entry: Entry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name != "run_id"}
    return {name: value for name, value in values.items() if entry.trunk or name not in ("trunk", "fork_step")}
