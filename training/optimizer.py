"""Optimizers by name from optax, with learning rate, decay and clipping as inputs of the step rather than constants.

The update is p <- p - lr * (u + weight_decay * m * p): decay is decoupled from the gradient (Loshchilov and Hutter
2019) and multiplied by the learning rate of the step, as in optax and PyTorch; m is 1 for the roles named in
`optimizer.weight_decay_roles`, and under `optimizer.cautious_weight_decay` only where u p >= 0. u is what the table's
transformation makes of the clipped gradient. Penalties l1 |p| + l2 p^2 / 2 on the same roles enter the gradient before it
is clipped; the reported loss leaves them out. `docs/optimizers.md` lists them with their equations and papers.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict
from optax import contrib

from training.errors import BadInput
from training.nets.primitives import upcast_to_f32
from training.registry import chosen
from training.types import Floats
from training.updates import hyperball, stacks
from training.updates.ademamix import ademamix
from training.updates.normuon import normuon
from training.updates.schedule_free import schedule_free
from training.updates.soap import soap

T = TypeVar("T")

ROLES = ("matrix", "embedding", "vector")
SHARED = {
    "name",
    "learning_rate",
    "weight_decay",
    "weight_decay_roles",
    "cautious_weight_decay",
    "clip",
    "ema",
    "qk_clip",
    "l1",
    "l2",
    "lr_multipliers",
}  # keys of every optimizer
MEANS = {"momentum", "b1", "b2", "b3"}  # options that say how much of a running mean a step keeps


class Optimizer(NamedTuple):
    """One optimizer: a row of `TABLE`.

    Attributes:
      build: (axes, **options) -> the transformation of gradients into u; `axes` is the tree of logical axes.
      options: with their defaults.
      weight_decay: where the config gives none.
      inputs: what the transformation's `update` takes by name beside gradients, state and parameters: "steps", the
        length of the run, or "lr", the learning rate of the step.
      positive: options that must not be 0.
      on_spheres: matrices keep their norms, which its state has as `radius`.
      averages: what is evaluated is an average that `training.updates.schedule_free` makes, the state's running mean.
    """

    build: Callable[..., optax.GradientTransformation]
    options: dict[str, float]
    weight_decay: float
    inputs: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    on_spheres: bool = False
    averages: bool = False


STACKS = ("layers", "gates", "expert")  # axes along which kernels are stacked


class Axes(NamedTuple):
    """The logical axes of one parameter, a leaf of its own."""

    names: tuple[str | None, ...]


def axes_of(boxed: PyTree[nn.LogicallyPartitioned]) -> PyTree[Axes]:
    """The tree of `Axes` of a tree of boxed parameters."""
    return jax.tree.map(lambda leaf: Axes(leaf.names), boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def role(axes: Axes) -> str:
    """`embedding` where the vocabulary or a position is an axis (the untied head too), `vector` below two dimensions
    a layer (norm scales, biases), else `matrix`."""
    names = [name for name in axes.names if name not in STACKS]
    if "vocab" in names or "position" in names:
        return "embedding"
    return "matrix" if len(names) >= 2 else "vector"


def matrix_axes(axes: Axes) -> tuple[int, ...]:
    """The axes of one matrix among those of a parameter of the role `matrix`, which may be a stack; () of another role."""
    if role(axes) != "matrix":
        return ()
    return tuple(i for i, name in enumerate(axes.names) if name not in STACKS)


def _with_axes(fn: Callable[..., T], axes: PyTree[Axes], *trees: PyTree[Any]) -> PyTree[T]:
    return jax.tree.map(fn, axes, *trees, is_leaf=lambda x: isinstance(x, Axes))


def _muon(axes: PyTree[Axes], momentum: float, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    # Without dimension numbers optax sends stacked (layers, in, out) kernels to Adam; every axis but those of stacks and
    # the last is reduced over.
    def dimensions(leaf: Axes) -> contrib.MuonDimensionNumbers | None:
        inner = matrix_axes(leaf)
        if not inner:
            return None
        return contrib.MuonDimensionNumbers(reduction_axis=inner[:-1], output_axis=inner[-1])

    numbers = _with_axes(dimensions, axes)
    muon = contrib.muon(
        learning_rate=1.0,
        beta=momentum,
        adam_b1=b1,
        adam_b2=b2,
        eps=eps,
        muon_weight_dimension_numbers=lambda params: numbers,
        # Updates as large as Adam's, so that one learning rate serves matrices and the rest (Liu et al. 2025, eq. 4).
        consistent_rms=0.2,
    )
    return optax.chain(muon, optax.scale(-1.0))


def _adafactor(axes: PyTree[Axes], decay_rate: float, eps: float) -> optax.GradientTransformation:
    return _of_each_layer(
        axes,
        optax.chain(
            optax.scale_by_factored_rms(decay_rate=decay_rate, epsilon=eps),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ),
    )


def _normuon(axes: PyTree[Axes], momentum: float, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    return _of_each_layer(axes, stacks.as_matrices(normuon(momentum, b2, eps)), optax.scale_by_adam(b1, b2, eps))


def _soap(
    axes: PyTree[Axes], b1: float, b2: float, eps: float, precondition_every: int
) -> optax.GradientTransformation:
    inner = stacks.as_matrices(soap(b1, b2, eps, precondition_every))
    return _of_each_layer(axes, inner, optax.scale_by_adam(b1, b2, eps))


class Spheres(NamedTuple):
    """The state of a hyperball optimizer: the norms that matrices keep, [stack] each (0: a free parameter), and the inner
    optimizer's state."""

    radius: PyTree[Float[Array, "..."]]
    inner: PyTree[Array]


def _on_spheres(axes: PyTree[Axes], inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The updates of `inner` scaled to the norms that matrices keep; `apply` brings the matrices back to them."""

    def start(axis: Axes, p: Array) -> Array:
        inside = matrix_axes(axis)
        stack = [size for i, size in enumerate(p.shape) if i not in inside] if inside else []
        return jnp.full(stack, hyperball.UNSET if inside else 0.0, p.dtype)

    def init(params: PyTree[Array]) -> Spheres:
        # Parameters may be boxed with their logical axes.
        radius = _with_axes(lambda axis, box: jax.tree.map(functools.partial(start, axis), box), axes, params)
        return Spheres(radius, inner.init(params))

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        before, moments = Spheres(*state)
        radius = _with_axes(
            lambda axis, r, p: hyperball.radius(r, p, inside) if (inside := matrix_axes(axis)) else r,
            axes,
            before,
            params,
        )
        updates, moments = inner.update(updates, moments, params)
        updates = _with_axes(lambda axis, u, r: hyperball.scaled(u, r, matrix_axes(axis)), axes, updates, radius)
        return updates, Spheres(radius, moments)

    return optax.GradientTransformation(init, update)


def _of_each_layer(
    axes: PyTree[Axes], inner: optax.GradientTransformation, others: optax.GradientTransformation | None = None
) -> optax.GradientTransformation:
    """`inner` applied to each matrix of a stack by itself, and `others` (None: `inner`) to all of another role."""

    def depth(leaf: Axes) -> int:
        if others is not None and role(leaf) != "matrix":
            return stacks.OTHER
        return sum(1 for _ in itertools.takewhile(STACKS.__contains__, leaf.names))

    return stacks.of_each_layer(_with_axes(depth, axes), inner, others)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same computed, and its moments kept, in float32 at least: in bfloat16 a second moment that moves by less than one
    part in 256 a step stands still."""

    def upcast(tree: Floats) -> Floats:
        return jax.tree.map(upcast_to_f32, tree)

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None, **inputs: jax.Array
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        return inner.update(upcast(updates), state, upcast(params), **inputs)

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(upcast(params)), update)


TABLE: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda axes: optax.identity(), {}, 0.0),
    "momentum": Optimizer(lambda axes, momentum: optax.trace(momentum), {"momentum": 0.9}, 0.0),
    "nesterov": Optimizer(lambda axes, momentum: optax.trace(momentum, nesterov=True), {"momentum": 0.9}, 0.0),
    "adam": Optimizer(
        lambda axes, b1, b2, eps: optax.scale_by_adam(b1, b2, eps), {"b1": 0.9, "b2": 0.999, "eps": 1e-8}, 0.0
    ),
    "adamw": Optimizer(
        lambda axes, b1, b2, eps: optax.scale_by_adam(b1, b2, eps), {"b1": 0.9, "b2": 0.95, "eps": 1e-8}, 0.1
    ),
    "adafactor": Optimizer(_adafactor, {"decay_rate": 0.8, "eps": 1e-30}, 0.0),
    "lion": Optimizer(lambda axes, b1, b2: optax.scale_by_lion(b1, b2), {"b1": 0.9, "b2": 0.99}, 0.1),
    "muon": Optimizer(_muon, {"momentum": 0.95, "b1": 0.9, "b2": 0.95, "eps": 1e-8}, 0.1),
    "normuon": Optimizer(_normuon, {"momentum": 0.95, "b1": 0.9, "b2": 0.95, "eps": 1e-8}, 0.1),
    "adamh": Optimizer(
        lambda axes, b1, b2, eps: _on_spheres(axes, optax.scale_by_adam(b1, b2, eps)),
        {"b1": 0.9, "b2": 0.95, "eps": 1e-8},
        0.0,
        on_spheres=True,
    ),
    "muonh": Optimizer(
        lambda axes, **own: _on_spheres(axes, _muon(axes, **own)),
        {"momentum": 0.95, "b1": 0.9, "b2": 0.95, "eps": 1e-8},
        0.0,
        on_spheres=True,
    ),
    "soap": Optimizer(
        _soap,
        {"b1": 0.95, "b2": 0.95, "eps": 1e-8, "precondition_every": 10},
        0.01,
        positive=("precondition_every",),
    ),
    "ademamix": Optimizer(
        lambda axes, **own: ademamix(**own),
        {"b1": 0.9, "b2": 0.999, "b3": 0.9999, "alpha": 5.0, "eps": 1e-8, "slow_warmup": 1.0},
        0.1,
        inputs=("steps",),
        positive=("b1", "b3"),
    ),
    "schedule_free": Optimizer(
        lambda axes, b1, b2, eps: schedule_free(b2, eps),
        {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        0.1,
        inputs=("lr",),
        averages=True,
    ),
}


def options(config: ConfigDict) -> dict[str, float]:
    """The options of the named optimizer.

    Raises:
      BadInput: an unknown name or role, an option that this optimizer does not use, or one out of range.
    """
    for name in config["weight_decay_roles"]:
        if name not in ROLES:
            raise BadInput(f"optimizer.weight_decay_roles: no role {name!r} (known: {', '.join(ROLES)})")
    found = chosen("optimizer", TABLE, config, SHARED)
    for name in MEANS & found.keys():
        if not 0 <= found[name] < 1:
            raise BadInput(f"optimizer.{name}: must be in [0, 1), got {found[name]}")
    for name, value in found.items():
        if value < 0 or (not value and name in TABLE[config["name"]].positive):
            raise BadInput(f"optimizer.{name}: must be {'at least 0' if value < 0 else 'positive'}, got {value}")
    return found


def check(config: ConfigDict) -> None:
    """Raise BadInput where the optimizer of a config contradicts itself or other sections."""
    section, name = config.optimizer, config.optimizer.name
    options(section)
    if TABLE[name].on_spheres:
        if weight_decay(section) and "matrix" in section.weight_decay_roles:
            raise BadInput(f"optimizer.weight_decay_roles: {name} keeps the norms of matrices: leave 'matrix' out")
        if config.prune.sparsity or config.prune.pattern:
            raise BadInput(f"prune: {name} would scale what is left of a matrix to the norm of the whole")
        if config.lora.rank:
            raise BadInput(f"lora.rank: {name} keeps the norms of matrices, and factors begin at zero")
    if section.qk_clip:
        _check_qk_clip(config)
    if TABLE[name].averages:
        if section.ema > 0:
            raise BadInput(f"optimizer.ema: {name} keeps an average of its own")
        if config.schedule.name != "constant":
            raise BadInput(f"schedule.name: {name} knows no schedule but a warmup; give 'constant'")


def _check_qk_clip(config: ConfigDict) -> None:
    section, name = config.optimizer, config.optimizer.name
    if not 0 < section.qk_clip < math.inf:
        raise BadInput(f"optimizer.qk_clip: must be positive, or 0 for none, got {section.qk_clip}")
    if TABLE[name].on_spheres or TABLE[name].averages:
        raise BadInput(f"optimizer.qk_clip: {name} would undo what scales its matrices; optimizer.qk_clip=0")
    if config.lora.rank or any(np.any(np.equal(factor, 0)) for _, factor in section.lr_multipliers):
        raise BadInput("optimizer.qk_clip: what is frozen cannot be scaled; optimizer.qk_clip=0")
    if config.replicas.count > 1 or config.async_sgd.workers > 1:
        raise BadInput("optimizer.qk_clip: replicas and workers would each scale other heads; optimizer.qk_clip=0")


def weight_decay(config: ConfigDict) -> float:
    """The weight decay of the config, or the named optimizer's own."""
    given = config["weight_decay"]
    return TABLE[config["name"]].weight_decay if given is None else given


def build(name: str, axes: PyTree[Axes], **own: float) -> optax.GradientTransformation:
    """The transformation that turns clipped gradients into updates u, in float32, before learning rate and decay."""
    return _in_float32(TABLE[name].build(axes, **own))


def penalised(
    grads: Floats, params: Floats, axes: PyTree[Axes], roles: tuple[str, ...], l1: jax.Array, l2: jax.Array
) -> Floats:
    """The gradients with those of the penalties l1 |p| + l2 p^2 / 2 on the parameters of these roles."""

    def leaf(axis: Axes, g: jax.Array, p: jax.Array) -> jax.Array:
        return (g + l1 * jnp.sign(p) + l2 * p).astype(g.dtype) if role(axis) in roles else g

    return jax.tree.map(leaf, axes, grads, params, is_leaf=lambda x: isinstance(x, Axes))


def clipped(grads: Floats, limit: jax.Array) -> tuple[Floats, Float[Array, ""]]:
    """Gradients scaled to a global norm of at most `limit` (infinity: never), and the norm before, summed in float32."""
    norm = optax.tree.norm(jax.tree.map(upcast_to_f32, grads))
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), norm


def running_mean(mean: Floats, params: Floats, decay: jax.Array, count: jax.Array) -> Floats:
    """The exponential running mean of the parameters after so many steps, in float32, without weight on where it began:
    mean + (1 - decay) / (1 - decay^count) * (p - mean), as Adam corrects its moments (Kingma and Ba 2015, section 3).

    Args:
      mean: the one before this step; after the first step nothing is left of it.
      params: after this step.
      decay: () float32, in (0, 1).
      count: steps, this one too; () int32.
    """
    weight = (1 - decay) / -jnp.expm1(count * jnp.log(decay))
    return jax.tree.map(lambda m, p: m + weight.astype(m.dtype) * (p.astype(m.dtype) - m), mean, params)


def apply(
    params: Floats,
    updates: Floats,
    axes: PyTree[Axes],
    roles: tuple[str, ...],
    lr: jax.Array,
    decay: jax.Array,
    factors: PyTree[np.ndarray] | None = None,
    cautious: bool = False,
    radii: PyTree[Array] | None = None,
    decayed: Floats | None = None,
    decay_factors: PyTree[np.ndarray] | None = None,
) -> Floats:
    """One update, p - lr * f * (u + decay * g * m * p), in the precision of the parameters.

    Args:
      params: p.
      updates: u, what the transformation made of the gradients.
      axes: of the parameters.
      roles: those that decay: m is 1 there, and 0 elsewhere.
      lr: the learning rate of the step.
      decay: the coefficient of weight decay.
      factors: f by parameter, as `training.transfer.lr_multipliers` makes them; None: 1.
      cautious: m is also 0 where u p < 0, entry by entry.
      radii: norms by parameter that matrices are scaled to after the update, where they are not 0; None: none are.
      decayed: what stands for p in the decay; None: p.
      decay_factors: g by parameter, as `training.parametrization.tree` makes them; None: 1.
    Source:
      of the cautious decay: Chen et al. 2025, "Cautious weight decay", arXiv 2510.12402, algorithm 1.
    """

    def leaf(axis: Axes, p: jax.Array, u: jax.Array, *rest: jax.Array | np.ndarray) -> jax.Array:
        own = dict(zip(given, rest, strict=True))
        step = u.astype(jnp.float32)
        if role(axis) in roles:
            of = own.get("decayed", p)
            coefficient = decay * own["decay_factors"] if "decay_factors" in own else decay
            step = step + coefficient * (jnp.where(step * of >= 0, of, 0) if cautious else of)
        moved = p - (lr * own["factors"] if "factors" in own else lr) * step
        if "radii" in own:
            moved = hyperball.scaled(moved, jnp.asarray(own["radii"]), matrix_axes(axis))
            if "factors" in own:
                moved = jnp.where(own["factors"] == 0, p, moved)  # what is frozen stays as it is to the last bit
        return moved.astype(p.dtype)

    optional = {"factors": factors, "radii": radii, "decayed": decayed, "decay_factors": decay_factors}
    given = {name: tree for name, tree in optional.items() if tree is not None}
    return _with_axes(leaf, axes, params, updates, *given.values())
