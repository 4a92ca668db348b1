"""The state of a run: one pytree of arrays, whose step is also the position in the data."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training import mesh as meshes, optimizer as optimizers, rng
from training.nets.layers import wide
from training.task import Model


class State(flax.struct.PyTreeNode):
    """Everything a run needs to go on.

    `step` counts the optimizer steps done; `params` are what is evaluated and handed on; `stats` are the model's other
    collections (batch-norm means); `moments` are the optimizer's; `ema` is the running mean of the parameters, or None;
    `masks` say which parameters are not cut, or None; `teacher` are the parameters of another run's model, or None: they
    never change, and no checkpoint holds them; `replicas` are those of `training.replicas`, every leaf with an axis [M] in
    front, or None; `workers` are those of `training.async_sgd`, or None.
    """

    step: Any
    params: Any
    stats: Any
    moments: Any
    ema: Any
    masks: Any = None
    teacher: Any = None
    replicas: Any = None
    workers: Any = None

    @property
    def known(self) -> dict[str, Any]:
        """What the model reads beside its parameters: its other collections, and its teacher's parameters."""
        return self.stats if self.teacher is None else {**self.stats, "teacher": self.teacher}


def init(
    model: Model,
    transform: optax.GradientTransformation,
    ema: bool,
    seed: Any,
    hyper: Mapping[str, Any],
    masks: Callable[[Any], Any] = lambda params: None,
) -> State:
    """The state at step 0: a pure function of the seed; `hyper` may scale the initial values, `masks` makes masks."""
    variables = nn.meta.unbox(dict(model.init(rng.key(seed, "init"), hyper)))
    params, teacher = variables.pop("params"), variables.pop("teacher", None)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=variables,
        moments=transform.init(params),
        ema=jax.tree.map(lambda p: jnp.copy(wide(p)), params) if ema else None,
        masks=masks(params),
        teacher=teacher,
    )


def boxed(model: Model, hyper: Mapping[str, Any]) -> Any:
    """The abstract variables of a model, each leaf boxed with its logical axes."""
    return jax.eval_shape(model.init, jax.eval_shape(lambda: rng.key(0, "init")), hyper)


def shardings(abstract: State, variables: Any, mesh: Mesh) -> State:
    """The sharding of every leaf of a state.

    Moments lie as the parameters they belong to, found by the end of their path and their shape; anything else is whole
    on every device. What replicas hold lies so too, behind their own axis.
    """
    placed = meshes.shardings(variables, mesh)
    params = placed["params"]
    stats = {name: collection for name, collection in placed.items() if name not in ("params", "teacher")}
    by_path = {
        _names(path[1:]): (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path((abstract.params, abstract.stats)),
            jax.tree.leaves((params, stats)),
            strict=True,
        )
    }

    def like_its_namesake(path: Any, leaf: Any, ahead: tuple[str | None, ...] = ()) -> NamedSharding:
        names, shape = _names(path), leaf.shape[len(ahead) :]
        for start in range(len(names)):
            found, partition = by_path.get(names[start:], (None, ()))
            if found == shape:
                return NamedSharding(mesh, PartitionSpec(*ahead, *partition))
        return NamedSharding(mesh, PartitionSpec(*ahead))

    masks = abstract.masks
    if masks is not None:
        masks = jax.tree.map(lambda m, where: None if m is None else where, masks, params, is_leaf=lambda x: x is None)
    of_replicas = functools.partial(like_its_namesake, ahead=("replica",))
    of_workers = functools.partial(like_its_namesake, ahead=(None,))
    return State(
        step=meshes.replicated(mesh),
        params=params,
        stats=stats,
        moments=jax.tree_util.tree_map_with_path(like_its_namesake, abstract.moments),
        teacher=placed.get("teacher"),
        ema=None if abstract.ema is None else params,
        masks=masks,
        replicas=jax.tree_util.tree_map_with_path(of_replicas, abstract.replicas),
        workers=jax.tree_util.tree_map_with_path(of_workers, abstract.workers),
    )


def axes(variables: Any) -> Any:
    """The tree of logical axes of the parameters among boxed variables."""
    return optimizers.axes_of(variables["params"])


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)
