"""Replicas that train apart and synchronise from time to time: local SGD (Stich 2019, arXiv 1805.09767) and DiLoCo
(Douillard et al. 2023, arXiv 2311.08105, algorithm 1).

Each of M replicas takes every step of the inner optimizer on its share of the rows of the batch, with its own moments,
clipping and dropout. After every H steps, and after the last step of the run, the outer gradient goes through the outer
optimizer: the outer parameters less the mean of the replicas', which then all go on from the new outer parameters. Moments
stay with their replica; other statistics (batch norm) are averaged.

The outer parameters are the run's: `State.params` is what is evaluated, saved and handed on, and stands still between two
synchronisations; `State.moments` belong to the outer optimizer. `State.replicas` is a `State` with an axis [M] in front of
every leaf, laid along the mesh axis `replica`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, Shaped
from ml_collections import ConfigDict

from training import mesh as meshes, optimizer as optimizers
from training.errors import BadInput
from training.registry import chosen
from training.state import State
from training.types import Batch, Metrics, Record, Scalars

ReplicaStep = Callable[[State, Batch, Key[Array, ""]], tuple[State, Metrics]]

T = TypeVar("T")


class Outer(NamedTuple):
    """`build(momentum)` gives the transformation of the outer gradient, which the outer learning rate then scales."""

    build: Callable[[float | Float[Array, ""]], optax.GradientTransformation]
    options: dict[str, float]


TABLE: dict[str, Outer] = {
    "average": Outer(lambda momentum: optax.identity(), {}),  # the mean of the replicas: a learning rate of 1
    "sgd": Outer(lambda momentum: optax.identity(), {"lr": 0.7}),
    "nesterov": Outer(lambda momentum: optax.trace(momentum, nesterov=True), {"lr": 0.7, "momentum": 0.9}),
}


class Scheme(NamedTuple):
    """What a compiled step depends on: the number of replicas and the name of the outer optimizer."""

    count: int
    outer: str


def scheme(config: ConfigDict) -> Scheme | None:
    """The scheme of a config; None where one replica and no outer optimizer leave plain training."""
    section = config.replicas
    plain = section.count == 1 and section.outer.name == "average"
    return None if plain else Scheme(section.count, section.outer.name)


def check(config: ConfigDict) -> None:
    """Raise BadInput where the section `replicas` contradicts itself or others."""
    section = config.replicas
    options = chosen("replicas.outer", TABLE, section.outer, {"name"})
    for key in ("count", "every"):
        if section[key] < 1:
            raise BadInput(f"replicas.{key}: must be at least 1, got {section[key]}")
    if options.get("lr", 1.0) <= 0:
        raise BadInput(f"replicas.outer.lr: must be positive, got {options['lr']}")
    if not 0 <= options.get("momentum", 0.0) < 1:
        raise BadInput(f"replicas.outer.momentum: must be in [0, 1), got {options['momentum']}")
    if scheme(config) is None:
        if section.every > 1:
            raise BadInput(
                "replicas.every: one replica alone has nothing to average; give replicas.count or outer.name"
            )
    elif config.prune.sparsity or config.prune.pattern:
        raise BadInput("prune: replicas that train apart would each cut other weights")
    elif config.optimizer.ema > 0:
        raise BadInput(
            "optimizer.ema: no running mean is kept with replicas, whose outer parameters change once a round"
        )
    elif optimizers.TABLE[config.optimizer.name].averages:
        raise BadInput(f"optimizer.name: {config.optimizer.name} keeps an average, and replicas keep none")


def check_split(config: ConfigDict, ways: int) -> None:
    """Raise BadInput where replicas do not split evenly over `ways` of the mesh axis (-1: not known yet), or the batch
    over the replicas."""
    count, parts = config.replicas.count, config.gradient_accumulation_steps
    if count % max(ways, 1):
        raise BadInput(f"replicas.count: {count} is not divisible by the mesh axis replica = {ways}")
    if config.batch_size is not None and config.batch_size % (count * parts):
        of = f" of {parts} micro-batches" if parts > 1 else ""
        raise BadInput(f"batch_size: {config.batch_size} does not split over {count} replicas{of}")


def hyper(config: ConfigDict) -> dict[str, float]:
    """The scalars of a synchronisation that enter the step as arrays."""
    if scheme(config) is None:
        return {}
    options = chosen("replicas.outer", TABLE, config.replicas.outer, {"name"})
    return {
        "outer_lr": options.get("lr", 1.0),
        "outer_momentum": options.get("momentum", 0.0),
        "sync_every": config.replicas.every,
        "last_step": config.derived.steps,
    }


def initial(scheme: Scheme, state: State) -> State:
    """The state at step 0, of which every replica is a copy."""
    moments = TABLE[scheme.outer].build(0.0).init(state.params)
    return state.replace(moments=moments, replicas=_copies(state.replace(teacher=None), scheme.count))


def follow(state: State) -> State:
    """The state with every replica at the outer parameters and statistics."""
    params, stats = _copies((state.params, state.stats), len(state.replicas.step))
    return state.replace(replicas=state.replicas.replace(params=params, stats=stats))


def step(
    scheme: Scheme,
    inner: ReplicaStep,
    state: State,
    batch: Batch,
    key: jax.Array,
    hyper: Scalars,
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One step of every replica, and a synchronisation where one is due.

    Args:
      inner: (state, batch, key) -> (state, metrics), the step of one replica.
      batch: arrays [batch, ...]; replica m takes the m-th of M equal runs of rows.
      key: each replica folds in its number.
      hyper: "outer_lr", "outer_momentum", "sync_every" and "last_step" among others.
    Returns:
      The next state, and the mean of each metric over the replicas.
    """

    def one(replica: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        after, metrics = inner(replica.replace(teacher=state.teacher), batch, key)  # they share their teacher
        return after.replace(teacher=None), metrics

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(scheme.count))
    shares = jax.tree.map(lambda x: _shared(x, scheme.count), batch)
    replicas, metrics = _each(one, scheme.count)(state.replicas, shares, keys)
    state = state.replace(step=state.step + 1, replicas=replicas)
    every, last = (hyper[name].astype(jnp.int32) for name in ("sync_every", "last_step"))
    due = (state.step % every == 0) | (state.step == last)
    state = jax.lax.cond(due, lambda state: synchronised(scheme, state, hyper), lambda state: state, state)
    return state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)


def synchronised(scheme: Scheme, state: State, hyper: Scalars) -> State:
    """The state after a step of the outer optimizer, from which all replicas go on."""

    def gradient(p: jax.Array, copies: jax.Array) -> jax.Array:
        return jnp.mean(p.astype(jnp.float32) - copies, axis=0).astype(p.dtype)  # exactly 0 for what is frozen

    def applied(p: jax.Array, u: jax.Array) -> jax.Array:
        return (p - hyper["outer_lr"] * u.astype(jnp.float32)).astype(p.dtype)

    grads = jax.tree.map(gradient, state.params, state.replicas.params)
    updates, moments = TABLE[scheme.outer].build(hyper["outer_momentum"]).update(grads, state.moments)
    params = jax.tree.map(applied, state.params, updates)
    stats = jax.tree.map(lambda x: jnp.mean(x, axis=0).astype(x.dtype), state.replicas.stats)
    return follow(state.replace(params=params, stats=stats, moments=moments))


def record(config: ConfigDict, params: int, steps: int) -> Record:
    """Record entries of the replicas after `steps` steps.

    `communicated_bytes` is what each replica sends over the run, and receives as well: 2 (M - 1) / M of the parameters, in
    their own precision, at each synchronisation, as a ring all-reduce does. `communicated_bytes_data_parallel` is the same
    for a gradient at every step. What the devices of one replica tell each other is not counted.
    """
    section = config.replicas
    rounds = steps // section.every + (steps == config.derived.steps and steps % section.every > 0)
    once = 2 * (section.count - 1) / section.count * params * jnp.dtype(config.precision.params).itemsize
    return {
        "replicas": section.count,
        "sync_every": section.every,
        "outer_optimizer": section.outer.name,
        "communicated_bytes": rounds * once,
        "communicated_bytes_data_parallel": steps * once,
    }


def _each(inner: ReplicaStep, count: int) -> ReplicaStep:
    if count > 1:
        return jax.vmap(inner, spmd_axis_name="replica")

    def alone(*arguments: Any) -> Any:  # without the axis: a step took 1.3 times as long with one of length 1
        return jax.tree.map(lambda x: x[None], inner(*jax.tree.map(lambda x: x[0], arguments)))

    return alone


def _copies(tree: T, count: int) -> T:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)


def _shared(x: Shaped[Array, "batch ..."], count: int) -> Shaped[Array, "replica rows ..."]:
    x = x.reshape(count, x.shape[0] // count, *x.shape[1:])
    return meshes.constrain(x, "replica", "batch", *(None,) * (x.ndim - 2))
