"""A parameter server: exactly what its definition says, worker by worker, and plain training where there is one."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import toy
from tiers import tiered

from training import checkpoint, identity, loop, rng, schedule
from training.config import resolve
from training.errors import BadInput
from training.lines import read_metrics

FOUR = {"async_sgd.workers": 4, "mesh.data": 1}


def params(path):
    return jax.tree.map(np.asarray, checkpoint.load_params(path))


def who(config, step):
    """The worker that delivers."""
    if config.async_sgd.order == "round_robin":
        return step % config.async_sgd.workers
    return int(jax.random.randint(rng.key(config.seed, "worker", step), (), 0, config.async_sgd.workers))


def reference(config):
    """Each worker with its own copy, and one optimizer for the gradients as they come; the ages of the gradients."""
    config = resolve(config)
    task, steps = toy.build(config), config.derived.steps
    rates = config.optimizer.learning_rate * schedule.values(config.schedule, steps, config.derived.warmup_steps)
    theta = nn.meta.unbox(task.model.init(rng.key(config.seed, "init"), {}))["params"]
    decayed = jax.tree.map(lambda p: p.ndim == 2, theta)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adamw, static_args=("mask",))(
            learning_rate=0.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=decayed
        ),
    )
    moments = optimizer.init(theta)

    @jax.jit
    def gradient(theta, rows):
        def loss(theta):
            total, (sums, _) = task.model.loss(theta, {}, rows, None, {"dropout": 0.0})
            return total / sums["weight"]

        return jax.grad(loss)(theta)

    held, fetched, ages = [theta] * config.async_sgd.workers, [0] * config.async_sgd.workers, []
    for step in range(steps):
        worker = who(config, step)
        ages.append(step - fetched[worker])
        moments[1].hyperparams["learning_rate"] = rates[step]
        updates, moments = optimizer.update(gradient(held[worker], task.batch(step, slice(None))), moments, theta)
        theta = optax.apply_updates(theta, updates)
        held[worker], fetched[worker] = theta, step + 1
    return theta, ages


RANDOM = FOUR | {"async_sgd.order": "random", "async_sgd.workers": 3}


@pytest.mark.parametrize("changes", tiered([FOUR, RANDOM], [RANDOM]))
def test_gradients_are_those_of_what_the_worker_fetched(tmp_path, changes):
    loop.run(toy.config(**changes), tmp_path)
    theta, ages = reference(toy.config(**changes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params(tmp_path), theta)
    assert [line["staleness"] for line in read_metrics(tmp_path)] == ages
    assert max(ages) >= changes["async_sgd.workers"] - 1


def test_workers_that_deliver_by_turns_are_one_less_than_their_number_behind(tmp_path):
    result = loop.run(toy.config(**FOUR), tmp_path)
    ages = [line["staleness"] for line in read_metrics(tmp_path)]
    assert ages[:4] == [0, 1, 2, 3] and set(ages[3:]) == {3}
    assert (result["server_workers"], result["server_order"]) == (4, "round_robin")
    assert result["communicated_bytes"] == result["steps"] * result["params_total"] * 4 / 4


def test_devices_micro_batches_and_calls_leave_the_losses(tmp_path):
    losses = {}
    for name, changes in {
        "one": {},
        "mesh": {"mesh.data": 4, "mesh.fsdp": 2},
        "parts": {"gradient_accumulation_steps": 2},
        "calls": {"steps_per_call": 7},
    }.items():
        loop.run(toy.config(**FOUR | changes), tmp_path / name)
        losses[name] = [line["loss"] for line in read_metrics(tmp_path / name)]
        np.testing.assert_allclose(losses[name], losses["one"], rtol=1e-5, err_msg=name)


def test_a_cut_run_continues_bit_for_bit(tmp_path):
    config = toy.config(**FOUR, **{"checkpoint.every_steps": 3, "async_sgd.order": "random", "model.dropout": 0.1})
    whole = loop.run(config, tmp_path / "whole")

    def cut(step, line):
        if step >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(config, tmp_path / "cut", loggers=[cut])
    assert loop.run(config, tmp_path / "cut")["loss"] == whole["loss"]
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_every_worker_begins_with_the_parameters_of_another_run(tmp_path):
    loop.run(toy.config(), tmp_path / "parent")
    still = {"optimizer.learning_rate": 1e-30, "optimizer.weight_decay": 0.0, "init_from.run": str(tmp_path / "parent")}
    loop.run(toy.config(**FOUR, **still), tmp_path / "run")
    plain = loop.run(toy.config(**still), tmp_path / "plain")
    first = [read_metrics(tmp_path / name)[5]["loss"] for name in ("run", "plain")]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert plain["server_workers"] == 1


def test_identity():
    plain = resolve(toy.config())
    assert not any(key.startswith("server") for key in identity.semantic(plain))
    assert len({resolve(toy.config(**changes)).derived.run_id for changes in ({}, FOUR, {"async_sgd.workers": 5})}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"async_sgd.workers": 0}, "async_sgd.workers: must be at least 1, got 0"),
        (FOUR | {"async_sgd.order": "fifo"}, "async_sgd.order: 'fifo' is not one of round_robin, random"),
        (FOUR | {"replicas.count": 4}, "async_sgd.workers: replicas that synchronise have no parameter server"),
    ],
)
def test_contradictions_are_refused_while_planning(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**changes))
