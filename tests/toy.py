"""A family that knows neither text nor pixels: a perceptron on a drawn regression, to test engine and sweeps with."""

import dataclasses
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training import task
from training.cost import Cost
from training.errors import BadInput

FEATURES = 4
INDIFFERENT, INHERITED, INPUTS, RENAMED, UNIT = ("model.size",), (), (), {}, "tokens"


def install() -> None:
    """Make the family known to `training.task.resolve` as `toy`."""
    sys.modules[f"{__name__}.task"] = sys.modules[__name__]
    if "toy" not in task.FAMILIES:
        task.FAMILIES = (*task.FAMILIES, "toy")


def config(**changes) -> ConfigDict:
    """A short run of the family; `changes` are dotted keys."""
    partial = ConfigDict({"task": "toy", "batch_size": 16, "duration": {"steps": 24}, "log": {"every": 1}})
    install()
    from training.config import complete

    full = complete(partial)
    if any(key.startswith("duration.") for key in changes):
        full.duration.steps = None
    full.update_from_flattened_dict({key: value for key, value in changes.items() if value is not None})
    for key in [key for key, value in changes.items() if value is None and "." not in key]:
        full[key] = None
    return full


def defaults() -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "name": "perceptron",
                "size": placeholder(float),
                "width": placeholder(int),
                "dropout": 0.0,
                "noise": 0.1,
                "poison": -1,  # the batch from which on targets are infinite
                "poisoned": sys.maxsize,  # how many are
            },
            "data": {"seed": 0, "hash": "toy"},
            "evaluation": {"examples": 50, "batch_size": 16},
        }
    )


def model_options(name):
    return {"width": None}


def shape_for(config):
    size = config.model.size
    if size is None:
        return {"width": 8}
    width = max(1, round((size - 1) / (FEATURES + 2)))
    if size < FEATURES + 3:
        raise BadInput(f"model.size: {size:.4g} is below the smallest shape")
    return {"width": width}


def validate(config):
    if config.model.width < 1:
        raise BadInput("model.width: must be at least 1")


def scaled_hparams(config, n, d):
    return {"batch_size": 16, "learning_rate": 0.02, "warmup_steps": 2}


def cost(config):
    width = config.model.width
    params = {"hidden": (FEATURES + 1) * width, "head": width + 1}
    forward = {"hidden": 2.0 * FEATURES * width, "head": 2.0 * width}
    return Cost(params, (), forward, forward, tokens_per_example=1)


def available(config):
    return 4096


def prepare(config, verify):
    raise BadInput("data: drawn as it is read")


def build(config):
    return ToyTask(config)


def forward(config, batch, length):
    if length is not None:
        raise BadInput("--length: there is none")
    net, rows = Net(config.model.width, False), "b" if batch is None else batch
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, FEATURES)))
    given = (task.Input("x", "float32", (rows, FEATURES)),)
    return task.Forward(lambda params, stats, x: net.apply({"params": params}, x), given, ("batch",), variables)


class Net(nn.Module):
    width: int
    dropout: bool

    @nn.compact
    def __call__(self, x, key=None, rate=None):
        box = nn.with_logical_partitioning
        normal = nn.initializers.normal(0.5)
        zeros = nn.initializers.zeros
        hidden = self.param("kernel", box(normal, ("embed", "mlp")), (FEATURES, self.width))
        bias = self.param("bias", box(zeros, ("mlp",)), (self.width,))
        head = self.param("head", box(normal, ("mlp", None)), (self.width, 1))
        last = self.param("last", box(zeros, (None,)), (1,))
        h = jnp.tanh(x @ hidden + bias)
        if self.dropout and key is not None:
            h = jnp.where(jax.random.bernoulli(key, 1 - rate, h.shape), h / (1 - rate), 0)
        return (h @ head + last)[:, 0]


@dataclasses.dataclass(frozen=True)
class Model:
    net: Net

    def init(self, key, hyper):
        return self.net.init(key, jnp.zeros((1, FEATURES)))

    def loss(self, params, stats, batch, key, hyper):
        error = self.net.apply({"params": params}, batch["x"], key, hyper["dropout"]) - batch["y"]
        total = jnp.sum(jnp.square(error) * batch["weight"])
        return total, ({"loss": total, "weight": jnp.sum(batch["weight"])}, stats)

    def score(self, params, stats, batch):
        return jnp.square(self.net.apply({"params": params}, batch["x"]) - batch["y"])


class ToyTask:
    def __init__(self, config):
        self._config = config
        self.model = Model(Net(config.model.width, config.model.dropout > 0))

    def hyper(self):
        return {"dropout": self._config.model.dropout}

    def _examples(self, rng, n):
        x = rng.normal(size=(n, FEATURES)).astype(np.float32)
        y = np.sin(x.sum(1)) + self._config.model.noise * rng.normal(size=n)
        # Weights differ, so that a mean of means would show.
        return {"x": x, "y": y.astype(np.float32), "weight": rng.integers(1, 4, n).astype(np.float32)}

    def batch(self, k, rows):
        whole = self._examples(np.random.default_rng([self._config.data.seed, k]), self._config.batch_size)
        if 0 <= k - self._config.model.poison < self._config.model.poisoned and self._config.model.poison >= 0:
            whole["y"] = whole["y"] + np.inf
        return {name: array[rows] for name, array in whole.items()}

    def eval_batches(self, final=True):
        n, size = self._config.evaluation.examples, self._config.evaluation.batch_size
        whole = self._examples(np.random.default_rng(12345 if final else 54321), n)
        for start in range(0, n, size):
            index = np.arange(start, start + size)
            yield {name: array[np.where(index < n, index, 0)] for name, array in whole.items()}

    def summarize(self, outputs, final=True):
        scores = np.concatenate([np.asarray(part, np.float64) for part in outputs])[: self._config.evaluation.examples]
        name = "toy" if final else "toy selection"
        sem = float(scores.std() / len(scores) ** 0.5)
        return {"loss": float(scores.mean()), "loss_sem": sem, "within": float((scores < 0.1).mean()), "eval_set": name}

    def keep(self, folder):
        pass

    def facts(self):
        return {"data_hash": self._config.data.hash, "available_tokens": 4096, "seq_len": 1, "vocab_size": None}
