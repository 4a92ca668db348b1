"""The guard against spikes: what is skipped, by an oracle in numpy, and what a skipped step leaves as it was."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from training import checkpoint, loop, spike_guard
from training.config import resolve
from training.errors import BadInput
from training.lines import read_metrics

GUARD = {"spike_guard.sigmas": 3.0, "spike_guard.window": 8}


def test_a_spike_lies_so_many_deviations_above_the_last_steps():
    rng = np.random.default_rng(0)
    losses, norms = 2 + 0.1 * rng.normal(size=60), 1 + 0.1 * rng.normal(size=60)
    losses[[2, 20, 41]] += 5  # the first of them before half a window has been seen
    norms[[30, 42]] *= 4
    losses[10], norms[1] = np.nan, np.inf
    guard, step = spike_guard.initial(8), jax.jit(spike_guard.judged)
    history = []
    for t in range(60):
        spike, guard = step(guard, jnp.float32(losses[t]), jnp.float32(norms[t]), jnp.float32(3.0))
        finite = np.isfinite(losses[t]) and np.isfinite(norms[t])
        last = np.array(history[-8:]).reshape(-1, 2)
        bounds = last.mean(0) + 3 * last.std(0, ddof=1) if len(last) >= 4 else np.array([np.inf, np.inf])
        assert bool(spike) == (not finite or losses[t] > bounds[0] or norms[t] > bounds[1]), t
        history += [(losses[t], norms[t])] if finite else []
    assert int(guard.skipped) >= 6 and int(guard.seen) == 58


@pytest.mark.parametrize("stride", [1, 4])
def test_a_poisoned_batch_changes_nothing(tmp_path, stride):
    """From batch 17 on targets are infinite: the run goes on, and ends with what it had after 17 steps."""
    changes = GUARD | {"spike_guard.sigmas": 50.0, "steps_per_call": stride, "optimizer.ema": 0.9, "log.every": 1}
    changes |= {"schedule.name": "constant", "schedule.warmup_steps": 2}
    result = loop.run(toy.config(**changes, **{"model.poison": 17}), tmp_path / "poisoned")
    clean = loop.run(toy.config(**changes, **{"duration.steps": 17}), tmp_path / "clean")
    assert result["status"] == "completed" and result["steps"] == 24 and result["skipped_steps"] == 7
    assert clean["skipped_steps"] == 0 and result["loss"] == pytest.approx(clean["loss"], rel=1e-6)
    assert [line["skipped"] for line in read_metrics(tmp_path / "poisoned")] == [0] * 17 + [1] * 7
    for name in ("params", "ema"):
        one, other = (checkpoint.load_params(tmp_path / run, name=name) for run in ("poisoned", "clean"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


def test_without_spikes_a_guarded_run_is_as_one_without(tmp_path):
    guarded = loop.run(toy.config(**GUARD | {"spike_guard.sigmas": 1e6}), tmp_path / "guarded")
    plain = loop.run(toy.config(), tmp_path / "plain")
    assert guarded["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert guarded["skipped_steps"] == 0 and "skipped_steps" not in plain


BACK = GUARD | {"spike_guard.sigmas": 50.0, "spike_guard.rollback": 3, "spike_guard.max_rollbacks": 2}
BACK |= {"checkpoint.every_steps": 8, "checkpoint.every_minutes": 0.0, "schedule.name": "constant", "log.every": 1}


class Batches(toy.ToyTask):
    """The toy task that notes which batches are read."""

    read: ClassVar[list[int]] = []

    def batch(self, k, rows):
        self.read.append(k)
        return super().batch(k, rows)


def course(monkeypatch, folder, **changes):
    """The result of a run, the batches that it read, and its losses by step."""
    monkeypatch.setattr(toy, "build", Batches)
    monkeypatch.setattr(Batches, "read", [])
    result = loop.run(toy.config(**BACK | changes), folder)
    return result, Batches.read, {line["step"]: line["loss"] for line in read_metrics(folder) if "loss" in line}


def test_a_run_goes_back_from_a_spike_and_leaves_batches_out(tmp_path, monkeypatch):
    """Batches 10 to 12 are poisoned. Step 11 is a spike: back to 8, past 8, 9 and 10. Batch 11 is one again: past 3 more."""
    result, read, losses = course(monkeypatch, tmp_path, **{"model.poison": 10, "model.poisoned": 3})
    assert (result["rollbacks"], result["rolled_back_steps"], result["batches_left_out"]) == (2, 3 + 1, 6)
    assert result["skipped_steps"] == 0 and result["status"] == "completed" and result["steps"] == 24
    taken = [*range(8), *range(14, 30)]
    assert set(read) == {*taken, *range(8, 13)} and sorted(losses) == list(range(1, 25))
    # The same batches by a task that has no others end at the same loss.
    monkeypatch.setattr(Batches, "batch", lambda self, k, rows: toy.ToyTask.batch(self, taken[k], rows))
    other = loop.run(toy.config(**BACK), tmp_path / "other")
    assert other["loss"] == pytest.approx(result["loss"], rel=1e-6) and other["rollbacks"] == 0


def test_beyond_the_limit_spikes_are_skipped(tmp_path, monkeypatch):
    result, _, _ = course(monkeypatch, tmp_path, **{"model.poison": 10})
    assert result["rollbacks"] == 2 and result["skipped_steps"] == 16 and result["status"] == "completed"


@pytest.mark.parametrize("stop", [12, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (9, 20))])
def test_a_run_that_is_stopped_takes_the_same_course(tmp_path, monkeypatch, stop):
    """Killed before the first spike, after both, and behind the next checkpoint."""
    poison = {"model.poison": 10, "model.poisoned": 3}
    whole, _, losses = course(monkeypatch, tmp_path / "whole", **poison)

    class Killed(Exception):
        pass

    calls = []

    def kill(step, metrics):
        calls.append(step)
        if len(calls) == stop:
            raise Killed

    monkeypatch.setattr(toy, "build", Batches)
    with pytest.raises(Killed):
        loop.run(toy.config(**BACK | poison), tmp_path / "cut", loggers=(kill,))
    result, _, again = course(monkeypatch, tmp_path / "cut", **poison)
    assert again == losses
    assert {key: result[key] for key in ("loss", "rollbacks", "batches_left_out")} == {
        key: whole[key] for key in ("loss", "rollbacks", "batches_left_out")
    }


def test_runs_that_are_stepped_together_cannot_go_back(tmp_path):
    specs = [loop.RunSpec(toy.config(**BACK, seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    for outcome in loop.train(specs):
        assert isinstance(outcome, BadInput) and "train them one by one" in str(outcome)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spike_guard.sigmas": -1.0}, "spike_guard.sigmas: must not be negative, got -1.0"),
        ({"spike_guard.window": 3}, "spike_guard.window: must be at least 4 steps, got 3"),
        (GUARD | {"replicas.count": 2}, "spike_guard.sigmas: replicas that train apart"),
        ({"spike_guard.rollback": 2}, "spike_guard.rollback: no step is a spike"),
        (
            BACK | {"checkpoint.every_steps": 0},
            "spike_guard.rollback: goes back to a multiple of checkpoint.every_steps",
        ),
        (BACK | {"checkpoint.every_minutes": 5.0}, "spike_guard.rollback: goes back by steps, not by the clock"),
    ],
)
def test_what_a_guard_cannot_be(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**changes))
