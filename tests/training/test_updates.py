"""Optimizers of papers against float64 oracles written from the papers' equations: vectors, matrices, stacked matrices."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import toy

from training import loop, optimizer
from training.lines import read_metrics

AXES = {
    "embed": optimizer.Axes(("vocab", "embed")),
    "matrix": optimizer.Axes(("embed", "mlp")),
    "stack": optimizer.Axes(("layers", "embed", "mlp")),
    "norm": optimizer.Axes(("layers", None)),
}
SHAPES = {"embed": (8, 4), "matrix": (4, 6), "stack": (3, 6, 4), "norm": (3, 5)}
STACKED = ("stack", "norm")
LEARNING_RATES = (0.03, 0.01, 0.02, 0.05, 0.04, 0.01)


def drawn(seed, shapes=SHAPES):
    """Parameters, and one tree of gradients a step; the layers of a stack differ in size."""
    rng = np.random.default_rng(seed)

    def tree():
        return {
            name: (rng.normal(size=shape) * 3.0 ** np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))).astype(
                np.float32
            )
            for name, shape in shapes.items()
        }

    return tree(), [tree() for _ in LEARNING_RATES]


def stepped(name, params, gradients, decay=0.0, cautious=False, axes=AXES, **options):
    """The parameters after each step."""
    row = optimizer.TABLE[name]
    transform = optimizer.build(name, axes, **(row.options | options))
    roles = ("matrix", "embedding")

    @jax.jit
    def step(params, moments, grads, lr):
        updates, moments = transform.update(grads, moments, params)
        return optimizer.apply(params, updates, axes, roles, lr, jnp.float32(decay), None, cautious), moments

    moments, found = transform.init(params), []
    for grads, lr in zip(gradients, LEARNING_RATES, strict=True):
        params, moments = step(params, moments, grads, jnp.float32(lr))
        found.append(params)
    return found


def layers(name, tree):
    """The layers of a leaf, in float64; one for a leaf that is no stack."""
    leaf = np.asarray(tree[name], np.float64)
    return list(leaf) if name in STACKED else [leaf]


def adam(gradients, b1=0.9, b2=0.999, eps=1e-8):
    """The updates of Adam (Kingma and Ba 2015, algorithm 1)."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def check(found, params, gradients, oracle, rtol=2e-5, atol=2e-6):
    """That every layer of every leaf went as `oracle(role, p, gradients)` says, which yields p after each step."""
    for name in params:
        role = optimizer.role(AXES[name])
        for index, p in enumerate(layers(name, params)):
            of_layer = [layers(name, grads)[index] for grads in gradients]
            for step, expected in enumerate(oracle(role, p, of_layer)):
                np.testing.assert_allclose(layers(name, found[step])[index], expected, rtol=rtol, atol=atol)


def test_cautious_decay_is_of_the_entries_that_the_update_moves_towards_zero():
    params, gradients = drawn(0)

    def oracle(role, p, gradients):
        for lr, u in zip(LEARNING_RATES, adam(gradients, b2=0.95), strict=True):
            mask = 0.0 if role == "vector" else (u * p >= 0)
            p = p - lr * (u + 2.0 * mask * p)
            yield p

    check(stepped("adamw", params, gradients, decay=2.0, cautious=True), params, gradients, oracle)


def test_a_run_takes_cautious_decay(tmp_path):
    losses = {}
    for cautious in (False, True):
        config = toy.config(**{"optimizer.cautious_weight_decay": cautious, "optimizer.weight_decay": 3.0})
        loop.run(config, tmp_path / str(cautious))
        losses[cautious] = [line["loss"] for line in read_metrics(tmp_path / str(cautious))]
    assert losses[True][0] == losses[False][0] and losses[True][-1] != losses[False][-1]


def test_the_page_lists_the_table():
    page = (Path(loop.__file__).parents[1] / "docs" / "optimizers.md").read_text()
    cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(optimizer.TABLE)
