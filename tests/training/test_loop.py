"""One run through the engine: records, resumption, divergence, accumulation, calls of several steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from training import checkpoint, loop, record, signals
from training.config import resolve
from training.errors import BadInput


def metrics(path):
    drop = ("seconds", "attempt")
    return [{k: v for k, v in line.items() if k not in drop} for line in record.read_metrics(path)]


def params(path):
    return jax.tree.map(np.asarray, checkpoint.load_params(path))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_record_holds_every_convention(tmp_path):
    result = loop.run(toy.config(), tmp_path)
    assert result["status"] == "completed" and result["steps"] == 24 and result["examples"] == 24 * 16
    assert result["flops_6nd"] == 6 * result["params_total"] * result["tokens"]
    assert result["flops_exact"] == 3 * (2 * 4 * 8 + 2 * 8) * 24 * 16
    assert result["loss"] < 1 and result["loss_sem"] > 0 and result["mfu"] is None
    wanted = (
        "run_id task family status seed params_total params_non_embedding params_active flops_per_example_6n flops_6nd "
        "flops_6nd_non_embedding flops_exact tokens unique_tokens epochs examples steps batch_size seq_len vocab_size "
        "peak_lr warmup_steps schedule optimizer weight_decay loss loss_sem train_loss eval_set wall_seconds "
        "compile_seconds tokens_per_second mfu device_kind num_devices git_revision versions data_hash"
    )
    assert set(wanted.split()) <= set(result)
    assert json.loads((tmp_path / "result.json").read_text())["loss"] == result["loss"]
    assert json.loads((tmp_path / "config.json").read_text())["derived"]["steps"] == 24
    assert json.loads((tmp_path / "environment.json").read_text())["versions"]["jax"] == jax.__version__


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


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_cut_run_continues_bit_for_bit(tmp_path, stride, optimizer):
    changes = {"steps_per_call": stride, "checkpoint.every_steps": 5, "model.dropout": 0.1, "optimizer.ema": 0.9}
    config = toy.config(**changes, **{"optimizer.name": optimizer, "horizon.steps": 26})
    whole = loop.run(config, tmp_path / "whole")
    with pytest.raises(Cut):
        loop.run(config, tmp_path / "cut", observers=[cut_at(17)])
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
        "parts": {"mesh.data": 1, "accumulate": 4},
        "eight": {"mesh.data": 8},
        "axes": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
        "both": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 1, "accumulate": 2},
    }
    losses = {}
    for name, changes in runs.items():
        result = loop.run(toy.config(**changes), tmp_path / name)
        losses[name] = [*(line["loss"] for line in metrics(tmp_path / name)), result["loss"]]
        np.testing.assert_allclose(losses[name], losses["plain"], rtol=2e-5, err_msg=name)
        assert result["num_devices"] == max(
            1, np.prod([changes.get(f"mesh.{a}", 1) for a in ("data", "fsdp", "tensor")])
        )


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
    config = toy.config(**{"mesh.data": 4, "mesh.tensor": 2, "checkpoint.every_steps": 5})
    whole = loop.run(config, tmp_path / "whole")
    with pytest.raises(Cut):
        loop.run(config, tmp_path / "cut", observers=[cut_at(14)])
    config.mesh.update({"data": 1, "fsdp": 2, "tensor": 1})
    result = loop.run(config, tmp_path / "cut")
    assert result["continued_from"] and result["num_devices"] == 2
    np.testing.assert_allclose(result["loss"], whole["loss"], rtol=1e-5)


def test_divergence_ends_the_run_with_the_last_good_step(tmp_path):
    result = loop.run(toy.config(**{"model.poison": 11}), tmp_path)
    assert result["status"] == "diverged" and result["steps"] == 11 and result["loss"] is None
    assert result["last_good"]["step"] == 11 and np.isfinite(result["last_good"]["loss"])


def test_one_compile_serves_runs_that_differ_in_scalars(tmp_path):
    loop.run(toy.config(), tmp_path / "first")
    changes = {"seed": 3, "optimizer.peak_lr": 0.1, "optimizer.weight_decay": 0.3, "schedule.name": "wsd"}
    second = loop.run(toy.config(**changes, **{"horizon.steps": 31}), tmp_path / "second")
    assert second["compile_seconds"] < 0.05


def test_interim_evaluations_are_logged(tmp_path):
    loop.run(
        toy.config(**{"log.evaluate_every": 10, "checkpoint.every_steps": 10, "checkpoint.keep_best": 1}), tmp_path
    )
    assert [m["step"] for m in metrics(tmp_path) if "eval_loss" in m] == [10, 20]


def test_bad_runs_leave_nothing_half_written(tmp_path):
    with pytest.raises(BadInput, match="batch_size: 12 is not divisible by 8"):
        loop.run(toy.config(batch_size=12), tmp_path / "batch")
    with pytest.raises(BadInput, match="wants 16 devices, there are 8"):
        loop.run(toy.config(**{"mesh.data": 16}), tmp_path / "mesh")
    for name in ("batch", "mesh"):
        assert not (tmp_path / name / "result.json").exists() and not (tmp_path / name / "metrics.jsonl").exists()


def test_a_resume_with_another_meaning_is_refused_unless_allowed(tmp_path):
    with pytest.raises(Cut):
        loop.run(toy.config(), tmp_path, observers=[cut_at(5)])
    changed = toy.config(**{"optimizer.peak_lr": 0.5})
    with pytest.raises(BadInput, match=r"optimizer\.peak_lr \(0.02 -> 0.5\).*--allow_change=optimizer.peak_lr"):
        loop.run(changed, tmp_path)
    assert loop.run(changed, tmp_path, allow_change=("optimizer.peak_lr",))["peak_lr"] == 0.5
    (tmp_path / "other").mkdir()
    with pytest.raises(Cut):
        loop.run(toy.config(), tmp_path / "other", observers=[cut_at(5)])
    with pytest.raises(BadInput, match="data_hash was toy and is now tory: the data has changed"):
        loop.run(toy.config(**{"data.hash": "tory"}), tmp_path / "other", allow_change=("data.hash",))


def test_a_workdir_of_a_live_run_is_refused(tmp_path):
    config = resolve(toy.config())
    with (
        record.open_run(tmp_path, config),
        pytest.raises(BadInput, match=rf"locked by a live run \(process {os.getpid()}\)"),
        record.open_run(tmp_path, config),
    ):
        pass


def test_a_foreign_or_damaged_checkpoint_is_named(tmp_path):
    config = toy.config(**{"checkpoint.every_steps": 5})
    with pytest.raises(Cut):
        loop.run(config, tmp_path, observers=[cut_at(12)])
    wider = toy.config(**{"checkpoint.every_steps": 5, "model.width": 9})
    with pytest.raises(BadInput, match=r"another model: .*mismatched params/kernel \(float32\[4, 8\] saved"):
        loop.run(wider, tmp_path, allow_change=("model.width",))
    step = checkpoint.saved_steps(tmp_path)[-1]
    largest = max(
        (tmp_path / "checkpoints" / str(step) / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()
    )
    for file in (tmp_path / "checkpoints" / str(step)).rglob("*"):
        if file.is_file() and "d" in file.parts[-2:]:
            file.write_bytes(b"x" * 10)
    largest.write_bytes(b"x" * 10)
    with pytest.raises(BadInput, match=f"checkpoint .*{step}"):
        loop.run(config, tmp_path)


def test_a_torn_line_of_metrics_is_passed_over(tmp_path):
    config = toy.config(**{"checkpoint.every_steps": 5})
    with pytest.raises(Cut):
        loop.run(config, tmp_path, observers=[cut_at(12)])
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
loop.run(toy.config(**{{"horizon.steps": 400, "checkpoint.every_minutes": 0.0}}), sys.argv[1], observers=[slow])
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
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert b"stopped by SIGTERM at step" in errors and time.monotonic() - started < 30
    assert checkpoint.saved_steps(tmp_path) and not (tmp_path / "result.json").exists()
    assert signals.Interrupted(signal.SIGTERM, 3).exit_code == 143
