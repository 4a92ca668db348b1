"""Runs in lockstep: each yields what it yields alone, and what becomes of one does not disturb the others."""

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from training import checkpoint, loop, run_batch, run_session, signals, step
from training.errors import BadInput
from training.lines import read_metrics

OWN = {"wall_seconds", "train_seconds", "compile_seconds", "compiles", "pack", "tokens_per_second", "ended_at", "mfu"}
OWN |= {"num_devices"}
VARIED = (
    {},
    {"seed": 1, "optimizer.learning_rate": 0.003},
    {"optimizer.weight_decay": 0.5, "optimizer.clip": 0.1, "model.noise": 0.1, "schedule.name": "constant"},
    {"seed": 2, "duration.steps": 17},
)


def jobs(folder: Path, *changes, **each):
    return [
        run_session.RunSpec(toy.config(**{"duration.steps": 24, **each, **change}), folder / str(i))
        for i, change in enumerate(changes)
    ]


def metrics(run):
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "attempt")}
        for line in read_metrics(run)
    ]


def check_equal(alone: Path, packed: Path, rtol=1e-5):
    """The records, metrics and last checkpoints of two run directories."""
    one, other = (json.loads((run / "result.json").read_text()) for run in (alone, packed))
    assert one.keys() == other.keys()
    for name in one.keys() - OWN:
        if isinstance(one[name], float):
            np.testing.assert_allclose(other[name], one[name], rtol=rtol, err_msg=name)
        else:
            assert other[name] == one[name], name
    lines, others = metrics(alone), metrics(packed)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, found in zip(lines, others, strict=True):
        assert line.keys() == found.keys()
        for name in line:
            np.testing.assert_allclose(found[name], line[name], rtol=rtol, err_msg=f"{name} at step {line['step']}")
    for a, b in zip(*(jax.tree.leaves(checkpoint.load_params(run)) for run in (alone, packed)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of `VARIED`, one after another."""
    folder = tmp_path_factory.mktemp("alone")
    for job in jobs(folder, *VARIED, **{"steps_per_call": 4}):
        loop.run(job.config, job.workdir)
    return folder


def test_each_run_of_a_pack_is_the_run_alone(tmp_path, alone):
    results = loop.train(jobs(tmp_path, *VARIED, **{"steps_per_call": 4}))
    for i, result in enumerate(results):
        assert not isinstance(result, Exception)
        check_equal(alone / str(i), tmp_path / str(i))
        assert result["pack"] == 4
    assert json.loads((alone / "0" / "result.json").read_text())["pack"] == 1


def test_runs_that_share_their_data_are_given_it_once(tmp_path, monkeypatch):
    drawn = []
    batch = toy.ToyTask.batch

    def counted(self, k, rows):
        drawn.append(k)
        return batch(self, k, rows)

    rates = [{"optimizer.learning_rate": rate} for rate in (0.001, 0.002, 0.003)]
    for job in jobs(tmp_path / "alone", *rates):
        loop.run(job.config, job.workdir)
    monkeypatch.setattr(toy.ToyTask, "batch", counted)
    loop.train(jobs(tmp_path / "packed", *rates))
    assert sorted(drawn) == sorted([0, 0, 0, *range(24)])  # each run asks once for its shape
    for i in range(3):
        check_equal(tmp_path / "alone" / str(i), tmp_path / "packed" / str(i))


def test_a_run_that_diverges_does_not_disturb_the_others(tmp_path, alone):
    changes = ({}, {"model.poison": 5}, VARIED[1])
    found = loop.train(jobs(tmp_path, *changes, **{"steps_per_call": 4}))
    assert [result["status"] for result in found] == ["completed", "diverged", "completed"]  # type: ignore[index]
    assert found[1]["steps"] == 5  # type: ignore[index]
    check_equal(alone / "0", tmp_path / "0")
    check_equal(alone / "1", tmp_path / "2")


def test_a_run_that_fails_does_not_disturb_the_others(tmp_path, alone):
    made = jobs(tmp_path, *VARIED[:3], **{"steps_per_call": 4})
    (tmp_path / "1").write_text("a file")
    found = loop.train(made)
    assert isinstance(found[1], BadInput) and "is a file" in str(found[1])
    check_equal(alone / "0", tmp_path / "0")
    check_equal(alone / "2", tmp_path / "2")


def test_a_pack_that_is_stopped_goes_on_from_where_each_run_was(tmp_path, alone):
    """Stopped together; then one alone goes further; then all that are left, at different steps, with one that ended."""
    made = jobs(tmp_path, *VARIED, **{"steps_per_call": 4, "checkpoint.every_steps": 8})

    def at(when):
        def observe(step, line):
            if step == when:
                os.kill(os.getpid(), signal.SIGTERM)

        return (observe,)

    def stopped(chosen, when):
        chosen[0] = run_session.RunSpec(chosen[0].config, chosen[0].workdir, at(when))
        with pytest.raises(signals.Interrupted):
            loop.train(chosen)

    stopped(list(made), 6)
    assert {tuple(checkpoint.saved_steps(job.workdir)) for job in made} == {(8,)}
    stopped([made[1]], 14)
    assert checkpoint.saved_steps(made[1].workdir) == [8, 16]
    loop.run(made[3].config, made[3].workdir)
    results = loop.train(made)
    assert [result["continued_from"] for result in results] == [8, 16, 8, 8]  # type: ignore[index]
    for i, job in enumerate(made):
        one, other = metrics(alone / str(i)), metrics(job.workdir)
        assert [line["step"] for line in one] == [line["step"] for line in other]
        np.testing.assert_allclose([x["loss"] for x in other], [x["loss"] for x in one], rtol=1e-5)


def test_one_compile_serves_all_packs_of_a_shape(tmp_path, cache):
    step.programs.cache_clear()
    first, second = (loop.train(jobs(tmp_path / str(k), {"seed": k}, {"seed": k + 1})) for k in (10, 20))
    assert [result["compiles"] for result in (*first, *second)] == [1, 1, 0, 0]  # type: ignore[index]


def test_a_pack_is_spread_over_the_devices(tmp_path, alone):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    changes = tuple({**VARIED[i % 3], "seed": VARIED[i % 3].get("seed", 0)} for i in range(8))
    found = loop.train(jobs(tmp_path, *changes, **{"steps_per_call": 4}))
    assert all(result["num_devices"] == 8 for result in found)  # type: ignore[index]
    for i in range(8):
        assert metrics(tmp_path / str(i))[-1]["loss"] == pytest.approx(
            metrics(alone / str(i % 3))[-1]["loss"], rel=1e-5
        )


def test_runs_of_different_shapes_are_refused(tmp_path):
    found = loop.train(jobs(tmp_path, {}, {"batch_size": 8}))
    assert all(isinstance(error, ValueError) for error in found)
    assert not any(tmp_path.iterdir())


def test_what_cannot_begin_together_fails_in_every_run_and_no_further(tmp_path, monkeypatch):
    def refused(self, at):
        raise RuntimeError("no room for them together")

    monkeypatch.setattr(run_batch.RunBatch, "start", refused)
    found = loop.train(jobs(tmp_path, {"seed": 0}, {"seed": 1}))
    assert [str(error) for error in found] == ["no room for them together"] * 2
