"""The few-shot probe against its definition, and figures of what a model looks at."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.errors import BadInput
from training.nets.block_config import compose
from vision import datasets, figures, probe
from vision.convnet import ConvNet
from vision.mlp import MLP
from vision.vit import BLOCKS, ViT


def test_ridge_is_ridge_and_leaves_one_out_exactly():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    x = rng.normal(size=(40, 6)) + np.eye(3, 6)[labels]
    z, targets = (x - x.mean(0)) / (x.std(0) + 1e-6), np.eye(3)[labels]

    def solve(rows, penalty):
        centre = targets[rows].mean(0)
        zc = z[rows] - z[rows].mean(0)
        weights = np.linalg.solve(zc.T @ zc + penalty * np.eye(6), zc.T @ (targets[rows] - centre))
        return lambda q: (q - z[rows].mean(0)) @ weights + centre

    def left_out(penalty):
        keep = [np.delete(np.arange(40), i) for i in range(40)]
        return sum(np.square(solve(k, penalty)(z[i]) - targets[i]).sum() for i, k in enumerate(keep))

    best = min(probe.PENALTIES, key=left_out)
    whole = solve(np.arange(40), best)(z)
    np.testing.assert_array_equal(probe.ridge(x, labels, 3)(x), whole.argmax(1))
    assert probe.PENALTIES[0] < best < probe.PENALTIES[-1]


def test_pixels_know_digits_the_better_the_more_are_seen():
    section = datasets.defaults()
    section.dataset = "digits"
    data = datasets.load(section)

    def flat(images):
        return images.reshape(len(images), -1) / 16

    one, ten = (probe.few_shot(flat, data.split("train"), data.split("test"), 10, shots) for shots in (1, 10))
    assert 0.3 < one < ten - 0.1 and ten > 0.75
    with pytest.raises(BadInput, match="500 shots of a class with 1"):
        probe.few_shot(flat, data.split("train"), data.split("test"), 10, 500)


def test_first_layers_are_seen_and_attention_sums_to_one(tmp_path):
    shapes = {
        MLP(3, (4, 6, 1), 1, 5): (4, 6, 1, 5),
        ConvNet(3, (8, 8, 3), 1, 5, padding="same"): (3, 3, 3, 5),
        compose(
            ViT, classes=3, image=(8, 4, 3), patch=2, depth=2, width=8, heads=2, mlp_width=8, pool="token", **BLOCKS
        ): (2, 2, 3, 8),
    }
    for model, shape in shapes.items():
        init = jax.jit(functools.partial(model.init, method="parameters"))
        params = nn.meta.unbox(init(jax.random.key(0), 1.0))["params"]
        kernel = model.filters(params)
        assert kernel is not None and kernel.shape == shape
        figures.filters(kernel).savefig(tmp_path / "filters.png")
    images = jax.random.normal(jax.random.key(1), (2, 8, 4, 3))
    variables = {"params": params}
    maps = jax.jit(model.attention_maps)(variables, images)
    assert maps.shape == (2, 2, 2, 9, 9)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    figures.attention(np.full((2, 8, 4, 3), 0.5), np.asarray(maps).mean((2, 3))[..., 1:].reshape(2, 2, 4, 2)).savefig(
        tmp_path / "attention.png"
    )
    figures.confusion(np.array([[3, 1], [0, 2]]), ("a", "b")).savefig(tmp_path / "confusion.png")
    assert {path.stem for path in tmp_path.iterdir()} == {"filters", "attention", "confusion"}
    assert jnp.isfinite(maps).all()
