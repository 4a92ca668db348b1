"""The state of a run: one pytree of arrays, whose step is also the position in the data."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from training import mesh as meshes, optimizer as optimizers, rng
from training.task import Model


class State(flax.struct.PyTreeNode):
    """Everything a run needs to go on.

    `step` counts the optimizer steps done; `stats` are the model's other collections (batch-norm means); `moments` are
    the optimizer's; `ema` is the running mean of the parameters, or None; `masks` say which parameters are not cut, or None;
    `teacher` are the parameters of another run's model, or None: they never change, and no checkpoint holds them.
    """

    step: Any
    params: Any
    stats: Any
    moments: Any
    ema: Any
    masks: Any = None
    teacher: Any = None

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
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        masks=masks(params),
        teacher=teacher,
    )


def boxed(model: Model, hyper: Mapping[str, Any]) -> Any:
    """The abstract variables of a model, each leaf boxed with its logical axes."""
    return jax.eval_shape(model.init, jax.eval_shape(lambda: rng.key(0, "init")), hyper)


def shardings(abstract: State, variables: Any, mesh: Mesh) -> State:
    """The sharding of every leaf of a state.

    Moments lie as the parameters they belong to, found by the end of their path and their shape; anything else is whole
    on every device.
    """
    placed = meshes.shardings(variables, mesh)
    params = placed["params"]
    by_path = {
        _names(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract.params), jax.tree.leaves(params), strict=True
        )
    }
    whole = meshes.replicated(mesh)

    def like_a_parameter(path: Any, leaf: Any) -> Any:
        names = _names(path)
        for start in range(len(names)):
            shape, sharding = by_path.get(names[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return whole

    masks = abstract.masks
    if masks is not None:
        masks = jax.tree.map(lambda m, where: None if m is None else where, masks, params, is_leaf=lambda x: x is None)
    return State(
        step=whole,
        params=params,
        stats={name: collection for name, collection in placed.items() if name not in ("params", "teacher")},
        moments=jax.tree_util.tree_map_with_path(like_a_parameter, abstract.moments),
        teacher=placed.get("teacher"),
        ema=None if abstract.ema is None else params,
        masks=masks,
    )


def axes(variables: Any) -> Any:
    """The tree of logical axes of the parameters among boxed variables."""
    return optimizers.axes_of(variables["params"])


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)
