"""Completion, validation, derivation and identity of configs."""

import dataclasses
import json

import jax
import pytest
import toy
from ml_collections import ConfigDict

from training import config as configs, identity, loop
from training.defaults import RENAMED, defaults, renamed
from training.errors import BadInput


def partial(**sections):
    toy.install()
    return ConfigDict({"task": "toy", **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimiser": {}}, r"unknown key 'optimiser'; did you mean 'optimizer'"),
        ({"model": {"widht": 3}}, r"unknown key 'model.widht'; did you mean 'width'"),
        ({"model": {"width": 3.5}}, r"model.width wants int, got 3.5"),
        ({"seed": "one"}, r"seed wants int, got 'one'"),
        ({"mesh": 3}, r"mesh is a section"),
        ({"task": "lmm"}, r"no family 'lmm'; did you mean 'lm'"),
    ],
)
def test_a_key_or_type_at_fault_is_named(sections, message):
    with pytest.raises(BadInput, match=message):
        configs.complete(partial(**sections), "my.py")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration.tokens": None}, "give exactly one of .*; got none"),
        ({"duration.tokens": 5.0, "duration.steps": 5}, "give exactly one of .*got steps, tokens"),
        ({"duration.steps": -3}, "duration.steps: must be positive"),
        ({"optimizer.name": "adamm"}, "no 'adamm'; did you mean 'adam'"),
        ({"optimizer.momentum": 0.9}, r"optimizer.momentum is not used by adamw \(it uses b1, b2, eps\)"),
        ({"schedule.decay_fraction": 0.5}, "schedule.decay_fraction is not used by cosine"),
        ({"schedule.name": "cosin"}, "did you mean 'cosine'"),
        ({"schedule.warmup_steps": 3, "schedule.warmup_fraction": 0.1}, "at most one of warmup_steps"),
        ({"schedule.warmup_steps": 30}, "a warmup of 30 steps does not fit a duration of 24"),
        ({"schedule.name": "inverse_sqrt", "schedule.warmup_steps": 0}, "inverse_sqrt needs a warmup of at least one"),
        ({"schedule.name": "inverse_sqrt", "schedule.warmup_fraction": 0.01}, "inverse_sqrt needs a warmup"),
        ({"precision.compute": "float8"}, "'float8' is not one of float32"),
        ({"precision.matmul": "fast"}, "precision.matmul"),
        ({"gradient_accumulation_steps": 3}, "3 does not divide batch_size 16"),
        ({"optimizer.ema": 1.0}, r"must be in \[0, 1\)"),
        ({"precision.compute": "float16"}, "precision.compute: float16 needs loss scaling"),
        ({"precision.params": "float16"}, "precision.params: float16 needs loss scaling"),
        ({"optimizer.b1": 1.0}, r"optimizer.b1: must be in \[0, 1\), got 1"),
        ({"optimizer.b2": -0.1}, r"optimizer.b2: must be in \[0, 1\), got -0.1"),
        (
            {"optimizer.name": "nesterov", "optimizer.momentum": 1.5},
            r"optimizer.momentum: must be in \[0, 1\), got 1.5",
        ),
        ({"seed": 2**31}, "seed: must be a whole number of 32 bits, got 2147483648"),
        ({"model.size": float("nan")}, "model.size: must be a number of parameters, got nan"),
        ({"model.size": float("inf")}, "model.size: must be a number of parameters, got inf"),
        ({"optimizer.learning_rate": 0.0}, "optimizer.learning_rate: must be positive"),
        ({"optimizer.weight_decay_roles": ("matrices",)}, "no role 'matrices'"),
        ({"batch_size": None}, "duration.steps needs batch_size"),
        ({"duration.flops": 100.0}, "less than half a batch"),
        ({"model.size": 3.0}, "below the smallest shape"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        configs.resolve(toy.config(**changes))


@pytest.mark.parametrize(
    "duration",
    [{"steps": 24}, {"examples": 384.0}, {"tokens": 384.0}, {"epochs": 384 / 4096}, {"tokens_per_param": 384 / 49}],
)
def test_every_duration_means_the_same_steps(duration):
    resolved = configs.resolve(toy.config(**{f"duration.{key}": value for key, value in duration.items()}))
    assert resolved.derived.steps == 24


@pytest.mark.parametrize(
    ("warmup", "steps"),
    [({"warmup_tokens": 320.0}, 4), ({"warmup_fraction": 0.25}, 6), ({"warmup_steps": 3}, 3), ({}, 2)],
)
def test_every_warmup_means_the_same_steps(monkeypatch, warmup, steps):
    cost = toy.cost
    monkeypatch.setattr(toy, "cost", lambda config: dataclasses.replace(cost(config), tokens_per_example=5))
    resolved = configs.resolve(toy.config(**{f"schedule.{key}": value for key, value in warmup.items()}))
    assert resolved.derived.warmup_steps == steps  # batches of 16 examples of 5 tokens; the rule says 2
    assert resolved.derived.run_id == configs.resolve(toy.config(**{"schedule.warmup_steps": steps})).derived.run_id


def test_a_flop_budget_is_spent_exactly():
    resolved = configs.resolve(toy.config(**{"duration.flops": 1e6}))
    per_step = 16 * 3 * (2 * 4 * 8 + 2 * 8)
    assert abs(resolved.derived.flops - 1e6) <= per_step / 2


def test_resolution_is_idempotent_and_locked():
    once = configs.resolve(toy.config(**{"model.size": 61.0, "duration.flops": 1e6, "batch_size": None}))
    assert once.model.width == 10 and once.optimizer.learning_rate == 0.02 and once.optimizer.weight_decay == 0.1
    assert configs.resolve(once).to_dict() == once.to_dict()
    with pytest.raises(AttributeError):
        once.model.depth = 3


def test_identity_is_of_meaning_alone():
    base = configs.resolve(toy.config()).derived.run_id
    same = {
        "mesh.data": 2,
        "steps_per_call": 4,
        "log.every": 3,
        "checkpoint.every_steps": 7,
        "schedule.warmup_steps": 2,
    }
    for key, value in same.items():
        assert configs.resolve(toy.config(**{key: value})).derived.run_id == base, key
    assert configs.resolve(toy.config(**{"duration.examples": 384.0})).derived.run_id == base
    for key, value in {
        "seed": 1,
        "gradient_accumulation_steps": 2,
        "model.width": 9,
        "optimizer.learning_rate": 0.1,
        "duration.steps": 25,
    }.items():
        assert configs.resolve(toy.config(**{key: value})).derived.run_id != base, key


def test_the_deterministic_setting_reaches_the_compiler_and_the_record_but_not_the_identity(monkeypatch, tmp_path):
    seen, compile_ = [], jax.stages.Lowered.compile

    def spy(self, compiler_options=None):
        seen.append(compiler_options)
        return compile_(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", spy)
    plain = configs.resolve(toy.config(**{"model.width": 5}))
    exact = configs.resolve(toy.config(**{"model.width": 5, "deterministic": True}))
    assert plain.derived.run_id == exact.derived.run_id
    for config, options in ((plain, None), (exact, {"xla_gpu_deterministic_ops": True})):
        seen.clear()
        loop.run(config, tmp_path / str(config.deterministic))
        assert seen == [options, options, None]  # the train step, initial values; evaluations are sums of rows
    kept = json.loads((tmp_path / "True" / "config.json").read_text())
    assert kept["deterministic"] is True


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_key_of_before_is_refused_with_its_new_name(old, new):
    assert new in {*identity.flatten(defaults().to_dict()), *defaults()}
    *sections, key = old.split(".")
    section = ConfigDict({key: 1})
    for name in reversed(sections):
        section = ConfigDict({name: section})
    named = "start is now called init_from" if old == "start.fresh" else f"{old} is now called {new}"
    with pytest.raises(BadInput, match=f"^my.py: {named}$"):
        configs.complete(section, "my.py")
    assert renamed(old) == new and renamed(f"{old}.steps") == f"{new}.steps" and renamed(new) is None
