"""docs/engine.md is as the code is."""

import re
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import toy
from ml_collections import ConfigDict

from training import checkpoint, config as configs, loop, optimizer, run_batch, schedule, step as steps
from training.config import resolve
from training.lines import read_metrics

ROOT = Path(loop.__file__).parents[1]
PAGE = (ROOT / "docs" / "engine.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
ROWS = [[cell.strip() for cell in row.strip("|").split("|")] for row in PAGE.splitlines() if row.startswith("| `")]
SMALL_TEXT = {
    "task": "lm",
    "batch_size": 8,
    "duration": {"steps": 3},
    "model": {"width": 16, "depth": 2, "heads": 2},
    "data": {"corpus": "stdlib", "seq_len": 16},
    "evaluation": {"tokens": 1024},
    "mesh": {"data": 1},
}


def listed(column):
    return {row[0].strip("`") for row in ROWS if row[column]}


class Trace:
    """The project's files whose functions are called."""

    def __init__(self):
        self.files = set()

    def __call__(self, frame, event, argument):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{ROOT}/") and ".venv" not in file:
            self.files.add(str(Path(file).relative_to(ROOT)))

    def within(self, function):
        """The function, its calls noted beside those of the tracer that is there."""

        def traced(*arguments):
            before = sys.getprofile()
            sys.setprofile(self)
            try:
                return function(*arguments)
            finally:
                sys.setprofile(before)

        return traced


def test_a_batch_goes_through_the_files_that_are_listed(tmp_path, monkeypatch):
    stepping, tracing = Trace(), Trace()
    for part in ("batches", "learning_rates", "step"):
        monkeypatch.setattr(run_batch.RunBatch, part, stepping.within(getattr(run_batch.RunBatch, part)))
    monkeypatch.setattr(steps, "train_steps", tracing.within(steps.train_steps))
    steps.programs.cache_clear()
    loop.run(configs.complete(ConfigDict(SMALL_TEXT)), tmp_path)
    assert tracing.files == listed(2)
    assert stepping.files | {"training/loop.py", "training/run_session.py"} == listed(1)
    assert len(listed(1)) <= 10 and len(listed(2)) <= 15


def test_the_plain_loop_is_a_run(tmp_path):
    """Without run directories, sessions, the locks of compilation, or sweeps."""
    scope: dict = {}
    exec(BLOCKS[0], scope)
    config = toy.config(**{"mesh.data": 2})
    state, losses = scope["train"](config)
    loop.run(config, tmp_path)
    assert losses == [line["loss"] for line in read_metrics(tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, state.params, checkpoint.load_params(tmp_path))


def test_an_optimizer_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer, "TABLE", dict(optimizer.TABLE))
    exec(BLOCKS[1], {})
    config = resolve(toy.config(**{"optimizer.name": "adabelief", "optimizer.clip": 0.0, "mesh.data": 1}))
    loop.run(config, tmp_path)
    task, params = toy.build(config), steps.states.init(toy.build(config).model, optax.identity(), False, 0, {}).params
    lr = config.optimizer.learning_rate * schedule.values(config.schedule, 24, config.derived.warmup_steps)
    transform = optax.adabelief(lambda k: jax.numpy.asarray(lr)[k], 0.9, 0.999, 1e-16)
    moments = transform.init(params)

    def loss(params, batch):
        total, (sums, _) = task.model.loss(params, {}, batch, None, {"dropout": 0.0})
        return total / sums["weight"]

    for k in range(24):
        updates, moments = transform.update(jax.grad(loss)(params, task.batch(k, slice(None))), moments, params)
        params = optax.apply_updates(params, updates)
    found = checkpoint.load_params(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, params)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:training|lm|sweeps|tests)/[\w/]+\.py)`", PAGE))))
def test_every_file_that_is_named_is_there(file):
    assert (ROOT / file).is_file()
