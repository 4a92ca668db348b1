"""The record of a run, from made-up measurements: costs, shares of a peak, what is not finite."""

import dataclasses
import functools

import numpy as np
import pytest
import toy

from training import loop, record, run_directory, step
from training.config import resolve
from training.metrics import Diverged, MetricLog

H100 = {"device_kind": "NVIDIA H100 80GB HBM3", "num_devices": 2, "git_revision": None, "versions": {}}


def recorded(seconds=0.5, env=H100, **changes):
    config = resolve(toy.config(**changes))
    cost = dataclasses.replace(toy.cost(config), recompute=7.0)
    return record.result(config, cost, {}, env, 10, {"status": "completed", "train_seconds": seconds})


@pytest.mark.parametrize(
    ("compute", "matmul", "peak"),
    [
        ("float32", "default", 494.7e12),
        ("float32", "highest", 66.9e12),
        ("float32", "bfloat16", 989.4e12),
        ("bfloat16", "default", 989.4e12),
    ],
)
def test_utilisation_is_of_the_peak_of_the_products_that_ran(compute, matmul, peak):
    found = recorded(**{"precision.compute": compute, "precision.matmul": matmul})
    assert found["mfu"] == pytest.approx(found["flops_exact"] / (0.5 * 2 * peak))


def test_utilisation_is_null_where_no_peak_or_no_time_is_known():
    assert recorded(**{"precision.matmul": "high"})["mfu"] is None
    assert recorded(env=H100 | {"device_kind": "cpu"})["mfu"] is None
    assert recorded(seconds=0.0)["mfu"] is None and recorded(seconds=0.0)["tokens_per_second"] is None


def test_flops_are_told_forward_backward_and_with_what_is_computed_again():
    found, forward = recorded(), 160 * (2 * 4 * 8 + 2 * 8)
    assert found["flops_forward"] == forward and found["flops_backward"] == 2 * forward
    assert found["flops_exact"] == 3 * forward and found["flops_hardware"] == 3 * forward + 160 * 7


def test_a_last_good_step_whose_gradient_is_not_finite_can_be_written(tmp_path):
    meter = MetricLog(run_directory.RunDirectory(tmp_path), 0, 9, 10, np.ones(9, np.float32), 16)
    meter.put(0, lambda: {"loss": np.array([2.0, 1.0, np.nan]), "grad_norm": np.array([3.0, np.inf, np.nan])})
    with pytest.raises(Diverged) as raised:
        meter.flush()
    assert raised.value.step == 2 and meter.last_good is not None
    del meter.last_good["seconds"]
    assert meter.last_good == {"step": 2, "loss": 1.0, "grad_norm": None, "learning_rate": 1.0, "tokens": 32}


def test_a_run_that_fails_to_compile_leaves_nothing_but_what_was_there(tmp_path, monkeypatch):
    def programs(*args):
        assert (tmp_path / "new" / "run" / "checkpoints").is_dir() or (tmp_path / "mine" / "checkpoints").is_dir()
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(step, "programs", functools.lru_cache(programs))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    for name in ("new/run", "mine"):
        with pytest.raises(RuntimeError, match="out of memory"):
            loop.run(toy.config(), tmp_path / name)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"mine", "mine/notes.txt"}
