"""The gradient noise scale: unbiased on gradients of known covariance, and in a run that of its micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from training import checkpoint, gradient_noise, loop
from training.config import resolve
from training.errors import BadInput
from training.lines import read_metrics


def test_both_estimates_are_unbiased():
    """Gradients of a quadratic, p - x with x normal around 0: |G|^2 = |p|^2, and the covariance is that of x."""
    rng, p, deviations = np.random.default_rng(0), np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 2.0])
    draws = p - deviations * rng.normal(size=(4000, 4, 8, 3))  # steps, micro-batches, examples
    micro = np.square(draws.mean(2)).sum(-1).mean(1)
    whole = np.square(draws.mean((1, 2))).sum(-1)
    squares, traces = gradient_noise.estimates(micro, whole, 8, 32)
    for values, truth in ((squares, np.square(p).sum()), (traces, np.square(deviations).sum())):
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    noise = gradient_noise.initial(500)
    step = jax.jit(lambda noise, micro, whole: gradient_noise.updated(noise, micro, whole, 4, 32, 500)[0])
    for values in zip(jnp.float32(micro), jnp.float32(whole), strict=True):
        noise = step(noise, *values)
    assert gradient_noise.record(noise)["gradient_noise_scale"] == pytest.approx(14 / 5.25, rel=0.2)
    assert step(noise, jnp.float32(np.nan), jnp.float32(1)) == noise


def test_a_run_measures_its_micro_batches(tmp_path):
    """At a rate near zero the parameters stay: the gradients of each quarter of a batch, taken one by one."""
    changes = {"gradient_accumulation_steps": 4, "log.gradient_noise": 10, "duration.steps": 3, "mesh.data": 1}
    config = toy.config(**changes, **{"optimizer.learning_rate": 1e-9, "optimizer.clip": 0.1})
    result = loop.run(config, tmp_path)
    task = toy.build(resolve(config))
    hyper = {name: jnp.float32(value) for name, value in task.hyper().items()}
    params = jax.tree.map(jnp.asarray, checkpoint.load_params(tmp_path))
    sums = np.zeros(2)
    for k, line in enumerate(read_metrics(tmp_path)):
        whole = task.batch(k, slice(0, 16))
        grads = []
        for part in range(4):
            rows = {name: array[part::4] for name, array in whole.items()}
            grad = jax.grad(lambda p, rows=rows: task.model.loss(p, {}, rows, jax.random.key(0), hyper)[0])(params)
            grads.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grad)]))
        weights = [whole["weight"][part::4].sum() for part in range(4)]  # examples weigh differently
        micro = np.mean([g @ g / w**2 for g, w in zip(grads, weights, strict=True)])
        mean = np.sum(grads, axis=0) / np.sum(weights)
        square, trace = (16 * mean @ mean - 4 * micro) / 12, (micro - mean @ mean) / (1 / 4 - 1 / 16)
        assert line["gradient_noise/square"] == pytest.approx(square, rel=1e-3)
        assert line["gradient_noise/trace"] == pytest.approx(trace, rel=1e-3)
        sums = sums + (np.array([trace, square]) - sums) / 10
    assert result["gradient_noise_scale"] == pytest.approx(sums[0] / sums[1], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "log.gradient_noise: compares micro-batches; gradient_accumulation_steps of 2 or more, got 1"),
        ({"log.gradient_noise": -1}, "log.gradient_noise: must not be negative, got -1"),
        ({"replicas.count": 2, "gradient_accumulation_steps": 2}, "log.gradient_noise: replicas and workers"),
    ],
)
def test_where_there_is_none(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(toy.config(**{"log.gradient_noise": 10} | changes))
