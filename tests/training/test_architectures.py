"""The mixer that `docs/architectures.md` adds: its file as it stands there, with its row, is one like any other."""

import importlib.util
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lm import models
from lm.cost import cost
from training import config as configs, loop
from training.cost import count_products
from training.nets.mixers import MIXERS

DOCS = Path(__file__).parents[2] / "docs" / "architectures.md"
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 12)).astype(np.int32)


@pytest.fixture
def row(tmp_path, monkeypatch):
    """The example in place."""
    source, entry = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(source.splitlines()) <= 120
    path = tmp_path / "min_gru.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("min_gru", path)
    min_gru = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(min_gru)
    for name, mixer in eval(f"{{{entry}}}", {"min_gru": min_gru}).items():
        monkeypatch.setitem(MIXERS, name, mixer)


def config(tmp_path, **changes):
    for name in range(12):
        (tmp_path / f"{name}.txt").write_text("abcdefgh" * (50 + name))
    data = {"corpus": "files", "corpus_args": {"paths": f"{tmp_path}/*.txt"}, "seq_len": 32, "eval_fraction": 0.25}
    full = configs.complete(
        ConfigDict(
            {
                "batch_size": 8,
                "duration": {"steps": 20},
                "mesh": {"data": 1},
                "model": {"width": 16, "depth": 2, "heads": 2, "pattern": ("min_gru", "attention")},
                "optimizer": {"learning_rate": 0.03},
                "data": data | {"cache_dir": f"{tmp_path}/cache"},
            }
        )
    )
    full.update_from_flattened_dict(changes)
    return full


@pytest.mark.usefixtures("row")
def test_the_example_trains_and_continues_texts(tmp_path):
    full = configs.resolve(config(tmp_path))
    result = loop.run(full, tmp_path / "run")
    assert result["status"] == "completed" and result["loss"] < 1.5
    model = models.build(full.model, full.precision, 256, 32)
    params = jax.jit(lambda: nn.meta.unbox(model.init(jax.random.key(0), method="parameters"))["params"])()
    said = cost(model, 12)
    assert said.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))

    def total(params):
        return jnp.sum(jnp.sin(model(params, TOKENS[:1])))

    assert count_products(jax.make_jaxpr(jax.grad(total))(params)) == said.flops_exact
    whole, cache, parts = jax.jit(model)(params, TOKENS), model.empty_cache(2, 12), []
    extend = jax.jit(model.extend)
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 12)):
        logits, cache = extend(params, TOKENS[:, start:end], cache)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)


@pytest.mark.usefixtures("row")
def test_a_size_has_a_shape_and_another_pattern_another_name(tmp_path):
    shape = {"model.width": None, "model.depth": None, "model.heads": None}
    sized = configs.resolve(config(tmp_path, **shape, **{"model.size": 1e5}))
    assert sized.derived.params_total == pytest.approx(1e5, rel=0.2)
    plain = configs.resolve(config(tmp_path, **{"model.pattern": ()}))
    assert plain.derived.run_id != configs.resolve(config(tmp_path)).derived.run_id
