"""A family small enough to train in a blink: linear regression on a stream that never ends, as `task="fake"`.

`python tests/sweeps/fake.py worker_process` is a sweep's worker that knows it, `cost_estimate` what measures a plan,
`cli ARGS` the command line.
"""

import dataclasses
import importlib
import os
import signal
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training import task as tasks
from training.cost import Cost
from training.errors import Absent, BadInput

CLI = (sys.executable, __file__, "cli")
WORKER = (sys.executable, __file__, "worker_process")
COST_ESTIMATE = (sys.executable, __file__, "cost_estimate")
EXAMPLES = 4096
INDIFFERENT, INHERITED, INPUTS, RENAMED, UNIT = ("model.size", "data.pause"), (), (), {}, "tokens"


def install() -> None:
    """Make `training.task.resolve("fake")` find this module."""
    if "fake" not in tasks.FAMILIES:
        tasks.FAMILIES = (*tasks.FAMILIES, "fake")
    sys.modules["fake.task"] = sys.modules[__name__]
    sys.modules.setdefault("fake", sys.modules[__name__])


def defaults():
    model = {"name": "linear", "size": placeholder(float), "width": placeholder(int)}
    data = {"seed": 0, "pause": 0.0, "crash": "", "die_at": -1, "missing": False, "nan_at": -1}
    return ConfigDict({"model": model, "data": data})


def model_options(name):
    return {"width": None}


def shape_for(config):
    size = config.model.size
    if size is None:
        return {}
    if size < 2:
        raise BadInput(f"model.size: {size:g} parameters are below the smallest shape, which has 2")
    return {"width": int(size)}


def validate(config):
    if config.model.width is None:
        raise BadInput("model: give a size or a width")


def scaled_hparams(config, n, d):
    batch = config.batch_size or 8
    return {"batch_size": batch, "learning_rate": 0.1, "warmup_steps": round(0.1 * d / batch)}


def cost(config):
    width = config.model.width
    return Cost({"linear": width}, (), {"linear": 2.0 * width}, {"linear": 2.0 * width}, 1)


def available(config):
    if config.data.missing:
        raise Absent("data: there is no such corpus")
    return EXAMPLES


def build(config):
    available(config)
    return Task(config)


@dataclasses.dataclass(frozen=True)
class Model:
    width: int

    def init(self, key, hyper):
        weights = 0.1 * jax.random.normal(key, (self.width,))
        return {"params": {"weights": nn.LogicallyPartitioned(weights, ("in",))}}

    def loss(self, params, stats, batch, key, hyper):
        total = jnp.sum((batch["x"] @ params["weights"] - batch["y"]) ** 2)
        return total, ({"loss": total, "weight": jnp.float32(len(batch["y"]))}, stats)

    def score(self, params, stats, batch):
        return (batch["x"] @ params["weights"] - batch["y"]) ** 2


class Task:
    def __init__(self, config):
        self._config = config
        self.model = Model(config.model.width)
        if config.data.crash:
            raise RuntimeError(config.data.crash)

    def hyper(self):
        return {}

    def batch(self, k, rows):
        data = self._config.data
        if k == data.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(data.pause)
        return self._arrays((data.seed, 1, k), self._config.batch_size, np.nan if k == data.nan_at else 1.0, rows)

    def eval_batches(self, final=True):
        yield self._arrays((self._config.data.seed, 2), 64, 1.0, slice(None))

    def summarize(self, outputs, final=True):
        errors = np.concatenate(list(outputs))
        return {
            "loss": float(errors.mean()),
            "loss_sem": float(errors.std() / 8),
            "eval_set": "fake",
            "eval_tokens": 64,
        }

    def keep(self, folder):
        pass

    def facts(self):
        return {"seq_len": 1, "available_tokens": EXAMPLES, "data_hash": "fake", "vocab_size": None}

    def _arrays(self, seed, size, factor, rows):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(size, self._config.model.width)).astype(np.float32)
        return {"x": x[rows], "y": (factor * x.sum(1))[rows].astype(np.float32)}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    install()
    if sys.argv[1] == "cli":
        from isoflop.cli import main
        from sweeps import cost_estimate
        from sweeps.launch import local

        local.COMMAND, cost_estimate.COMMAND = WORKER, COST_ESTIMATE
        del sys.argv[1]
        sys.exit(main(sys.argv[1:]))
    sys.exit(importlib.import_module(f"sweeps.{sys.argv[1]}").main())
