"""Identities of runs: golden ids and defaults, so that no run of a sweep changes its name unnoticed.

`ISOFLOP_WRITE_GOLDEN=1 pytest tests/training/test_identity.py` writes the golden files anew.
"""

import json
import os
from pathlib import Path

import pytest
import toy
from every_run import MODELS, every_run, resolved, write_texts
from ml_collections.config_dict import placeholder

from training import config as configs, identity, load, loop, optimizer, replicas, schedule
from training.errors import BadInput

GOLDEN = Path(__file__).parent / "golden"
ANEW = "ISOFLOP_WRITE_GOLDEN=1 pytest tests/training/test_identity.py"
TABLES = {"optimizer": optimizer.TABLE, "schedule": schedule.TABLE, "replicas.outer": replicas.TABLE}


def run_ids():
    toy.install()
    write_texts()
    return {name: resolved(*of_run).derived.run_id for name, *of_run in every_run()}


def default_values():
    """All defaults that an identity leaves out or that a key of None stands for."""
    values = {
        f"{task} {key}": value
        for task in ("lm", "vision")
        for key, value in identity.default_values(task, None).items()
    }
    for section, table in TABLES.items():
        values |= {
            f"{section} {name}.{key}": value for name, row in table.items() for key, value in row.options.items()
        }
    values |= {f"optimizer {name}.weight_decay": row.weight_decay for name, row in optimizer.TABLE.items()}
    for task, table in MODELS.items():
        values |= {f"{task} {name}.{key}": value for name, row in table.items() for key, value in row.options.items()}
    return {
        key: identity.plain(value)
        for key, value in values.items()
        if not identity.under(key.split()[-1], identity.INDIFFERENT)
    }


def golden(name, now):
    """What a golden file holds; it is written first where that is asked for."""
    if "ISOFLOP_WRITE_GOLDEN" in os.environ:
        (GOLDEN / name).write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return json.loads((GOLDEN / name).read_text())


def test_every_kind_of_run_keeps_its_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = run_ids()
    assert now == golden("run_ids.json", now), f"runs change their names; if they must: {ANEW}"


def test_no_default_changes_without_another_schema():
    now = default_values()
    kept = golden("defaults.json", {"schema": identity.SCHEMA, "defaults": now})
    if kept["schema"] == identity.SCHEMA:
        changed = sorted(key for key, value in kept["defaults"].items() if key in now and now[key] != value)
        assert not changed, f"the same keys now mean other runs: bump SCHEMA in training/identity.py ({changed})"
    assert kept == {"schema": identity.SCHEMA, "defaults": now}, f"keys came, went or were renamed: {ANEW}"


@pytest.mark.parametrize("of_model", [False, True])
def test_a_new_key_with_a_neutral_default_changes_no_id(monkeypatch, of_model):
    """Nor does one that is None until the named model's own default fills it in."""
    base, defaults = configs.resolve(toy.config()).derived.run_id, toy.defaults

    def more():
        full = defaults()
        full.model.gate = placeholder(float) if of_model else 0.0
        return full

    monkeypatch.setattr(toy, "defaults", more)
    if of_model:
        monkeypatch.setattr(toy, "model_options", lambda name: {"width": None, "gate": 0.0})
        monkeypatch.setattr(toy, "shape_for", lambda config: {"width": 8, "gate": 0.0})
    plain = configs.resolve(toy.config())
    assert plain.model.gate == 0.0 and plain.derived.run_id == base
    assert configs.resolve(toy.config(**{"model.gate": 0.5})).derived.run_id != base


def test_an_identity_is_of_the_keys_that_differ_from_their_defaults():
    meaning = identity.semantic(configs.resolve(toy.config()))
    assert meaning == {
        "task": "toy",
        "batch_size": 16,
        "model.width": 8,
        "optimizer.learning_rate": 0.02,
        "optimizer.weight_decay": 0.1,
        "steps": 24,
        "warmup_steps": 2,
    }
    changed = identity.semantic(
        configs.resolve(toy.config(gradient_accumulation_steps=2, **{"async_sgd.workers": 4, "prune.begin": 0.1}))
    )
    assert changed == meaning | {"gradient_accumulation_steps": 2, "async_sgd.workers": 4}  # nothing is pruned


def test_a_run_of_another_schema_is_refused_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "SCHEMA", 0)
    loop.run(toy.config(), tmp_path)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="its config has the schema 0, this version reads 1"):
        loop.run(toy.config(), tmp_path)
    with pytest.raises(BadInput, match="its config has the schema 0, this version reads 1"):
        load.config_of(tmp_path)
