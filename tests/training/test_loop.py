"""One run through the engine: records, resumption, divergence, accumulation, calls of several steps."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import toy
from ml_collections import ConfigDict
from tiers import tiered

from training import (
    checkpoint,
    config as configs,
    data,
    evaluation,
    files,
    loop,
    memory,
    mesh,
    run_directory,
    run_session,
    signals,
    step,
    step_spec,
)
from training.config import resolve
from training.cores import compute_threads
from training.errors import BadInput
from training.lines import read_metrics


def metrics(path):
    drop = ("seconds", "attempt")
    return [{k: v for k, v in line.items() if k not in drop} for line in read_metrics(path)]


def params(path, **which):
    return jax.tree.map(np.asarray, checkpoint.load_params(path, **which))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_record_holds_every_convention(tmp_path):
    result = loop.run(toy.config(), tmp_path)
    assert result["status"] == "completed" and result["steps"] == 24 and result["examples"] == 24 * 16
    assert result["flops_6nd"] == 6 * result["params_total"] * result["tokens"]
    assert result["flops_exact"] == 3 * (2 * 4 * 8 + 2 * 8) * 24 * 16
    assert result["loss"] < 1 and result["loss_sem"] > 0 and result["mfu"] is None
    wanted = (
        "schema run_id task family status seed params_total params_non_embedding params_active flops_per_example_6n "
        "flops_6nd flops_6nd_non_embedding flops_exact tokens unique_tokens epochs examples steps batch_size seq_len "
        "vocab_size peak_lr warmup_steps schedule optimizer weight_decay loss loss_sem train_loss eval_set wall_seconds "
        "compile_seconds tokens_per_second mfu device_kind num_devices git_revision versions data_hash"
    )
    assert set(wanted.split()) <= set(result)
    assert json.loads((tmp_path / "result.json").read_text())["loss"] == result["loss"]
    assert json.loads((tmp_path / "config.json").read_text())["derived"]["steps"] == 24
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    precision = {"params": "float32", "compute": "float32", "logits": "float32", "matmul": "default"}
    assert environment["precision"] == precision
    assert environment["threads"] == [compute_threads()]


def test_a_run_that_ended_is_not_run_again(tmp_path):
    first = loop.run(toy.config(), tmp_path)
    assert loop.run(toy.config(), tmp_path) == json.loads((tmp_path / "result.json").read_text())
    assert first["ended_at"] == json.loads((tmp_path / "result.json").read_text())["ended_at"]


class Cut(Exception):
    pass


def cut_at(step):
    def observe(at, line):
        if at >= step:
            raise Cut

    return observe


@pytest.mark.parametrize(("optimizer", "stride"), [("adamw", 4), pytest.param("muon", 1, marks=pytest.mark.slow)])
def test_a_cut_run_continues_bit_for_bit(tmp_path, optimizer, stride):
    changes = {"steps_per_call": stride, "checkpoint.every_steps": 5, "model.dropout": 0.1, "optimizer.ema": 0.9}
    config = toy.config(**changes, **{"optimizer.name": optimizer, "duration.steps": 26})
    whole = loop.run(config, tmp_path / "whole")
    with pytest.raises(Cut):
        loop.run(config, tmp_path / "cut", loggers=[cut_at(17)])
    assert not (tmp_path / "cut" / "result.json").exists()
    result = loop.run(config, tmp_path / "cut")
    assert 0 < result["continued_from"] < 17
    assert result["loss"] == whole["loss"]
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    same(params(tmp_path / "cut"), params(tmp_path / "whole"))


def test_several_steps_a_call_are_the_same_steps(tmp_path):
    loop.run(toy.config(), tmp_path / "one")
    loop.run(toy.config(steps_per_call=5), tmp_path / "five")
    one, five = metrics(tmp_path / "one"), metrics(tmp_path / "five")
    np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in five], rtol=1e-6)


def test_accumulation_and_devices_leave_the_losses(tmp_path):
    runs = {
        "plain": {"mesh.data": 1},
        "parts": {"mesh.data": 1, "gradient_accumulation_steps": 4},
        "eight": {"mesh.data": 8},
        "axes": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
        "both": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 1, "gradient_accumulation_steps": 2},
    }
    losses = {}
    for name, changes in runs.items():
        result = loop.run(toy.config(**changes), tmp_path / name)
        losses[name] = [*(line["loss"] for line in metrics(tmp_path / name)), result["loss"]]
        np.testing.assert_allclose(losses[name], losses["plain"], rtol=2e-5, err_msg=name)
        assert result["num_devices"] == max(
            1, np.prod([changes.get(f"mesh.{a}", 1) for a in ("data", "fsdp", "tensor")])
        )


MESHES = {
    "eight": {"data": 4, "tensor": 2},
    "other axes": {"data": 2, "fsdp": 4},
    "four": {"data": 4},
    "four in two": {"fsdp": 2, "tensor": 2},
    "two": {"fsdp": 2},
    "one": {"data": 1},
}
SMALL_TEXT = {
    "task": "lm",
    "batch_size": 16,
    "model": {"width": 32, "depth": 2, "heads": 4},
    "data": {"corpus": "stdlib", "seq_len": 32},
    "evaluation": {"tokens": 4096},
}


FEW = ("eight", "four in two", "one")


@pytest.mark.parametrize("family, names", tiered([("toy", FEW), ("toy", MESHES), ("lm", MESHES)], [("toy", FEW)]))
def test_a_run_saved_on_eight_devices_goes_on_on_others(tmp_path, family, names):
    """Fifty steps on other numbers of devices and other axes have the losses that they had on all eight."""
    config = toy.config() if family == "toy" else configs.complete(ConfigDict(SMALL_TEXT))
    config.duration.update({"steps": 100, "tokens_per_param": None})
    config.log.every, config.checkpoint.every_steps = 1, 50
    config.checkpoint.every_minutes = 0.0  # no clock decides which checkpoint is the last

    def on(name):
        config.mesh.update({"data": 1, "fsdp": 1, "tensor": 1} | MESHES[name])
        return int(np.prod(list(MESHES[name].values())))

    on("eight")
    whole = loop.run(config, tmp_path / "whole")
    with pytest.raises(Cut):
        loop.run(config, tmp_path / "cut", loggers=[cut_at(53)])
    for name in names:
        shutil.copytree(tmp_path / "cut", tmp_path / name)
        devices = on(name)
        result = loop.run(config, tmp_path / name)
        assert result["continued_from"] == 50 and result["num_devices"] == devices
        losses = [[line["loss"] for line in metrics(tmp_path / run)] for run in (name, "whole")]
        assert len(losses[1]) >= 100
        np.testing.assert_allclose(*losses, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(result["loss"], whole["loss"], rtol=1e-5)


def test_a_run_that_does_not_fit_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "of_a_device", lambda: 100.0)
    with pytest.raises(
        BadInput, match=r"memory: a step needs \S+ GiB of each device, which has 0.0: more gradient_accumulation_steps"
    ):
        loop.run(toy.config(), tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_divergence_ends_the_run_with_the_last_good_step(tmp_path):
    results = {}
    for every in (1, 10):
        result = loop.run(toy.config(**{"model.poison": 17, "log.every": every}), tmp_path / str(every))
        assert result["status"] == "diverged" and result["steps"] == 17 and result["loss"] is None
        results[every] = {key: value for key, value in result["last_good"].items() if key != "seconds"}
    assert results[1] == results[10] == metrics(tmp_path / "1")[-1]
    assert results[10]["step"] == 17 and np.isfinite(results[10]["loss"])
    assert json.loads((tmp_path / "10" / "result.json").read_text())["last_good"]["step"] == 17


OVERFLOWS = {"optimizer.name": "sgd", "optimizer.clip": 0.0, "schedule.name": "constant", "schedule.warmup_steps": 0}
OVERFLOWS |= {"optimizer.learning_rate": 3e38}


@pytest.mark.parametrize(
    "changes", [{}, {"log.evaluate_every": 1}, {"checkpoint.every_steps": 1}, {"steps_per_call": 2}]
)
@pytest.mark.parametrize("steps", [1, 2])
def test_an_update_that_is_not_finite_is_divergence_even_if_no_loss_shows_it(tmp_path, changes, steps):
    result = loop.run(toy.config(**OVERFLOWS, **{"duration.steps": steps}, **changes), tmp_path)
    assert result["status"] == "diverged" and result["steps"] == 1 and result["loss"] is None
    assert result["last_good"]["step"] == 1 and np.isfinite(result["last_good"]["loss"])
    assert checkpoint.saved_steps(tmp_path) == []


def test_an_evaluation_that_is_not_finite_is_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *given: {"loss": float("inf"), "loss_sem": float("nan")})
    result = loop.run(toy.config(), tmp_path)
    assert result["status"] == "diverged" and result["loss"] is None


def test_divergence_right_after_a_resume_keeps_what_is_known(tmp_path):
    poisoned = {"checkpoint.every_steps": 5, "model.poison": 15}
    for every, known in ((5, True), (10, False)):
        config = toy.config(**poisoned, **{"log.every": every})
        loop.run(config, tmp_path / str(every))
        (tmp_path / str(every) / "result.json").unlink()
        result = loop.run(config, tmp_path / str(every))
        assert result["continued_from"] == 15 == result["last_good"]["step"]
        assert ("loss" in result["last_good"]) == known  # step 15 was logged by the first attempt, or was not
    assert loop.run(toy.config(**{"model.poison": 0}), tmp_path / "at once")["last_good"] is None


def test_one_compile_serves_runs_that_differ_in_scalars(tmp_path):
    loop.run(toy.config(), tmp_path / "first")
    changes = {"seed": 3, "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.3, "schedule.name": "wsd"}
    second = loop.run(toy.config(**changes, **{"duration.steps": 31}), tmp_path / "second")
    assert second["compiles"] == 0 and second["compile_seconds"] == 0


RESTLESS = {
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.3,
    "schedule.name": "constant",
    "log.evaluate_every": 1,
}


@pytest.mark.parametrize("metric", tiered(["loss", "within"], ["within"]))
def test_patience_ends_a_run_with_the_parameters_of_the_best_evaluation(tmp_path, metric):
    whole = loop.run(
        toy.config(**RESTLESS, **{"checkpoint.keep_every": 1, "checkpoint.every_steps": 1}), tmp_path / "a"
    )
    lines = [line for line in read_metrics(tmp_path / "a") if f"eval/{metric}" in line]
    scores = [-line["eval/loss"] if metric == "loss" else line["eval/within"] for line in lines]
    ends = next(i for i in range(3, 24) if max(scores[i - 2 : i + 1]) <= max(scores[: i - 2]))
    best = int(np.argmax(scores[: ends + 1]))
    config = toy.config(**RESTLESS, **{"early_stopping.patience": 3, "early_stopping.metric": metric})
    stopped = loop.run(config, tmp_path / "b")
    assert ends < 23 and (stopped["steps"], stopped["best_step"]) == (ends + 1, best + 1)
    assert stopped["loss"] != whole["loss"] and whole["best_step"] is None
    assert checkpoint.saved_steps(tmp_path / "b")[-1] == ends + 1
    same(params(tmp_path / "b"), params(tmp_path / "a", step=best + 1))
    # What chose the step is another set than what is reported.
    assert stopped["eval_set"] == "toy" and stopped["loss"] != pytest.approx(lines[best]["eval/loss"], rel=1e-3)

    calls, save = [], checkpoint.Checkpoints.save

    def cut(self, step, *rest):
        save(self, step, *rest)
        calls.append(step)
        if len(calls) == 2:
            self.wait()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.Checkpoints, "save", cut)
        loop.run(config, tmp_path / "c")
    resumed = loop.run(config, tmp_path / "c")
    assert resumed["continued_from"] == calls[1]
    assert [resumed[key] for key in ("steps", "best_step", "loss")] == [
        stopped[key] for key in ("steps", "best_step", "loss")
    ]


@pytest.mark.parametrize(
    "patience, cut",
    tiered(
        [(patience, cut) for patience in (3, 24) for cut in ("signal", "evaluation", "record")],
        [(3, "evaluation"), (3, "record"), (24, "signal")],
    ),
)
def test_a_run_that_is_cut_at_its_end_ends_as_one_that_was_not(tmp_path, monkeypatch, patience, cut):
    """Where patience runs out, and at the last step: by a signal, in the evaluation of the end, and after its checkpoint."""
    few = {"checkpoint.every_steps": 5, "mesh.data": 1}
    config = toy.config(**RESTLESS, **few, **{"early_stopping.patience": patience})
    whole = loop.run(config, tmp_path / "whole")
    assert whole["best_step"] < whole["steps"] and (whole["steps"] == 24) == (patience == 24)
    evaluate, raised = evaluation.evaluate, []

    def once(*arguments):
        raised.append(1)
        raise Cut

    def signalled(step, line):
        if step == whole["steps"] and not raised:
            raised.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, contextlib.suppress(Cut, signals.Interrupted):
        if cut == "record":
            patch.setattr(run_directory.RunDirectory, "finish", once)
        if cut == "evaluation":
            patch.setattr(evaluation, "evaluate", lambda *given: once() if given[5] else evaluate(*given))
        loop.run(config, tmp_path / "cut", loggers=[signalled] if cut == "signal" else [])
    assert raised
    resumed = loop.run(config, tmp_path / "cut")
    for key in ("status", "steps", "best_step", "loss", "eval_set"):
        assert resumed[key] == whole[key], key
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    same(params(tmp_path / "cut"), params(tmp_path / "whole"))


@pytest.mark.parametrize("keep", [{}, {"checkpoint.keep_best": 2}])
def test_of_equal_scores_the_first_is_the_best_and_is_kept(tmp_path, keep):
    still = {"optimizer.learning_rate": 1e-30, "log.evaluate_every": 1, "checkpoint.every_steps": 1}
    config = toy.config(**still, **{"early_stopping.metric": "within", "early_stopping.patience": 4}, **keep)
    result = loop.run(config, tmp_path)
    assert (result["best_step"], result["steps"]) == (1, 5)
    assert checkpoint.saved_steps(tmp_path) == [1, *([2] if keep else []), 4, 5]


def test_stopping_needs_evaluations_and_a_metric_that_they_give(tmp_path):
    with pytest.raises(BadInput, match="early_stopping.patience: there is nothing to judge by; set log.evaluate_every"):
        loop.run(toy.config(**{"early_stopping.patience": 2}), tmp_path)
    with pytest.raises(
        BadInput, match="early_stopping.metric: the evaluation gives no 'f1' .it gives loss, loss_sem, within"
    ):
        loop.run(toy.config(**{"early_stopping.metric": "f1", "log.evaluate_every": 5}), tmp_path)


def test_penalties_enter_the_gradient_of_decayed_roles_and_not_the_loss(tmp_path):
    one = {"duration.steps": 1, "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "optimizer.clip": 0.0}
    one |= {"schedule.name": "constant", "schedule.warmup_steps": 0}
    first = step.states.init(toy.build(resolve(toy.config(**one))).model, optax.identity(), False, 0, {}).params
    plain = loop.run(toy.config(**one), tmp_path / "plain")
    penalised = loop.run(toy.config(**one, **{"optimizer.l1": 0.2, "optimizer.l2": 0.5}), tmp_path / "penalised")
    assert penalised["train_loss"] == plain["train_loss"]
    moved = jax.tree.map(np.subtract, params(tmp_path / "penalised"), params(tmp_path / "plain"))
    for name, leaf in first.items():
        expected = -0.1 * (0.2 * np.sign(leaf) + 0.5 * leaf) if leaf.ndim == 2 else np.zeros_like(leaf)
        np.testing.assert_allclose(moved[name], expected, atol=1e-6, err_msg=name)


def test_interim_evaluations_are_logged(tmp_path):
    loop.run(toy.config(**{"log.evaluate_every": 10, "checkpoint.every_steps": 5}), tmp_path)
    assert [m["step"] for m in metrics(tmp_path) if "eval/loss" in m] == [10, 20]


@pytest.mark.parametrize(
    ("keep", "steps"),
    [
        pytest.param({}, [21, 24], marks=pytest.mark.slow),
        pytest.param({"keep_last": 3}, [18, 21, 24], marks=pytest.mark.slow),
        pytest.param({"keep_every": 9}, [9, 18, 21, 24], marks=pytest.mark.slow),
        ({"keep_best": 2}, [6, 12, 21, 24]),
        ({"keep_best": 1, "keep_every": 9, "keep_last": 2}, [6, 9, 18, 21, 24]),
    ],
)
def test_checkpoints_are_kept_by_policy(tmp_path, monkeypatch, keep, steps):
    # Evaluated whenever a checkpoint is due and the best are kept: at steps 3, 6, ..., 21, and at the end.
    losses = iter([0.5, 0.1, 0.4, 0.2, 0.6, 0.3, 0.5, 0.9])
    if "keep_best" in keep:
        monkeypatch.setattr(evaluation, "evaluate", lambda *arguments: {"loss": next(losses), "loss_sem": 0.0})
    changes = {f"checkpoint.{key}": value for key, value in keep.items()}
    loop.run(toy.config(**{"checkpoint.every_steps": 3, "log.evaluate_every": 0}, **changes), tmp_path)
    assert checkpoint.saved_steps(tmp_path) == steps
    assert next(losses, None) is None or "keep_best" not in keep


def test_of_calls_of_several_steps_the_first_checkpoint_after_each_multiple_is_kept(tmp_path):
    changes = {"checkpoint.every_steps": 5, "checkpoint.keep_every": 5, "checkpoint.keep_last": 1}
    loop.run(toy.config(steps_per_call=4, **changes), tmp_path)
    assert checkpoint.saved_steps(tmp_path) == [8, 12, 16, 20, 24]


def test_checkpoints_are_due_by_minutes_too(tmp_path, monkeypatch):
    clock, batches = [0.0], data.batches

    def a_minute_later(*arguments):
        clock[0] += 60
        return batches(*arguments)

    monkeypatch.setattr(run_session, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(data, "batches", a_minute_later)
    keep = {"checkpoint.keep_last": 9}
    loop.run(toy.config(**{"checkpoint.every_minutes": 7.0}, **keep), tmp_path / "seven")
    loop.run(toy.config(**{"checkpoint.every_minutes": 0.0}, **keep), tmp_path / "off")
    assert checkpoint.saved_steps(tmp_path / "seven") == [7, 14, 21, 24]
    assert checkpoint.saved_steps(tmp_path / "off") == [24]


def test_the_running_mean_is_what_is_kept_and_evaluated(tmp_path):
    changes = {"optimizer.ema": 0.75, "optimizer.learning_rate": 0.2, "duration.steps": 4}
    config = toy.config(**changes, **{"checkpoint.every_steps": 1, "checkpoint.keep_last": 4})
    result = loop.run(config, tmp_path)
    each, weights = [params(tmp_path, step=at) for at in (1, 2, 3, 4)], [0.75**3, 0.75**2, 0.75, 1]
    mean = jax.tree.map(lambda *p: np.average(np.stack(p), axis=0, weights=weights), *each)
    found = params(tmp_path, name="ema")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, mean)
    loss = lambda of: evaluation.evaluate(toy.build(resolve(config)), of, {}, mesh.build(config.mesh))["loss"]
    assert result["loss"] == pytest.approx(loss(found), rel=1e-5)
    assert result["loss"] != pytest.approx(loss(params(tmp_path)), rel=0.01)
    loop.run(toy.config(), tmp_path / "without")
    with pytest.raises(BadInput, match="kept no 'ema'"):
        checkpoint.load_params(tmp_path / "without", name="ema")


def compiled(config):
    resolved = resolve(config)
    task, grid = toy.build(resolved), mesh.build(resolved.mesh)
    hyper, shapes = step_spec.hyper(resolved, task), data.shapes(task, resolved.batch_size)
    program = step.programs(step_spec.of(task.model, resolved), grid, 1, shapes, tuple(hyper))
    return program, hyper, data.batches(task, shapes, grid, 0, 1)


def test_a_step_takes_over_the_buffers_of_the_state_and_blends_the_running_mean():
    program, hyper, batch = compiled(toy.config(**{"optimizer.ema": 0.75}))
    seed, rate = np.int32(0), np.full(1, 0.02, np.float32)
    first, _ = program.train(program.init(seed, hyper), batch, rate, seed, hyper)
    one_step = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7)  # nothing of the initial values
    jax.tree.map(one_step, first.ema, first.params)
    began = jax.tree.map(np.array, first)
    after, _ = program.train(first, batch, rate, seed, hyper)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))
    expected = jax.tree.map(lambda e, p: (0.75 * e + np.asarray(p)) / 1.75, began.ema, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema, expected)
    assert not np.array_equal(after.params["kernel"], began.params["kernel"])


class Fetched:
    """A metric that notes when the host asks for it."""

    def __init__(self, values, note):
        self.values, self.note = values, note

    def __array__(self, dtype=None, copy=None):
        self.note()
        return np.asarray(self.values, dtype)


def test_metrics_are_fetched_once_the_next_step_is_dispatched(tmp_path, monkeypatch):
    events, calls, call = [], iter(range(100)), jax.stages.Compiled.__call__

    def watched(compiled, *inputs):
        found = call(compiled, *inputs)
        if len(inputs) < 5:  # initial values
            return found
        k = next(calls)
        events.append(("dispatch", k))
        state, metrics = found
        return state, metrics | {"loss": Fetched(metrics["loss"], lambda: events.append(("fetch", k)))}

    monkeypatch.setattr(jax.stages.Compiled, "__call__", watched)
    loop.run(toy.config(**{"duration.steps": 5}), tmp_path)
    expected = [("dispatch", 0)]
    for k in range(1, 5):
        expected += [("dispatch", k), ("fetch", k - 1)]
    assert events == [*expected, ("fetch", 4)]


def test_bad_runs_leave_nothing_half_written(tmp_path):
    with pytest.raises(BadInput, match="batch_size: 12 is not divisible by 8"):
        loop.run(toy.config(batch_size=12), tmp_path / "batch")
    with pytest.raises(BadInput, match="wants 16 devices, there are 8"):
        loop.run(toy.config(**{"mesh.data": 16}), tmp_path / "mesh")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_removes_what_it_made_and_nothing_else(tmp_path, monkeypatch):
    def build(config):
        raise BadInput("data: the corpus is smaller than a batch")

    monkeypatch.setattr(toy, "build", build)
    (tmp_path / "mine").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("kept")
    for name in ("mine", "full", "new/deep/run"):
        with pytest.raises(BadInput, match="smaller than a batch"):
            loop.run(toy.config(), tmp_path / name)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} >= {"mine", "full", "full/notes.txt"}
    assert list((tmp_path / "mine").iterdir()) == [] and not (tmp_path / "new").exists()


def test_a_lock_that_its_holder_removed_is_not_taken(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", fcntl.flock

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()  # by a holder that left between our opening the file and our locking it
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with files.locked(path, "held"):
        assert path.read_text() == str(os.getpid())
        with pytest.raises(BadInput, match="held"), files.locked(path, "held"):
            pass


def test_a_run_that_ended_otherwise_is_refused_even_if_changes_are_allowed(tmp_path):
    ended = loop.run(toy.config(), tmp_path)
    for allowed in ((), ("seed",)):
        with pytest.raises(BadInput, match=r"the run has ended with another seed \(0 -> 7\)"):
            loop.run(toy.config(seed=7), tmp_path, allow_change=allowed)
    assert loop.run(toy.config(), tmp_path, allow_change=("seed",))["ended_at"] == ended["ended_at"]


def test_a_resume_with_another_meaning_is_refused_unless_allowed(tmp_path, monkeypatch):
    with pytest.raises(Cut):
        loop.run(toy.config(), tmp_path, loggers=[cut_at(5)])
    changed = toy.config(**{"optimizer.learning_rate": 0.5})
    with pytest.raises(
        BadInput, match=r"optimizer\.learning_rate \(0.02 -> 0.5\).*--allow_change=optimizer.learning_rate"
    ):
        loop.run(changed, tmp_path)
    assert loop.run(changed, tmp_path, allow_change=("optimizer.learning_rate",))["peak_lr"] == 0.5
    (tmp_path / "other").mkdir()
    with pytest.raises(Cut):
        loop.run(toy.config(), tmp_path / "other", loggers=[cut_at(5)])
    facts = toy.ToyTask.facts
    monkeypatch.setattr(toy.ToyTask, "facts", lambda self: facts(self) | {"data_hash": "tory"})
    with pytest.raises(BadInput, match="data_hash was toy and is now tory: the data has changed"):
        loop.run(toy.config(), tmp_path / "other")


@pytest.mark.parametrize("change", [{"batch_size": 32}, {"seed": 1}, {"data.seed": 1}])
def test_a_run_that_goes_on_keeps_its_batches(tmp_path, change):
    """Its examples are counted by them, and none is read twice."""
    ((key, value),) = change.items()
    with pytest.raises(Cut):
        loop.run(toy.config(**{"checkpoint.every_steps": 5}), tmp_path, loggers=[cut_at(12)])
    for allowed in ((), (key,)):
        with pytest.raises(BadInput, match=rf"{key} \(\w+ -> {value}\): a run that goes on keeps its batches"):
            loop.run(toy.config(**{"checkpoint.every_steps": 5}, **change), tmp_path, allow_change=allowed)
    assert loop.run(toy.config(), tmp_path)["examples"] == 24 * 16


def test_a_workdir_of_a_live_run_is_refused(tmp_path):
    config = resolve(toy.config())
    with (
        run_directory.open_run(tmp_path, config),
        pytest.raises(BadInput, match=rf"locked by a live run \(process {os.getpid()}\)"),
        run_directory.open_run(tmp_path, config),
    ):
        pass


def test_a_foreign_checkpoint_is_named(tmp_path):
    config = toy.config(**{"checkpoint.every_steps": 5})
    with pytest.raises(Cut):
        loop.run(config, tmp_path, loggers=[cut_at(12)])
    wider = toy.config(**{"checkpoint.every_steps": 5, "model.width": 9})
    with pytest.raises(BadInput, match=r"another model: .*mismatched params/kernel \(float32\[4, 8\] saved"):
        loop.run(wider, tmp_path, allow_change=("model.width",))


def test_a_torn_line_of_metrics_is_passed_over(tmp_path):
    config = toy.config(**{"checkpoint.every_steps": 5})
    with pytest.raises(Cut):
        loop.run(config, tmp_path, loggers=[cut_at(12)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "atte')
    loop.run(config, tmp_path)
    assert [m["step"] for m in metrics(tmp_path)] == list(range(1, 25))


SIGNALLED = """
import sys
sys.path[:0] = {path!r}
import toy
from training import loop
def slow(step, line):
    import time
    print(step, flush=True)
    time.sleep(0.05)
loop.run(toy.config(**{{"duration.steps": 400, "checkpoint.every_minutes": 0.0}}), sys.argv[1], loggers=[slow])
"""


def test_a_signal_saves_and_stops(tmp_path):
    code = SIGNALLED.format(path=[str(Path(toy.__file__).parent), str(Path(loop.__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert b"stopped by SIGTERM at step" in errors
    assert checkpoint.saved_steps(tmp_path) and not (tmp_path / "result.json").exists()
    assert signals.Interrupted(signal.SIGTERM, 3).exit_code == 143
