"""The shapes and types that `training.nets` is annotated with are those that it is called with."""

import subprocess
import sys

SCRIPT = """
import jaxtyping

jaxtyping.install_import_hook("training.nets", "beartype.beartype")

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.decoder import Decoder
from training.nets.block_config import compose
from training.nets.mixers import MIXERS

tokens = jnp.arange(20).reshape(2, 10) % 7
experts = {"experts": 3, "experts_per_token": 2, "capacity_factor": 1.0, "dense_layers": 1, "depth": 7}
shape = {"vocab_size": 7, "depth": 6, "width": 12, "heads": 3, "mlp_width": 8, "pattern": tuple(MIXERS)}
for options in ({}, {"scan": True, "remat": "full", "bias": True, "norm": "layer"}, experts):
    model = compose(Decoder, **shape | options)
    def loss(key):
        params = nn.meta.unbox(model.init(key, method="parameters"))["params"]
        cache = model.empty_cache(2, 10)
        model.extend(params, tokens, cache)
        states, head, _ = model.routed(params, tokens, tokens // 3)
        return jax.grad(lambda p: model(p, tokens).sum())(params)
    jax.eval_shape(loss, jax.random.key(0))
"""


def test_nets_are_called_as_they_are_annotated():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
