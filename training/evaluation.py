"""Evaluation over a task's whole fixed set."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from training import mesh as meshes, step as steps, transforms
from training.compilation import Program
from training.nets import kernel_check
from training.nets.rounding import parsed
from training.optimizer import Axes
from training.state import State
from training.step_spec import StepSpec
from training.task import Arrays, Model, Task
from training.transforms import lora, quantize
from training.types import ArrayOrNumpy, Collections, Evaluation, HostScalars, Outputs, Params


class Stopped(RuntimeError):
    """An evaluation that was asked to stop."""


def evaluate(
    task: Task,
    params: Params,
    stats: Collections,
    mesh: Mesh,
    matmul: str = "default",
    final: bool = True,
    stop: Sequence[int] = (),
) -> Evaluation:
    """The metrics of the task's evaluation set, the last partial batch included; or of the set that a run may choose by.

    Batch size and devices change the result by no more than rounding: the task sums what the batches return on the host,
    in float64.

    Raises:
      Stopped: something came to lie in `stop` meanwhile.
    """

    def until_stopped() -> Iterator[Outputs]:
        for batch_scores in scores(task, params, stats, mesh, matmul, final):
            if stop:
                raise Stopped
            yield batch_scores

    return task.summarize(until_stopped(), final)


def eval_params(transform: transforms.Transforms, axes: PyTree[Axes], state: State, hyper: HostScalars) -> Params:
    """The parameters that a model is evaluated with: their running mean where one is kept, merged, rounded as in training.

    Args:
      transform: of the run's parameters.
      axes: the tree of logical axes of the parameters.
      state: of the run.
      hyper: scalars of the step.
    """
    params = lora.merged(state.params if state.ema is None else state.ema)
    if transform.quantize is None:
        return params
    return jax.jit(functools.partial(transforms.forward_params, transform, axes=axes))(params, hyper=hyper)


def after_training(task: Task, config: ConfigDict, axes: PyTree[Axes], state: State, mesh: Mesh) -> list[Evaluation]:
    """The same of the weights rounded to each format of `quantize.post` after training: its name, bits, bytes, metrics."""
    params = state.params if state.ema is None else state.ema
    records = []
    for name in config.quantize.post:
        rounding = parsed(name, "quantize.post")
        few = jax.jit(functools.partial(quantize.weights, axes=axes, roles=tuple(config.quantize.roles)))
        scored = evaluate(task, few(params, rounding=rounding), state.stats, mesh, config.precision.matmul)
        sizes = transforms.sizes(state.params, axes, state.masks)
        size = transforms.bytes_of(sizes, tuple(config.quantize.roles), float(rounding.bits))
        records.append({"format": name, "bits_post": float(rounding.bits), "size_bytes": size, **scored})
    return records


def programs(task: Task, spec: StepSpec, train: steps.Programs, mesh: Mesh) -> list[Program]:
    """As `jitted`, to be compiled beside the train step."""
    return [Program(score.lower()) for score in jitted(task, spec, train, mesh)]


def jitted(task: Task, spec: StepSpec, train: steps.Programs, mesh: Mesh) -> list[steps.Jitted]:
    """What a run's evaluations will call; nothing where that is seen only once there are parameters to evaluate."""
    batch = next(iter(task.eval_batches()), None)
    if batch is None or spec.transforms.quantize is not None or spec.model != task.model or jax.process_count() > 1:
        return []
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), train.abstract, train.shardings
    )
    mesh, params = meshes.folded(mesh), state.params if state.ema is None else state.ema
    inputs = (params, state.stats, _abstract(batch, mesh))
    return [steps.Jitted(_scorer(task.model, mesh), inputs, mesh, spec.matmul)]


def scores(
    task: Task, params: Params, stats: Collections, mesh: Mesh, matmul: str = "default", final: bool = True
) -> Iterator[Outputs]:
    """What the model's `score` says of every batch; those of batch i are fetched after batch i+1 is dispatched."""
    mesh = meshes.folded(mesh)
    score, pending = steps.Jitted(_scorer(task.model, mesh), (), mesh, matmul), None
    for batch in task.eval_batches(final):
        dispatched = score(params, stats, _placed(batch, mesh))
        kernel_check.check_used()
        if pending is not None:
            yield jax.tree.map(np.asarray, pending)
        pending = dispatched
    if pending is not None:
        yield jax.tree.map(np.asarray, pending)


@functools.lru_cache(maxsize=64)
def _scorer(model: Model, mesh: Mesh) -> jax.stages.Wrapped:
    """The evaluation step of a model: (params, stats, batch) -> scores, gathered whole on every device."""
    return jax.jit(model.score, out_shardings=meshes.replicated(mesh))


def _abstract(batch: Arrays, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of `_placed`, on devices that may not be there."""
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=meshes.rows_sharding(array.shape, mesh))
        for name, array in batch.items()
    }


def _placed(batch: Arrays, mesh: Mesh) -> Mapping[str, ArrayOrNumpy]:
    return {name: meshes.place(array.__getitem__, array.shape, mesh) for name, array in batch.items()}
