"""The state of a run: one pytree of arrays, whose step is also the position in the data."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from training import mesh as meshes, optimizer as optimizers, rng
from training.gradient_noise import Noise
from training.nets.primitives import upcast_to_f32
from training.optimizer import Axes
from training.spike_guard import Guard
from training.task import Model
from training.types import Collections, HostScalars, Masks, Params, Scalars, Variables


@no_type_check
class State(flax.struct.PyTreeNode):
    """Everything a run needs to go on.

    `step` counts the optimizer steps done; `params` are what is evaluated and handed on; `stats` are the model's other
    collections (batch-norm means); `moments` are the optimizer's; `ema` is the running mean of the parameters (of a
    schedule-free optimizer its average), which is then what is evaluated and handed on, or None;
    `masks` say which parameters are not cut, or None; `teacher` are the parameters of another run's model, or None: they
    never change, and no checkpoint holds them; `replicas` are those of `training.replicas`, every leaf with an axis [M] in
    front, or None; `workers` are those of `training.async_sgd`, or None; `guard` is that of `training.spike_guard`, or None;
    `noise` are the means of `training.gradient_noise`, or None.
    """

    step: Int[Array, ""]
    params: Params
    stats: Collections
    moments: PyTree[Array]
    ema: Params | None
    masks: Masks = None
    teacher: Params | None = None
    replicas: Any = None
    workers: Any = None
    guard: Guard | None = None
    noise: Noise | None = None


def init(
    model: Model,
    transform: optax.GradientTransformation,
    ema: bool,
    seed: Int[Array, ""] | int,
    hyper: Scalars,
    masks: Callable[[Params], Masks] = lambda params: None,
    unbox: Callable[[Variables], Variables] = nn.meta.unbox,
    guard: Guard | None = None,
    scaled: Callable[[Params], Params] = lambda params: params,
) -> State:
    """The state at step 0: a pure function of the seed.

    Args:
      model: draws the parameters.
      transform: makes the moments.
      ema: whether a running mean of the parameters is kept.
      seed: () int32.
      hyper: scalars, which may scale the initial values.
      masks: makes masks of the parameters.
      unbox: takes the logical axes off the variables, or leaves them.
      guard: against spikes, before the first step.
      scaled: brings the parameters to their initial scale.
    """
    variables = unbox(dict(model.init(rng.key(seed, "init"), hyper)))
    params, teacher = scaled(variables.pop("params")), variables.pop("teacher", None)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=variables,
        moments=transform.init(params),
        ema=jax.tree.map(lambda p: jnp.copy(upcast_to_f32(p)), params) if ema else None,
        masks=masks(params),
        teacher=teacher,
        guard=guard,
    )


def boxed(model: Model, hyper: HostScalars | Mapping[str, jax.ShapeDtypeStruct]) -> Variables:
    """The abstract variables of a model, each leaf boxed with its logical axes."""
    return jax.eval_shape(model.init, jax.eval_shape(lambda: rng.key(0, "init")), hyper)


def shardings(abstract: State, boxed: State, variables: Variables, mesh: Mesh) -> State:
    """The sharding of every leaf of a state.

    What the optimizer makes of a parameter and what replicas and workers hold of it carry its logical axes, and lie as it
    does, the latter two behind an axis of their own; a leaf of another rank, such as a factored moment, is whole on every
    device.

    Args:
      abstract: the state.
      boxed: the same made of boxed variables: each leaf that is of a parameter is boxed with its logical axes.
      variables: of the model, boxed.
    """

    def place(
        names: tuple[str | None, ...], ahead: tuple[str | None, ...], leaf: jax.ShapeDtypeStruct
    ) -> NamedSharding:
        shape = leaf.shape[len(ahead) :]
        partition = meshes.partition(names, shape, mesh) if len(names) == len(shape) else ()
        return NamedSharding(mesh, PartitionSpec(*ahead, *partition))

    def place_all(
        tree: PyTree[nn.LogicallyPartitioned | jax.ShapeDtypeStruct], *ahead: str | None
    ) -> PyTree[NamedSharding]:
        def of_box(
            box: nn.LogicallyPartitioned | jax.ShapeDtypeStruct,
        ) -> PyTree[NamedSharding]:  # which holds an array, or nothing where the optimizer leaves the parameter out
            return jax.tree.map(functools.partial(place, getattr(box, "names", ()), ahead), nn.meta.unbox(box))

        return jax.tree.map(of_box, tree, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))

    placed = meshes.shardings(variables, mesh)
    params, masks = placed["params"], abstract.masks
    if masks is not None:
        masks = jax.tree.map(lambda m, where: None if m is None else where, masks, params, is_leaf=lambda x: x is None)
    return abstract.replace(
        step=meshes.replicated(mesh),
        params=params,
        stats={name: collection for name, collection in placed.items() if name not in ("params", "teacher")},
        moments=place_all(boxed.moments),
        teacher=placed.get("teacher"),
        ema=None if abstract.ema is None else params,
        masks=masks,
        replicas=place_all(boxed.replicas, "replica"),
        workers=place_all(boxed.workers, None),
        guard=jax.tree.map(lambda _: meshes.replicated(mesh), abstract.guard),
        noise=jax.tree.map(lambda _: meshes.replicated(mesh), abstract.noise),
    )


def axes(variables: Variables) -> PyTree[Axes]:
    """The tree of logical axes of the parameters among boxed variables."""
    return optimizers.axes_of(variables["params"])


def finite(tree: PyTree[Array]) -> bool:
    """Whether all floating-point values of a tree of arrays are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if jax.default_backend() == "cpu" and jax.process_count() == 1:  # on the host, where nothing is compiled for it
        return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in leaves)
    return bool(_all_finite(leaves))


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
