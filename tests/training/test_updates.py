"""Optimizers of papers against float64 oracles written from the papers' equations: vectors, matrices, stacked matrices."""

import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from ml_collections import ConfigDict
from tiers import tiered

from training import checkpoint, data, evaluation, loop, mesh as meshes, optimizer, step as train_steps, step_spec
from training.config import complete, resolve
from training.errors import BadInput
from training.lines import read_metrics
from training.task import resolve as family_of
from training.updates.soap import soap

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

    def leaf(name, shape):
        size = 3.0 ** np.arange(shape[0]) if name in STACKED else np.ones(shape[0])
        return (rng.normal(size=shape) * size.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)

    def tree():
        return {name: leaf(name, shape) for name, shape in shapes.items()}

    return tree(), [tree() for _ in LEARNING_RATES]


def stepping(name, axes, params, steps, roles=(), decay=0.0, cautious=False, **options):
    """A step, (params, moments) and gradients and learning rate to the next two, and what it begins with."""
    row = optimizer.TABLE[name]
    transform = optimizer.build(name, axes, **(row.options | options))

    def step(state, grads, lr):
        params, moments = state
        inputs = {key: {"steps": jnp.float32(steps), "lr": lr}[key] for key in row.inputs}
        updates, moments = transform.update(grads, moments, params, **inputs)
        radii = moments.radius if row.on_spheres else None
        return optimizer.apply(params, updates, axes, roles, lr, jnp.float32(decay), None, cautious, radii), moments

    return step, (params, transform.init(params))


def stepped(name, params, gradients, decay=0.0, cautious=False, axes=AXES, **options):
    """The parameters after each step."""
    step, state = stepping(name, axes, params, len(LEARNING_RATES), ("matrix", "embedding"), decay, cautious, **options)
    step, found = jax.jit(step), []
    for grads, lr in zip(gradients, LEARNING_RATES, strict=True):
        state = step(state, grads, jnp.float32(lr))
        found.append(state[0])
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


def ademamix(gradients, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, warmup=1.0):
    """Algorithm 1 of arXiv 2409.03137, with its schedulers of alpha and b3."""
    m1 = m2 = v = 0.0
    total = warmup * len(gradients)
    for t, g in enumerate(gradients, 1):
        now, slow = alpha, b3
        if t < total:
            share = t / total
            now = share * alpha
            slow = min(np.exp(np.log(b1) * np.log(b3) / ((1 - share) * np.log(b3) + share * np.log(b1))), b3)
        m1, m2, v = b1 * m1 + (1 - b1) * g, slow * m2 + (1 - slow) * g, b2 * v + (1 - b2) * g**2
        yield (m1 / (1 - b1**t) + now * m2) / (np.sqrt(v / (1 - b2**t)) + eps)


@pytest.mark.parametrize(
    "options", [{}, {"slow_warmup": 0.0, "b3": 0.99, "alpha": 8.0}, {"slow_warmup": 0.5, "b1": 0.8}]
)
def test_ademamix(options):
    params, gradients = drawn(1)
    own = {"warmup" if key == "slow_warmup" else key: value for key, value in options.items()}

    def oracle(role, p, gradients):
        for lr, u in zip(LEARNING_RATES, ademamix(gradients, **own), strict=True):
            p = p - lr * (u + (role != "vector") * 0.3 * p)
            yield p

    check(stepped("ademamix", params, gradients, 0.3, **options), params, gradients, oracle)


def test_the_slow_mean_warms_up_over_the_run_of_the_config(tmp_path):
    losses = {}
    for share, steps in ((1.0, 24), (0.5, 24), (0.5, 48)):
        config = toy.config(
            **{"optimizer.name": "ademamix", "optimizer.slow_warmup": share, "schedule.name": "constant"}
            | {"duration.steps": steps, "schedule.warmup_steps": 2}
        )
        loop.run(config, tmp_path / f"{share} {steps}")
        losses[share, steps] = [line["loss"] for line in read_metrics(tmp_path / f"{share} {steps}")]
    np.testing.assert_allclose(losses[0.5, 48][:24], losses[1.0, 24], rtol=1e-5)
    assert abs(losses[0.5, 24][-1] / losses[1.0, 24][-1] - 1) > 1e-3


def orthogonalised(matrix):
    """Five quintic Newton-Schulz steps (Jordan et al. 2024)."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_normuon():
    """arXiv 2510.05491, algorithm 1, whose matrices are [outputs, inputs]."""
    params, gradients = drawn(2)

    def oracle(role, p, gradients):
        m, v = 0.0, 0.0
        for lr, u, g in zip(LEARNING_RATES, adam(gradients, b2=0.95), gradients, strict=True):
            if role == "matrix":
                m = 0.95 * m + 0.05 * g.T
                o = orthogonalised(m)
                v = 0.95 * v + 0.05 * np.mean(o * o, axis=1)
                o = o / (np.sqrt(v)[:, None] + 1e-8)
                u = (0.2 * np.sqrt(o.size) / np.linalg.norm(o) * o).T
            p = p - lr * (u + (role != "vector") * 0.3 * p)
            yield p

    check(stepped("normuon", params, gradients, 0.3), params, gradients, oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adamh", "muonh"])
def test_matrices_keep_their_norms(name):
    """W <- R n(W - lr R n(u)), with n(x) = x / |x| (arXiv 2606.16899); embeddings and vectors take the steps of Adam."""
    params, gradients = drawn(5)
    params["stack"][1] = 0.0  # has no norm to keep

    def muon(gradients):
        """Nesterov's momentum, corrected as Adam's is, orthogonalised, as large as Adam's (arXiv 2502.16982)."""
        m = 0.0
        for t, g in enumerate(gradients, 1):
            m = 0.95 * m + 0.05 * g
            nesterov = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
            turned = nesterov.shape[0] > nesterov.shape[1]
            o = orthogonalised(nesterov.T).T if turned else orthogonalised(nesterov)
            yield 0.2 * np.sqrt(max(g.shape)) * o

    def oracle(role, p, gradients):
        norm = np.linalg.norm(p)
        inner = muon if role == "matrix" and name == "muonh" else adam_of_others
        for lr, u in zip(LEARNING_RATES, inner(gradients), strict=True):
            if role == "matrix" and norm:
                p = p - lr * norm * u / np.linalg.norm(u)
                p = norm * p / np.linalg.norm(p)
            else:
                p = p - lr * u
            yield p

    def adam_of_others(gradients):
        if name == "adamh":
            yield from adam(gradients, b2=0.95)
            return
        m = v = 0.0  # beside Muon, optax has Nesterov's (Dozat 2016)
        for t, g in enumerate(gradients, 1):
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            mean = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
            yield mean / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)

    check(stepped(name, params, gradients), params, gradients, oracle, rtol=1e-4, atol=1e-5)


def test_norms_are_kept_over_a_run_that_begins_with_another(tmp_path):
    """And what is frozen does not move."""
    loop.run(toy.config(), tmp_path / "parent")
    config = toy.config(
        **{"optimizer.name": "adamh", "init_from.run": str(tmp_path / "parent"), "precision.params": "bfloat16"}
        | {"optimizer.learning_rate": 0.1, "optimizer.clip": 0.0}
    )
    loop.run(config, tmp_path / "child")
    before, after = (checkpoint.load_params(tmp_path / run) for run in ("parent", "child"))
    kernels = [
        (np.asarray(old, np.float32), np.asarray(new, np.float32))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        if old.ndim == 2
    ]
    assert kernels
    for old, new in kernels:
        assert np.linalg.norm(new - old) > 0.1 * np.linalg.norm(old)
        np.testing.assert_allclose(np.linalg.norm(new), np.linalg.norm(old), rtol=3e-3)


def test_soap():
    """Algorithms 3 and 4 of arXiv 2409.11321, bases refreshed after two updates; of square matrices, whose first bases are
    no matter of choice."""
    shapes = SHAPES | {"matrix": (5, 5), "stack": (3, 4, 4)}
    params, gradients = drawn(6, shapes)
    b1, b2, eps = 0.9, 0.8, 1e-8

    def rotated(gradients):
        g = gradients[0]
        left, right = (1 - b2) * g @ g.T, (1 - b2) * g.T @ g
        q_left, q_right = np.linalg.eigh(left)[1], np.linalg.eigh(right)[1]
        m = v = np.zeros_like(g)
        yield 0 * g
        for t, g in enumerate(gradients[1:], 1):
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * (q_left.T @ g @ q_right) ** 2
            numerator = q_left.T @ m @ q_right / (1 - b1**t)
            yield q_left @ (numerator / (np.sqrt(v / (1 - b2**t)) + eps)) @ q_right.T
            left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
            if t % 2 == 0:
                q_left, q_right = np.linalg.qr(left @ q_left)[0], np.linalg.qr(right @ q_right)[0]

    def oracle(role, p, gradients):
        updates = rotated(gradients) if role == "matrix" else adam(gradients, b1, b2, eps)
        for lr, u in zip(LEARNING_RATES, updates, strict=True):
            p = p - lr * (u + (role != "vector") * 0.3 * p)
            yield p

    found = stepped("soap", params, gradients, 0.3, b1=b1, b2=b2, eps=eps, precondition_every=2)
    check(found, params, gradients, oracle, rtol=1e-3, atol=1e-4)


def test_the_bases_of_soap_become_the_eigenvectors():
    """Of any shape: the bases stay orthonormal, and diagonalise the means of G G^T and G^T G of a steady gradient."""
    rng = np.random.default_rng(7)
    transform = soap(0.9, 0.9, 1e-8, 1)
    params = {"wide": jnp.ones((3, 5)), "tall": jnp.ones((6, 2))}
    gradients = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in params.items()}
    state, update = transform.init(params), jax.jit(transform.update)
    for _ in range(60):
        noisy = {name: g * rng.uniform(0.9, 1.1) for name, g in gradients.items()}
        _, state = update(noisy, state, params)
    for product, basis in ((state.left, state.left_basis), (state.right, state.right_basis)):
        for name in params:
            q = np.asarray(basis[name], np.float64)
            diagonal = q.T @ np.asarray(product[name], np.float64) @ q
            np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-5)
            np.testing.assert_allclose(diagonal - np.diag(np.diag(diagonal)), 0, atol=1e-3 * np.abs(diagonal).max())


def test_schedule_free(tmp_path):
    """Algorithm 1 of arXiv 2405.15682 on a run, with a warmup, in float64 but for the gradients; x is kept and evaluated."""
    changes = {"optimizer.name": "schedule_free", "schedule.name": "constant", "schedule.warmup_steps": 5}
    config = toy.config(**changes, **{"optimizer.clip": 0.0, "optimizer.weight_decay": 0.3, "mesh.data": 1})
    result = loop.run(config, tmp_path)
    config = resolve(config)
    task = toy.build(config)
    rates = config.optimizer.learning_rate * np.minimum(1, np.arange(1, 25) / 5)

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            total, (sums, _) = task.model.loss(params, {}, batch, None, {"dropout": 0.0})
            return total / sums["weight"]

        return jax.grad(loss)(params)

    leaves, tree = jax.tree.flatten(train_steps.states.init(task.model, optax.identity(), False, 0, {}).params)
    roles = [leaf.ndim == 2 for leaf in leaves]  # matrices decay
    x = z = [np.asarray(leaf, np.float64) for leaf in leaves]
    v, total = [0.0] * len(leaves), 0.0
    for t, lr in enumerate(rates, 1):
        y = [0.1 * one + 0.9 * mean for one, mean in zip(z, x, strict=True)]
        g = jax.tree.leaves(
            gradient(tree.unflatten([leaf.astype(np.float32) for leaf in y]), task.batch(t - 1, slice(None)))
        )
        g = [np.asarray(leaf, np.float64) for leaf in g]
        v = [0.999 * old + 0.001 * leaf**2 for old, leaf in zip(v, g, strict=True)]
        u = [leaf / (np.sqrt(second / (1 - 0.999**t)) + 1e-8) for leaf, second in zip(g, v, strict=True)]
        z = [one - lr * (own + 0.3 * role * at) for one, own, role, at in zip(z, u, roles, y, strict=True)]
        total += lr**2
        x = [(1 - lr**2 / total) * mean + lr**2 / total * one for mean, one in zip(x, z, strict=True)]
    for name, expected in (("params", z), ("ema", x)):
        found = jax.tree.leaves(checkpoint.load_params(tmp_path, name=name))
        for leaf, own in zip(found, expected, strict=True):
            np.testing.assert_allclose(leaf, own, rtol=1e-3, atol=1e-4)
    mesh = meshes.build(config.mesh)
    kept = checkpoint.load_params(tmp_path, name="ema")
    assert result["loss"] == pytest.approx(evaluation.evaluate(task, kept, {}, mesh)["loss"], rel=1e-5)
    last = evaluation.evaluate(task, checkpoint.load_params(tmp_path), {}, mesh)["loss"]
    assert result["loss"] != pytest.approx(last, rel=1e-3)


def test_a_schedule_free_run_that_was_cut_ends_as_one_that_was_not(tmp_path):
    changes = {"optimizer.name": "schedule_free", "schedule.name": "constant", "checkpoint.every_steps": 5}

    class Cut(Exception):
        pass

    def cut(step, line):
        if step >= 12:
            raise Cut

    whole = loop.run(toy.config(**changes), tmp_path / "whole")
    with pytest.raises(Cut):
        loop.run(toy.config(**changes), tmp_path / "cut", loggers=[cut])
    assert loop.run(toy.config(**changes), tmp_path / "cut")["loss"] == whole["loss"]
    child = toy.config(**{"init_from.run": str(tmp_path / "whole"), "optimizer.learning_rate": 1e-9})
    assert loop.run(child, tmp_path / "child")["loss"] == pytest.approx(whole["loss"], rel=1e-4)  # it began at x


# Options under which 400 steps of a quadratic are enough: a mean over 10,000 of them is for longer runs.
NEW = {"ademamix": {"b3": 0.97}, "normuon": {}, "adamh": {}, "muonh": {}, "soap": {}, "schedule_free": {}}


@pytest.mark.parametrize("name", ["normuon", "adamh", "muonh", "soap"])
def test_experts_and_convolutions_are_matrices(name):
    """Experts of layers are as so many layers, and every axis of a convolution but the last is an input."""
    whole = {
        "experts": optimizer.Axes(("layers", "expert", "embed", "mlp")),
        "convolution": optimizer.Axes((None, None, "in", "out")),
    }
    flat = {"experts": optimizer.Axes(("layers", "embed", "mlp")), "convolution": optimizer.Axes(("in", "out"))}
    params, gradients = drawn(8, {"experts": (2, 3, 4, 4), "convolution": (2, 2, 1, 4)})

    def merged(tree):
        return {"experts": tree["experts"].reshape(6, 4, 4), "convolution": tree["convolution"].reshape(4, 4)}

    apart = stepped(name, merged(params), [merged(grads) for grads in gradients], axes=flat)[-1]
    together = merged(stepped(name, params, gradients, axes=whole)[-1])
    for leaf in whole:
        np.testing.assert_allclose(together[leaf], apart[leaf], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NEW))
def test_a_quadratic_is_minimised(name):
    """|p - target|^2 / 2 over all leaves, from far off: the distance falls to a tenth."""
    row = optimizer.TABLE[name]
    rng = np.random.default_rng(3)
    target = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    params = {name: (rng.normal(size=shape) + 2).astype(np.float32) for name, shape in SHAPES.items()}
    if row.on_spheres:  # where the norms are those of the targets
        norms = {leaf: np.sqrt(np.sum(target[leaf] ** 2, (-2, -1), keepdims=True)) for leaf in ("matrix", "stack")}
        for leaf, norm in norms.items():
            params[leaf] *= norm / np.sqrt(np.sum(params[leaf] ** 2, (-2, -1), keepdims=True))
    step, state = stepping(name, AXES, params, 400, **NEW[name])
    descend = jax.jit(lambda state, lr: step(state, jax.tree.map(jnp.subtract, state[0], target), lr))
    for lr in np.linspace(0.2, 0.0, 400, dtype=np.float32):
        state = descend(state, lr)
    last = state[0]
    for leaf in SHAPES:
        assert np.linalg.norm(last[leaf] - target[leaf]) < 0.1 * np.linalg.norm(params[leaf] - target[leaf])


@pytest.mark.parametrize("name", tiered(sorted(NEW), ["muonh", "soap"]))
def test_shards_change_no_value(name):
    """Square matrices, rows over eight devices, against one device."""
    shapes = {"matrix": (8, 8), "stack": (3, 8, 8), "embed": (8, 4), "norm": (3, 8)}
    params, gradients = drawn(4, shapes)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    where = {"matrix": jax.P("fsdp"), "stack": jax.P(None, "fsdp"), "embed": jax.P("fsdp"), "norm": jax.P(None, "fsdp")}

    def sharded(tree):
        return {name: jax.device_put(leaf, jax.NamedSharding(mesh, where[name])) for name, leaf in tree.items()}

    alone = stepped(name, params, gradients, 0.3)[-1]
    split = stepped(name, sharded(params), [sharded(grads) for grads in gradients], 0.3)[-1]
    assert len(split["stack"].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), split, alone)


@pytest.mark.parametrize("name", tiered(sorted(NEW), ["soap"]))
def test_moments_of_a_decoder_lie_as_its_parameters_do(name):
    """And its step is traced, over shards of embeddings and stacked kernels."""
    partial = {
        "task": "lm",
        "batch_size": 8,
        "duration": {"steps": 3},
        "model": {"width": 16, "depth": 2, "heads": 2, "scan": True},
        "data": {"corpus": "stdlib", "seq_len": 16},
        "mesh": {"data": 1, "fsdp": 2},
        "schedule": {"name": "constant"},
        "optimizer": {"name": name},
    }
    config = resolve(complete(ConfigDict(partial)))
    task, mesh = family_of("lm").build(config), meshes.build(config.mesh)
    hyper = step_spec.hyper(config, task)
    programs = train_steps.programs(
        step_spec.of(task.model, config), mesh, 1, data.shapes(task, config.batch_size), tuple(hyper)
    )
    placed = [
        [
            (leaf.shape, where.spec)
            for leaf, where in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        ]
        for tree, shardings in (
            (programs.abstract.params, programs.shardings.params),
            (programs.abstract.moments, programs.shardings.moments),
        )
    ]
    assert not Counter(placed[0]) - Counter(placed[1])  # each has a moment of its own shape and shards
    programs.train.lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ademamix", "b1": 0.0}, "optimizer.b1: must be positive, got 0.0"),
        ({"name": "ademamix", "b3": 1.0}, r"optimizer.b3: must be in \[0, 1\), got 1.0"),
        ({"name": "ademamix", "alpha": -1.0}, "optimizer.alpha: must be at least 0, got -1.0"),
        ({"name": "schedule_free", "ema": 0.9}, "optimizer.ema: schedule_free keeps an average of its own"),
        ({"name": "schedule_free"}, "schedule.name: schedule_free knows no schedule but a warmup; give 'constant'"),
        ({"name": "soap", "precondition_every": 0}, "optimizer.precondition_every: must be positive, got 0"),
        ({"name": "muonh", "weight_decay": 0.1}, "optimizer.weight_decay_roles: muonh keeps the norms of matrices"),
        ({"name": "adamw", "alpha": 1.0}, "optimizer.alpha is not used by adamw"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**{f"optimizer.{key}": value for key, value in options.items()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas.count": 2, "replicas.every": 2}, "schedule_free keeps an average, and replicas keep none"),
        ({"async_sgd.workers": 2}, "schedule_free says where gradients are taken"),
    ],
)
def test_a_schedule_free_run_has_one_set_of_parameters(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**{"optimizer.name": "schedule_free", "schedule.name": "constant"}, **changes))


def test_running_statistics_are_refused_with_an_average(tmp_path):
    partial = {
        "task": "vision",
        "batch_size": 8,
        "duration": {"steps": 2},
        "model": {"name": "resnet", "width": 8, "stages": (1,)},
        "data": {"dataset": "digits"},
        "schedule": {"name": "constant"},
        "optimizer": {"name": "schedule_free"},
    }
    with pytest.raises(BadInput, match="schedule_free evaluates parameters that no batch was seen at"):
        loop.run(complete(ConfigDict(partial)), tmp_path)


def test_the_page_lists_the_table():
    page = (Path(loop.__file__).parents[1] / "docs" / "optimizers.md").read_text()
    cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(optimizer.TABLE)
