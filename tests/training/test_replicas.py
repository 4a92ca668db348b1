"""Replicas: the same as one run where they should be, as the papers say where not, on any mesh, cut anywhere."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec
from tiers import tiered

from training import (
    checkpoint,
    data,
    evaluation,
    identity,
    loop,
    mesh,
    replicas,
    rng,
    schedule,
    step,
    step_spec,
)
from training.config import resolve
from training.errors import BadInput
from training.lines import read_metrics
from training.state import State

DILOCO = {"replicas.count": 4, "replicas.every": 5, "replicas.outer.name": "nesterov", "mesh.data": 1}
SGD = {"optimizer.name": "sgd", "optimizer.clip": 0.0, "optimizer.learning_rate": 0.1}


def params(path, **which):
    return jax.tree.map(np.asarray, checkpoint.load_params(path, **which))


def close(a, b, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6} | how), a, b)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("momentum", [pytest.param(None, marks=pytest.mark.slow), 0.9])
def test_averaging_at_every_step_is_data_parallel_training(tmp_path, monkeypatch, momentum):
    """Of the parameters where the inner optimizer is linear in the gradient; rows weigh the same, so that shares do."""
    batch = toy.ToyTask.batch
    monkeypatch.setattr(
        toy.ToyTask, "batch", lambda *args: (found := batch(*args)) | {"weight": np.ones_like(found["weight"])}
    )
    linear = SGD | ({} if momentum is None else {"optimizer.name": "momentum", "optimizer.momentum": momentum})
    plain = loop.run(toy.config(**linear, **{"mesh.data": 8}), tmp_path / "plain")
    apart = loop.run(
        toy.config(**linear, **{"replicas.count": 4, "mesh.replica": 4, "mesh.data": 2}), tmp_path / "apart"
    )
    close(params(tmp_path / "apart"), params(tmp_path / "plain"))
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("plain", "apart")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert apart["num_devices"] == 8 and apart["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def reference(config, count, every, lr, momentum):
    """Algorithm 1 of DiLoCo, replica by replica; inner AdamW by optax, outer Nesterov as PyTorch writes it."""
    config = resolve(config)
    task, steps = toy.build(config), config.derived.steps
    rates = config.optimizer.learning_rate * schedule.values(config.schedule, steps, config.derived.warmup_steps)
    outer = initial(config)
    decayed = jax.tree.map(lambda p: p.ndim == 2, outer)
    inner = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda k: jnp.asarray(rates)[k], b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=decayed),
    )

    @jax.jit
    def inner_step(theta, moments, rows):
        def loss(theta):
            total, (sums, _) = task.model.loss(theta, {}, rows, None, {"dropout": 0.0})
            return total / sums["weight"]

        updates, moments = inner.update(jax.grad(loss)(theta), moments, theta)
        return optax.apply_updates(theta, updates), moments

    thetas, moments = [outer] * count, [inner.init(outer)] * count
    buffer = jax.tree.map(np.zeros_like, outer)
    for k in range(steps):
        whole, size = task.batch(k, slice(None)), config.batch_size // count
        for m in range(count):
            rows = {name: x[m * size : (m + 1) * size] for name, x in whole.items()}
            thetas[m], moments[m] = inner_step(thetas[m], moments[m], rows)
        if (k + 1) % every == 0 or k + 1 == steps:
            mean = jax.tree.map(lambda *each: np.mean(each, axis=0), *thetas)
            delta = jax.tree.map(lambda p, m: np.asarray(p) - m, outer, mean)
            buffer = jax.tree.map(lambda b, d: momentum * b + d, buffer, delta)
            outer = jax.tree.map(lambda p, b, d: p - lr * (d + momentum * b), outer, buffer, delta)
            thetas = [outer] * count
    return outer


def initial(config):
    return nn.meta.unbox(toy.build(config).model.init(rng.key(config.seed, "init"), {}))["params"]


def initial_state(config):
    """As a run begins with it."""
    task, grid = toy.build(config), mesh.build(config.mesh)
    scalars, shapes = step_spec.hyper(config, task), data.shapes(task, config.batch_size)
    programs = step.programs(step_spec.of(task.model, config), grid, 1, shapes, tuple(scalars))
    return programs.init(np.int32(config.seed), scalars)


@pytest.mark.parametrize(
    ("count", "every", "outer", "lr", "momentum"),
    [
        (4, 5, {"name": "nesterov"}, 0.7, 0.9),
        pytest.param(1, 3, {"name": "nesterov", "lr": 0.5, "momentum": 0.8}, 0.5, 0.8, marks=pytest.mark.slow),
        pytest.param(2, 1, {"name": "nesterov"}, 0.7, 0.9, marks=pytest.mark.slow),
        (8, 24, {"name": "sgd", "lr": 0.4}, 0.4, 0.0),
        (2, 7, {"name": "average"}, 1.0, 0.0),
    ],
)
def test_it_is_diloco(tmp_path, count, every, outer, lr, momentum):
    changes = {f"replicas.outer.{key}": value for key, value in outer.items()}
    config = toy.config(**changes, **{"replicas.count": count, "replicas.every": every, "mesh.data": 1})
    loop.run(config, tmp_path)
    close(params(tmp_path), reference(config, count, every, lr, momentum))


WAYS = {
    "one": {},
    "replica": {"mesh.replica": 4},
    "both": {"mesh.data": 2, "mesh.replica": 4},
    "axes": {"mesh.replica": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "parts": {"mesh.replica": 2, "gradient_accumulation_steps": 2},
    "calls": {"steps_per_call": 7},
}
FEW = ["one", "axes", "parts", "calls"]


@pytest.mark.parametrize("names", tiered([FEW, [*WAYS]], [FEW]), ids=["few", "all"])
def test_devices_and_micro_batches_leave_the_losses(tmp_path, names):
    losses, ids = {}, set()
    for name, changes in ((name, WAYS[name]) for name in names):
        result = loop.run(toy.config(**DILOCO | changes), tmp_path / name)
        losses[name] = [*(line["loss"] for line in read_metrics(tmp_path / name)), result["loss"]]
        np.testing.assert_allclose(losses[name], losses["one"], rtol=2e-5, err_msg=name)
        ids |= {result["run_id"]} if name != "parts" else set()
        assert result["num_devices"] == np.prod([changes.get(f"mesh.{axis}", 1) for axis in mesh.AXES])
    assert len(ids) == 1


def test_replicas_lie_along_their_axis():
    state = initial_state(resolve(toy.config(**DILOCO, **{"mesh.replica": 4, "mesh.tensor": 2})))
    assert state.params["kernel"].sharding.spec == PartitionSpec(("fsdp", "context"), "tensor")
    for tree in (state.replicas.params, state.replicas.moments.mu):
        assert tree["kernel"].shape == (4, 4, 8)
        assert tree["kernel"].addressable_shards[0].data.shape == (1, 4, 4)


@pytest.mark.parametrize("stride", tiered([1, 4], [4]))
def test_a_run_cut_within_a_round_continues_bit_for_bit(tmp_path, stride):
    changes = {"checkpoint.every_steps": 3, "model.dropout": 0.1, "steps_per_call": stride, "duration.steps": 26}
    config = toy.config(**DILOCO, **changes)
    whole = loop.run(config, tmp_path / "whole")

    def cut(step, line):
        if step >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(config, tmp_path / "cut", loggers=[cut])
    result = loop.run(config, tmp_path / "cut")
    assert result["continued_from"] % 5 and result["loss"] == whole["loss"]
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    same(params(tmp_path / "cut"), params(tmp_path / "whole"))


def test_the_outer_parameters_are_the_runs(tmp_path):
    """They stand still within a round, are what is evaluated, and what another run begins with."""
    keep = {"checkpoint.every_steps": 1, "checkpoint.keep_last": 9, "log.evaluate_every": 1}
    config = toy.config(**DILOCO, **keep, **{"duration.steps": 8})
    result = loop.run(config, tmp_path / "run")
    steps = {step: params(tmp_path / "run", step=step) for step in range(1, 9)}
    same(steps[5], steps[6])
    assert not np.array_equal(steps[4]["kernel"], steps[5]["kernel"])
    assert not np.array_equal(steps[7]["kernel"], steps[8]["kernel"])  # the last step synchronises too
    evaluated = [line["eval/loss"] for line in read_metrics(tmp_path / "run") if "eval/loss" in line]
    assert evaluated[0] == evaluated[3] != evaluated[4] == evaluated[6]
    task, grid = toy.build(resolve(config)), mesh.build({"data": 1, "fsdp": 1, "tensor": 1})
    assert result["loss"] == pytest.approx(evaluation.evaluate(task, steps[8], {}, grid)["loss"], rel=1e-5)

    # With a rate of next to nothing only the outer parameters that it began with are left to be seen.
    still = {
        "init_from.run": str(tmp_path / "run"),
        "optimizer.learning_rate": 1e-12,
        "optimizer.weight_decay": 0.0,
        "seed": 5,
    }
    for name, scheme in (("plain", {}), ("apart", DILOCO)):
        loop.run(toy.config(**scheme, **still), tmp_path / name)
        close(params(tmp_path / name), steps[8])


def test_what_is_frozen_stays_bit_for_bit(tmp_path):
    changes = {"replicas.count": 3, "batch_size": 15, "mesh.data": 1, "duration.steps": 9, "replicas.every": 2}
    changes |= {"replicas.outer.name": "nesterov", "optimizer.lr_multipliers": (("kernel", 0.0),)}
    loop.run(toy.config(**changes), tmp_path)
    first = initial_state(resolve(toy.config(**changes))).params
    same(params(tmp_path)["kernel"], first["kernel"])
    assert not np.array_equal(params(tmp_path)["head"], first["head"])


def test_each_replica_has_its_rows_and_its_draws_and_statistics_are_averaged():
    scheme = replicas.Scheme(2, "average")

    def inner(state, batch, key):
        drawn = {"w": state.params["w"] + jax.random.uniform(key)}
        stats = {"mean": jnp.mean(batch["x"])}
        return state.replace(step=state.step + 1, params=drawn, stats=stats), {"rows": jnp.sum(batch["x"])}

    state = State(step=jnp.int32(0), params={"w": jnp.zeros(3)}, stats={"mean": jnp.zeros(())}, moments=(), ema=None)
    scalars = {"outer_lr": 1.0, "outer_momentum": 0.0, "sync_every": 2, "last_step": 9}
    scalars = {name: jnp.float32(value) for name, value in scalars.items()}
    batch, key = {"x": jnp.arange(6.0)}, jax.random.key(0)
    one, metrics = replicas.step(scheme, inner, replicas.initial(scheme, state), batch, key, scalars)
    assert metrics["rows"] == 7.5 and not one.params["w"].any()
    first, second = one.replicas.params["w"][:, 0]
    assert first != second
    np.testing.assert_array_equal(one.replicas.stats["mean"], [1.0, 4.0])
    two, _ = replicas.step(scheme, inner, one, batch, jax.random.key(1), scalars)
    np.testing.assert_array_equal(two.replicas.params["w"], jnp.stack([two.params["w"]] * 2))
    assert two.params["w"][0] != 0 and two.stats["mean"] == 2.5
    np.testing.assert_array_equal(two.replicas.stats["mean"], [2.5, 2.5])


def test_the_record_counts_what_is_sent(tmp_path):
    result = loop.run(toy.config(**DILOCO), tmp_path / "diloco")  # 24 steps: 4 whole rounds, and the end
    once = 2 * 3 / 4 * result["params_total"] * 4
    assert result["communicated_bytes"] == 5 * once
    assert result["communicated_bytes_data_parallel"] == 24 * once
    assert [result[key] for key in ("replicas", "sync_every", "outer_optimizer")] == [4, 5, "nesterov"]
    plain = loop.run(toy.config(), tmp_path / "plain")
    assert plain["replicas"] == 1 and plain["communicated_bytes"] == 0


def test_one_compile_serves_every_interval_and_outer_rate(tmp_path):
    loop.run(toy.config(**DILOCO), tmp_path / "first")
    changes = {"replicas.every": 3, "replicas.outer.lr": 0.5, "replicas.outer.momentum": 0.5}
    second = loop.run(toy.config(**DILOCO | changes), tmp_path / "second")
    assert second["compiles"] == 0 and second["compile_seconds"] == 0


def test_identity():
    """A run without replicas is the run that it was before there were any."""
    plain = resolve(toy.config())
    assert not any(key.startswith("replicas") for key in identity.semantic(plain))
    ids = {resolve(toy.config(**DILOCO | change)).derived.run_id for change in ({}, {"replicas.every": 6})}
    assert len({*ids, plain.derived.run_id}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas.count": 3}, "batch_size: 16 does not split over 3 replicas$"),
        (
            {"replicas.count": 4, "gradient_accumulation_steps": 8},
            "batch_size: 16 does not split over 4 replicas of 8 micro-batches",
        ),
        ({"replicas.count": 4, "mesh.replica": 8}, "replicas.count: 4 is not divisible by the mesh axis replica = 8"),
        ({"mesh.replica": 2}, "replicas.count: 1 is not divisible by the mesh axis replica = 2"),
        ({"replicas.count": 0}, "replicas.count: must be at least 1, got 0"),
        ({"replicas.count": 2, "replicas.every": 0}, "replicas.every: must be at least 1, got 0"),
        ({"replicas.every": 5}, "replicas.every: one replica alone has nothing to average"),
        ({"replicas.outer.name": "nesterof"}, "replicas.outer.name: no 'nesterof'; did you mean 'nesterov'"),
        ({"replicas.outer.lr": 0.5}, r"replicas.outer.lr is not used by average \(it uses no options\)"),
        (DILOCO | {"replicas.outer.lr": 0.0}, "replicas.outer.lr: must be positive"),
        (DILOCO | {"replicas.outer.momentum": 1.0}, r"replicas.outer.momentum: must be in \[0, 1\)"),
        (DILOCO | {"prune.sparsity": 0.5}, "prune: replicas that train apart would each cut other weights"),
        (DILOCO | {"optimizer.ema": 0.9}, "optimizer.ema: no running mean is kept with replicas"),
    ],
)
def test_contradictions_are_refused_while_planning(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**changes))


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="replicas.count: 4 is not divisible by the mesh axis replica = 8"):
        loop.run(toy.config(**DILOCO, **{"mesh.replica": -1}), tmp_path / "run")
    with pytest.raises(BadInput, match=r"batch_size: 16 is not divisible by 32 \(mesh .*replicas 4\)"):
        loop.run(toy.config(**DILOCO | {"mesh.data": 8}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
