"""Global batches: each process makes only the rows that its devices hold, of pure functions of the step."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from training import mesh as meshes, replicas
from training.errors import BadInput
from training.nets import pipeline
from training.task import Task
from training.types import ArrayOrNumpy

Shapes = tuple[tuple[str, tuple[int, ...], np.dtype], ...]


def shapes(task: Task, batch_size: int) -> Shapes:
    """Name, global shape [batch, ...] and dtype of each array of a batch; hashable."""
    first = task.batch(0, slice(0, 1))
    return tuple((name, (batch_size, *array.shape[1:]), array.dtype) for name, array in first.items())


def batches(task: Task, shapes: Shapes, mesh: Mesh, step: int, n: int) -> dict[str, ArrayOrNumpy]:
    """Batches of several steps as global arrays [n, batch, ...], split over the batch axis.

    Args:
      task: makes them.
      shapes: of a batch.
      mesh: where they lie.
      step: of the first.
      n: batches.
    """
    parts: dict[tuple[int, int | None, int | None], dict[str, np.ndarray]] = {}

    def rows(name: str) -> Callable[[slice], np.ndarray]:
        def get(part: slice) -> np.ndarray:
            for k in range(step, step + n):
                if (k, part.start, part.stop) not in parts:
                    parts[k, part.start, part.stop] = task.batch(k, part)
            return np.stack([parts[k, part.start, part.stop][name] for k in range(step, step + n)])

        return get

    return {name: meshes.place(rows(name), (n, *shape), mesh, batch_axis=1) for name, shape, _ in shapes}


def packed(tasks: Sequence[Task], shapes: Shapes, mesh: Mesh, starts: Sequence[int], n: int) -> dict[str, ArrayOrNumpy]:
    """The n batches of each of several runs, from its own step on, as global arrays [runs, n, batch, ...].

    Args:
      tasks: of the runs.
      shapes: of their batches.
      mesh: its axis "run" splits the runs.
      starts: the step of each run.
      n: batches.
    """
    by_run: dict[int, dict[str, np.ndarray]] = {}

    def of(run: int) -> dict[str, np.ndarray]:
        if run not in by_run:
            each = [tasks[run].batch(k, slice(None)) for k in range(starts[run], starts[run] + n)]
            by_run[run] = {name: np.stack([batch[name] for batch in each]) for name in each[0]}
        return by_run[run]

    def runs(name: str) -> Callable[[slice], np.ndarray]:
        return lambda part: np.stack([of(run)[name] for run in range(len(tasks))[part]])

    return {
        name: meshes.place(runs(name), (len(tasks), n, *shape), mesh, batch_axis=0, axis="run")
        for name, shape, _ in shapes
    }


def check_divisible(config: ConfigDict, mesh: Mesh) -> None:
    """Raise BadInput where the batch does not split evenly over the replicas, the mesh and the micro-batches, makes too few
    microbatches for the stages of a pipeline, or is one that the devices' compiler cannot take."""
    replicas.check_split(config, mesh.shape["replica"])
    ways = meshes.batch_ways(mesh) * config.gradient_accumulation_steps * config.replicas.count
    if config.batch_size % ways:
        raise BadInput(
            f"batch_size: {config.batch_size} is not divisible by {ways} "
            f"(mesh {dict(mesh.shape)}, gradient_accumulation_steps {config.gradient_accumulation_steps}, "
            f"replicas {config.replicas.count})"
        )
    pipeline_schedule(config, mesh)
    half = config.precision.compute == "bfloat16" and config.model.get("experts")
    if half and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu":
        raise BadInput(
            "precision.compute: XLA's compiler of CPUs ends the process on bfloat16 experts over several devices; float32"
        )


def pipeline_schedule(config: ConfigDict, mesh: Mesh) -> pipeline.Schedule | None:
    """The schedule of a step on a mesh with stages; None: it has none.

    Raises:
      BadInput: the rows of a step, or of an evaluation, make fewer microbatches than stages.
    """
    if mesh.shape["stage"] == 1 or "pipeline_rounds" not in config.model:
        return None
    model, rows = config.model, config.batch_size // (config.gradient_accumulation_steps * config.replicas.count)
    of_rows = functools.partial(
        pipeline.schedule, mesh.shape["stage"], model.pipeline_rounds, model.pipeline_microbatches, model.depth
    )
    of_rows(config.evaluation.batch_size, meshes.batch_ways(meshes.folded(mesh)))
    return of_rows(rows, meshes.batch_ways(mesh))
