"""A run that goes on from the whole state of another: the same to the bit as without, and refused where it would not be."""

import jax
import numpy as np
import pytest
import toy

from training import checkpoint, loop
from training.errors import BadInput

WSD = {"schedule.name": "wsd", "schedule.decay_fraction": 0.25, "schedule.warmup_steps": 2, "model.dropout": 0.1}
SHORT = {**WSD, "duration.steps": 16, "optimizer.ema": 0.9, "optimizer.learning_rate": 0.02}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "run"
    loop.run(toy.config(**SHORT | {"duration.steps": 24, "checkpoint.at_steps": (12, 18)}), path)
    return path


def leaves(run):
    return [
        np.asarray(leaf)
        for name in ("params", "moments", "ema")
        for leaf in jax.tree.leaves(checkpoint.load_part(run, name))
    ]


def test_a_fork_is_a_single_run_bit_for_bit(trunk, tmp_path):
    assert checkpoint.saved_steps(trunk) == [12, 18, 24]
    whole = loop.run(toy.config(**SHORT), tmp_path / "whole")
    fork = {"fork_from.run": str(trunk), "fork_from.step": 12}
    forked = loop.run(toy.config(**SHORT, **fork), tmp_path / "forked")
    for name in ("run_id", "loss", "tokens", "flops_exact", "steps"):
        assert forked[name] == whole[name]
    assert forked["fork_step"] == 12 and forked["trunk"] != forked["run_id"] and whole["trunk"] is None
    pairs = list(zip(leaves(tmp_path / "forked"), leaves(tmp_path / "whole"), strict=True))
    assert len(pairs) > 8 and all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fork_from.run": "nowhere"}, "fork_from.run: nowhere is no run directory"),
        ({"fork_from.run": ""}, "fork_from.step: says where a run is forked from another; give fork_from.run"),
        ({"fork_from.step": None}, "fork_from.step: give the step of the trunk's checkpoint"),
        ({"fork_from.step": 5}, "has no checkpoint of step 5"),
        ({"fork_from.step": 18}, "step 18 does not lie inside a run of 16 steps"),
        ({"steps_per_call": 5}, "12 is no multiple of steps_per_call 5"),
        ({"seed": 1}, "the trunk has another seed"),
        ({"model.width": 9, "optimizer.b2": 0.5}, "the trunk has another model.width, optimizer.b2"),
        ({"schedule.decay_fraction": 0.5}, "learning rate leaves the trunk's at step 9, before the fork at step 12"),
        ({"schedule.name": "cosine", "schedule.decay_fraction": None}, "learning rate leaves the trunk's at step 3"),
        ({"schedule.warmup_steps": 4}, "learning rate leaves the trunk's at step 0"),
        ({"early_stopping.patience": 1, "log.evaluate_every": 4}, "early_stopping.patience counts evaluations"),
        ({"data.hash": "another"}, "the trunk has another data.hash"),
    ],
)
def test_forks_that_would_be_another_run_are_refused_in_one_line(trunk, tmp_path, changes, message):
    given = SHORT | {"fork_from.run": str(trunk), "fork_from.step": 12} | changes
    config = toy.config(**given)
    for name in ("fork_from.step", "schedule.decay_fraction"):
        if given[name] is None:
            section, key = name.split(".")
            config[section][key] = None
    with pytest.raises(BadInput, match=message) as error:
        loop.run(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
