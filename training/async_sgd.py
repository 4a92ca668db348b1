"""Asynchronous SGD, simulated exactly: a parameter server and W workers that send it gradients of parameters they fetched
some steps ago (Dean et al. 2012, "Large scale distributed deep networks", section 4.1; Ho et al. 2013).

At every step of the server one worker delivers: the gradient of that step's batch at the parameters that the worker holds.
The server's optimizer takes it as it comes, and the worker fetches the new parameters. Workers deliver by turns
("round_robin"), which makes every gradient W - 1 steps old once each has delivered, or each step draws the one that does
("random"), which makes ages geometric with the same mean. The age is the metric `staleness`; the loss and gradient norm of
a step are those that the worker saw. Everything is a function of (seed, step), and one worker alone is plain training.
"""

from collections.abc import Callable
from typing import TypeVar, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from training import optimizer as optimizers, replicas, rng
from training.errors import BadInput
from training.state import State
from training.types import Batch, Metrics, Params, Record

T = TypeVar("T")

ORDERS = ("round_robin", "random")


@no_type_check
class Workers(flax.struct.PyTreeNode):
    """What workers hold: the step at which each fetched its parameters [W], and these, with an axis [W] in front."""

    fetched: Int[Array, " workers"]
    params: Params


def check(config: ConfigDict) -> None:
    """Raise BadInput where the section `async_sgd` contradicts itself or others."""
    section = config.async_sgd
    if section.workers < 1:
        raise BadInput(f"async_sgd.workers: must be at least 1, got {section.workers}")
    if section.order not in ORDERS:
        raise BadInput(f"async_sgd.order: {section.order!r} is not one of {', '.join(ORDERS)}")
    if section.workers > 1 and replicas.scheme(config) is not None:
        raise BadInput("async_sgd.workers: replicas that synchronise have no parameter server; give one of the two")
    if section.workers > 1 and optimizers.TABLE[config.optimizer.name].averages:
        raise BadInput(
            f"optimizer.name: {config.optimizer.name} says where gradients are taken, and workers take them elsewhere"
        )


def initial(count: int, state: State) -> State:
    """The state at step 0, whose parameters every worker has fetched."""
    return state.replace(workers=Workers(jnp.zeros(count, jnp.int32), _copies(state.params, count)))


def follow(state: State) -> State:
    """The state with its parameters in the hands of every worker."""
    return state.replace(workers=state.workers.replace(params=_copies(state.params, len(state.workers.fetched))))


def step(
    order: str,
    inner: Callable[[State, Batch, Key[Array, ""], Params], tuple[State, Metrics]],
    state: State,
    batch: Batch,
    seed: Int[Array, ""],
    key: jax.Array,
) -> tuple[State, Metrics]:
    """One step of the server.

    Args:
      order: a name in `ORDERS`.
      inner: (state, batch, key, grad_params) -> (state, metrics), a step whose gradient is that at `grad_params`.
      seed: of the run; it draws who delivers.
    """
    workers = state.workers
    count = len(workers.fetched)
    draw = rng.key(seed, "worker", state.step)
    who = state.step % count if order == "round_robin" else jax.random.randint(draw, (), 0, count)
    held = jax.tree.map(lambda x: x[who], workers.params)
    staleness = (state.step - workers.fetched[who]).astype(jnp.float32)
    after, metrics = inner(state, batch, key, held)
    workers = Workers(
        workers.fetched.at[who].set(after.step),
        jax.tree.map(lambda copies, p: copies.at[who].set(p), workers.params, after.params),
    )
    return after.replace(workers=workers), metrics | {"staleness": staleness}


def record(config: ConfigDict, params: int, steps: int) -> Record:
    """Record entries: the workers, and the bytes each sends as gradients, which are those that it fetches as parameters."""
    count = config.async_sgd.workers
    if count == 1:
        return {"server_workers": 1}
    sent = steps * params * jnp.dtype(config.precision.params).itemsize / count
    return {"server_workers": count, "server_order": config.async_sgd.order, "communicated_bytes": sent}


def _copies(tree: T, count: int) -> T:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)
