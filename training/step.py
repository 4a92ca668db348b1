"""The pure train and evaluation steps, and the one place where they are jitted."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from training import (
    async_sgd,
    compiler_options,
    gradient_noise,
    mesh as meshes,
    optimizer as optimizers,
    parametrization,
    replicas,
    rng,
    spike_guard,
    state as states,
    statistics,
    transfer,
    transforms,
)
from training.errors import BadInput
from training.nets import probes
from training.optimizer import Axes
from training.state import State
from training.step_spec import StepSpec
from training.task import QKClipped
from training.transforms import lora, prune
from training.types import ArrayOrNumpy, Batch, Collections, HostScalars, Loss, Metrics, Params, Scalars, Variables
from training.updates import schedule_free

Sums = tuple[Metrics, Collections, Params]  # over micro-batches: for the metrics, of the collections, and of gradients


@dataclasses.dataclass(frozen=True, eq=False)
class Jitted:
    """A function under `jax.jit` for arguments of one shape, on one mesh; compiled at its first call.

    Attributes:
      function: jitted.
      arguments: abstract, with their shardings.
      mesh: that it is traced under.
      matmul: precision of its products, as in `precision.matmul`.
      options: of the compiler.
    """

    function: jax.stages.Wrapped
    arguments: tuple[PyTree[jax.ShapeDtypeStruct | ArrayOrNumpy], ...]
    mesh: Mesh
    matmul: str
    options: dict[str, str | bool] | None = None

    def __call__(self, *arguments: PyTree[ArrayLike]) -> Any:
        with _settings(self.matmul, self.mesh):
            return self.function(*arguments)

    def lower(self) -> jax.stages.Lowered:
        """The function traced, for a caller that compiles it ahead of its first call."""
        with _settings(self.matmul, self.mesh):
            return self.function.lower(*self.arguments)


class Programs(NamedTuple):
    """The programs of one spec on one mesh, and what goes into them and comes out.

    Attributes:
      init: (seed, hyper) -> state.
      train: (state, batches, lr, seed, hyper) -> (state, metrics); the state that enters is overwritten.
      shardings: of the state of a run.
      abstract: its shapes.
      variables: of the model, abstract and boxed with their logical axes.
    """

    init: Jitted
    train: Jitted
    shardings: State
    abstract: State
    variables: Variables


class Gradient(NamedTuple):
    """The gradient of a batch, and what the passes forward and back say besides.

    Attributes:
      params: at which it is taken.
      mean: the gradient of the mean loss, of the shape of the parameters.
      weight: of the batch, that sums are divided by; ().
      sums: of the model's metrics over the batch.
      probes: what blocks report by layer, see `training.nets.probes`.
      stats: the model's collections after the batch.
      noise: the running means of the gradient noise scale; None: it is not measured.
      noise_metrics: of this step.
    """

    params: Params
    mean: Params
    weight: Float[Array, ""]
    sums: Metrics
    probes: Metrics
    stats: Collections
    noise: gradient_noise.Noise | None
    noise_metrics: Metrics


def train_step(
    spec: StepSpec,
    transform: optax.GradientTransformation,
    axes: PyTree[Axes],
    state: State,
    batch: Batch,
    lr: Float[Array, ""],
    key: Key[Array, ""],
    hyper: Scalars,
    grad_params: Params | None = None,
) -> tuple[State, Metrics]:
    """One optimizer step, of the run or of one of its replicas.

    Args:
      state: the state after `state.step` steps.
      batch: arrays [batch, ...].
      lr: the learning rate of this step; () float32.
      key: of dropout; each micro-batch folds in its number.
      hyper: scalars: "weight_decay", "clip", "ema", "l1", "l2" and the model's own.
      grad_params: parameters at which the gradient is taken; None: those of `state`, which the update is applied to.
    Returns:
      The next state, and metrics: "loss", "grad_norm" and the model's own, averaged over the weight of the whole batch.
    """
    due = None
    if spec.statistics:
        due = statistics.due(spec.statistics, state.step)
        hyper = {**hyper, "statistics": due.astype(jnp.float32)}
    gradient = _gradient(spec, axes, state, batch, key, hyper, grad_params)
    params, moments, norm = _updated(spec, transform, axes, state, gradient, lr, hyper)
    params, clip_metrics = _qk_clipped(spec, params, gradient, hyper)
    ema = _averaged(spec, state, params, moments, lr, hyper)
    metrics = {name: value / gradient.weight for name, value in gradient.sums.items()} | {"grad_norm": norm}
    metrics |= gradient.noise_metrics | clip_metrics
    if due is not None:
        metrics |= statistics.of_step(due, gradient.probes, gradient.weight, state.params, params, axes)
    new, guard = (params, gradient.stats, moments, ema), None
    if state.guard is not None:
        old = (state.params, state.stats, state.moments, state.ema)
        new, guard, metrics = spike_guard.applied(state.guard, metrics, hyper["spike_sigmas"], old, new)
    params, stats, moments, ema = new
    after = state.replace(
        step=state.step + 1, params=params, stats=stats, moments=moments, ema=ema, guard=guard, noise=gradient.noise
    )
    return pruned(spec, axes, after, hyper), metrics


def _gradient(
    spec: StepSpec,
    axes: PyTree[Axes],
    state: State,
    batch: Batch,
    key: Key[Array, ""],
    hyper: Scalars,
    grad_params: Params | None,
) -> Gradient:
    """The gradient of a batch, whole or in micro-batches; arguments as in `train_step`."""
    loss, parts = spec.model.loss, spec.gradient_accumulation_steps
    if spec.transforms != transforms.Transforms():
        loss = transforms.within(spec.transforms, loss, axes, state.masks, hyper)
    collections = state.stats if state.teacher is None else {**state.stats, "teacher": state.teacher}
    differentiate = jax.value_and_grad(loss, has_aux=True)
    if state.noise is not None:
        differentiate = gradient_noise.watched(differentiate)
    if optimizers.TABLE[spec.optimizer].averages and state.ema is not None:
        grad_params = schedule_free.point(state.params, state.ema, dict(spec.options)["b1"])
    grad_params = state.params if grad_params is None else grad_params
    if parts == 1:
        (_, (sums, stats)), grads = differentiate(grad_params, collections, batch, key, hyper)
    else:
        sums, stats, grads = _accumulated(differentiate, parts, grad_params, collections, batch, key, hyper)
    weight = sums.pop("weight")
    reported = {name: sums.pop(name) for name in (probes.SQUARE, *probes.MAXIMA) if name in sums}
    grads = jax.tree.map(lambda g: (g / weight).astype(g.dtype), grads)
    noise, noise_metrics = None, {}
    if state.noise is not None:
        size = len(jax.tree.leaves(batch)[0])
        micro, whole = sums.pop(gradient_noise.MICRO) / parts, gradient_noise.square(grads)
        noise, noise_metrics = gradient_noise.updated(state.noise, micro, whole, parts, size, spec.noise_span)
    return Gradient(grad_params, grads, weight, sums, reported, stats, noise, noise_metrics)


def _updated(
    spec: StepSpec,
    transform: optax.GradientTransformation,
    axes: PyTree[Axes],
    state: State,
    gradient: Gradient,
    lr: Float[Array, ""],
    hyper: Scalars,
) -> tuple[Params, PyTree[Array], Float[Array, ""]]:
    """The parameters and moments after the update, and the norm of the gradient before it is clipped."""
    optimizer, grads = optimizers.TABLE[spec.optimizer], gradient.mean
    if spec.penalty:
        grads = optimizers.penalised(grads, gradient.params, axes, spec.weight_decay_roles, hyper["l1"], hyper["l2"])
    factors = transfer.lr_multipliers(state.params, spec.lr_multipliers) if spec.lr_multipliers else None
    if factors is not None:  # what is frozen takes no part in the norm, and XLA leaves its gradient out
        grads = jax.tree.map(lambda g, f: g if f.any() else jnp.zeros_like(g), grads, factors)
    decays = None
    if spec.scaling is not None:
        scales = parametrization.tree(spec.scaling, state.params, axes)
        factors = scales.lr if factors is None else jax.tree.map(np.multiply, factors, scales.lr)
        decays = scales.decay
    grads, norm = optimizers.clipped(grads, hyper["clip"])
    inputs = {name: {**hyper, "lr": lr}[name] for name in optimizer.inputs}
    updates, moments = transform.update(grads, state.moments, state.params, **inputs)
    params = optimizers.apply(
        state.params,
        updates,
        axes,
        spec.weight_decay_roles,
        lr,
        hyper["weight_decay"],
        factors,
        spec.cautious_weight_decay,
        optax.tree.get(moments, "radius") if optimizer.on_spheres else None,
        gradient.params if optimizer.averages else None,
        decays,
    )
    return params, moments, norm


def _qk_clipped(spec: StepSpec, params: Params, gradient: Gradient, hyper: Scalars) -> tuple[Params, Metrics]:
    """The parameters after QK-clip, where the run has it, and how many heads it scaled."""
    if "qk_clip" not in hyper:
        return params, {}
    largest, limit = gradient.probes[probes.MAX_LOGIT], hyper["qk_clip"]
    heads = jnp.sum(largest > limit).astype(jnp.float32)
    metrics = {"qk_clip/heads": heads, "qk_clip/max_logit": jnp.max(largest)}
    return cast(QKClipped, spec.model).qk_clipped(params, largest, limit), metrics


def _averaged(
    spec: StepSpec, state: State, params: Params, moments: PyTree[Array], lr: Float[Array, ""], hyper: Scalars
) -> Params | None:
    """The running mean of the parameters after a step; None: there is none."""
    if state.ema is None:
        return None
    if optimizers.TABLE[spec.optimizer].averages:
        return schedule_free.averaged(state.ema, params, lr, optax.tree.get(moments, "squared_rates"))
    return optimizers.running_mean(state.ema, params, hyper["ema"], state.step + 1)


def pruned(spec: StepSpec, axes: PyTree[Axes], state: State, hyper: Scalars) -> State:
    """The state with its masks cut anew where the schedule says so, and its parameters zero where they are cut."""
    plan = spec.transforms.prune
    if plan is None:
        return state
    masks = prune.updated(plan, state.masks, state.params, axes, state.step, hyper)
    ema = None if state.ema is None else prune.applied(state.ema, masks)
    return state.replace(params=prune.applied(state.params, masks), ema=ema, masks=masks)


def first_masks(spec: StepSpec, programs: Programs, state: State, hyper: HostScalars) -> State:
    """The state before the first step, cut where the schedule of pruning cuts then."""
    if spec.transforms.prune is None:
        return state
    axes = states.axes(programs.variables)
    return jax.jit(functools.partial(pruned, spec, axes), out_shardings=programs.shardings)(state, hyper)


def scheme_step(
    spec: StepSpec,
    transform: optax.GradientTransformation,
    axes: PyTree[Axes],
    state: State,
    batch: Batch,
    lr: Float[Array, ""],
    seed: Int[Array, ""],
    hyper: Scalars,
) -> tuple[State, Metrics]:
    """One step of the run: `train_step` alone, of each replica, or of a parameter server with the gradient of a worker.

    Args: as in `train_step`; dropout is drawn from (seed, "dropout", step).
    """

    def inner(
        state: State, batch: Batch, key: Key[Array, ""], grad_params: Params | None = None
    ) -> tuple[State, Metrics]:
        return train_step(spec, transform, axes, state, batch, lr, key, hyper, grad_params)

    key = rng.key(seed, "dropout", state.step)
    if state.workers is not None:
        return async_sgd.step(spec.workers[1], inner, state, batch, seed, key)
    if spec.replicas is None:
        return inner(state, batch, key)
    return replicas.step(spec.replicas, inner, state, batch, key, hyper)


def _accumulated(
    differentiate: Callable[[Params, Collections, Batch, Key[Array, ""], Scalars], tuple[Loss, Params]],
    parts: int,
    grad_params: Params,
    collections: Collections,
    batch: Batch,
    key: Key[Array, ""],
    hyper: Scalars,
) -> Sums:
    """Sums and gradients over micro-batches, one after another in a scan; every micro-batch spans all devices.

    The same step as that of the whole batch only where an example's loss depends on no other and nothing is drawn: each
    micro-batch has a key of its own (dropout, augmentation), and batch norm sees one micro-batch at a time. Each starts
    from the same running statistics, and what they make of them is averaged: means move as with the whole batch,
    variances by the mean of those within micro-batches, without the variance between their means.
    """

    def split(x: jax.Array) -> jax.Array:
        # Row r goes to micro-batch r mod parts, so that a batch split over devices stays where it is.
        x = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
        return meshes.constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    def body(carry: Sums, part: tuple[Int[Array, ""], Batch]) -> tuple[Sums, None]:
        index, micro = part
        (_, (sums, stats)), grads = differentiate(
            grad_params, collections, micro, jax.random.fold_in(key, index), hyper
        )
        total = jax.tree.map(jnp.add, carry, (sums, stats, grads))
        for name in sums.keys() & set(probes.MAXIMA):
            total[0][name] = jnp.maximum(carry[0][name], sums[name])
        return total, None

    micro_batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], micro_batches)
    shapes = jax.eval_shape(differentiate, grad_params, collections, first, key, hyper)
    (_, (sums, stats)), grads = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sums |= {name: jnp.full_like(sums[name], -jnp.inf) for name in sums.keys() & set(probes.MAXIMA)}
    (sums, stats, grads), _ = jax.lax.scan(body, (sums, stats, grads), (jnp.arange(parts), micro_batches))
    return sums, jax.tree.map(lambda total: total / parts, stats), grads


def train_steps(
    spec: StepSpec,
    transform: optax.GradientTransformation,
    axes: PyTree[Axes],
    state: State,
    batches: Batch,
    lr: Float[Array, " steps"],
    seed: Int[Array, ""],
    hyper: Scalars,
) -> tuple[State, dict[str, Float[Array, "steps ..."]]]:
    """As many steps as `lr` is long, in one call.

    Args:
      spec: what is compiled.
      transform: of gradients into updates.
      axes: the tree of logical axes of the parameters.
      state: the state after `state.step` steps.
      batches: arrays [steps, batch, ...].
      lr: the learning rate of each step.
      seed: of the run.
      hyper: scalars by name.
    """
    if lr.shape[0] == 1:
        batch = jax.tree.map(lambda x: x[0], batches)
        state, metrics = scheme_step(spec, transform, axes, state, batch, lr[0], seed, hyper)
        return state, jax.tree.map(lambda m: m[None], metrics)

    def body(state: State, inputs: tuple[Batch, Float[Array, ""]]) -> tuple[State, Metrics]:
        batch, lr = inputs
        return scheme_step(spec, transform, axes, state, batch, lr, seed, hyper)

    return jax.lax.scan(body, state, (batches, lr))


@functools.lru_cache(maxsize=64)
def programs(
    spec: StepSpec,
    mesh: Mesh,
    steps: int,
    batch: tuple[tuple[str, tuple[int, ...], DTypeLike], ...],
    names: tuple[str, ...],
    runs: int = 1,
    shared: bool = False,
) -> Programs:
    """Initialisation and `steps` train steps of a spec, once for all runs of a shape; compiled at their first call.

    Args:
      spec: what is compiled.
      mesh: where the state and the batches lie.
      steps: optimizer steps a call.
      batch: (name, shape [batch, ...], dtype) of each array of a batch.
      names: the names of the scalars in `hyper`.
      runs: how many runs a call steps; with more than one, whatever goes into `train` and comes out of it has an axis
        [runs] in front.
      shared: the runs of a call see the same batches, without that axis.
    """
    one = _initialisation(spec, mesh, names)
    axes, ahead = states.axes(one.variables), () if runs == 1 else ("run",)

    def packed(tree: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
        """The same with the axis of runs in front, where there is one."""
        if runs == 1:
            return tree
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (runs, *x.shape), x.dtype, sharding=NamedSharding(mesh, PartitionSpec("run", *x.sharding.spec))
            ),
            tree,
        )

    def placed(
        shape: tuple[int, ...], dtype: DTypeLike, *partition: str | tuple[str, ...] | None
    ) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*partition)))

    state = packed(jax.tree.map(lambda x, where: placed(x.shape, x.dtype, *where.spec), one.abstract, one.shardings))
    batches = {name: placed((steps, *shape), dtype, None, meshes.RULES["rows"]) for name, shape, dtype in batch}
    batches = batches if shared else packed(batches)
    lr, seed = packed(placed((steps,), jnp.float32)), packed(placed((), jnp.int32))
    hyper = packed({name: placed((), jnp.float32) for name in names})
    function = functools.partial(train_steps, spec, _transform(spec, axes, one.variables), axes)
    if runs > 1:
        function = jax.vmap(function, (0, None if shared else 0, 0, 0, 0), spmd_axis_name="run")
    inputs = (state, batches, lr, seed, hyper)
    train = jax.jit(
        function,
        in_shardings=jax.tree.map(lambda x: x.sharding, inputs),
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), NamedSharding(mesh, PartitionSpec(*ahead))),
        donate_argnums=0,
        compiler_options=_options(spec, mesh),
    )
    return one._replace(train=Jitted(train, inputs, mesh, spec.matmul, _options(spec, mesh)))


@functools.lru_cache(maxsize=64)
def _initialisation(spec: StepSpec, mesh: Mesh, names: tuple[str, ...]) -> Programs:
    """What does not depend on how many steps a call takes, or for how many runs: initial values and where they lie."""
    hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    variables = states.boxed(spec.model, hyper)
    axes = states.axes(variables)
    transform = _transform(spec, axes, variables)
    masks = functools.partial(transforms.masks, spec.transforms, axes)

    def initial_state(seed: Int[Array, ""], hyper: Scalars, boxed: bool = False) -> State:
        options = (lambda params: None, lambda variables: variables) if boxed else (masks, nn.meta.unbox)
        guard = spike_guard.initial(spec.guard_window)
        scaling = None if boxed else spec.scaling
        scaled = functools.partial(parametrization.initial, scaling, axes=axes)
        state = states.init(spec.model, transform, spec.ema, seed, hyper, *options, guard, scaled)
        state = state.replace(noise=gradient_noise.initial(spec.noise_span))
        state = state if spec.replicas is None else replicas.initial(spec.replicas, state)
        return state if spec.workers[0] == 1 else async_sgd.initial(spec.workers[0], state)

    abstract = jax.eval_shape(initial_state, scalar, hyper)
    if optimizers.TABLE[spec.optimizer].averages and jax.tree.leaves(abstract.stats):
        raise BadInput(
            f"optimizer.name: {spec.optimizer} evaluates parameters that no batch was seen at, and the model keeps "
            "running statistics of batches"
        )
    boxed = jax.eval_shape(functools.partial(initial_state, boxed=True), scalar, hyper)
    placed = states.shardings(abstract, boxed, variables, mesh)
    function = jax.jit(initial_state, out_shardings=placed, compiler_options=_options(spec, mesh))
    init = Jitted(function, (scalar, hyper), mesh, spec.matmul, _options(spec, mesh))
    return Programs(init, init, placed, abstract, variables)


@contextlib.contextmanager
def _settings(matmul: str, mesh: Mesh) -> Iterator[None]:
    with jax.set_mesh(mesh), jax.default_matmul_precision(None if matmul == "default" else matmul):
        yield


def _options(spec: StepSpec, mesh: Mesh) -> dict[str, str | bool] | None:
    return compiler_options.of(mesh, spec.compiler_options, spec.deterministic)


def _transform(spec: StepSpec, axes: PyTree[Axes], variables: Variables) -> optax.GradientTransformation:
    """The optimizer's transformation; parameters that are frozen beside low-rank factors have no moments."""
    if not isinstance(spec.model, lora.Lora):
        transform = optimizers.build(spec.optimizer, axes, **dict(spec.options))
        if spec.scaling is None or not parametrization.has_epsilon(spec.optimizer):
            return transform
        params = nn.meta.unbox(variables["params"])
        return parametrization.with_epsilon(transform, parametrization.tree(spec.scaling, params, axes).eps)
    factors = transfer.lr_multipliers(nn.meta.unbox(variables["params"]), spec.lr_multipliers)
    trained = jax.tree.map(lambda factor: bool(factor.any()), factors)
    axes = jax.tree.map(lambda is_trained, axis: axis if is_trained else optax.MaskedNode(), trained, axes)
    return optax.masked(optimizers.build(spec.optimizer, axes, **dict(spec.options)), trained)


def strides(total: int, stride: int) -> tuple[int, ...]:
    """The lengths of the calls that make up a run: full strides from step 0, then single steps.

    A function of the duration alone, so that a run that was cut makes the same calls as one that was not.
    """
    return (1,) if stride == 1 or total < stride else (stride, 1) if total % stride else (stride,)
