"""Evaluation over a task's whole fixed set."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from training import mesh as meshes, step as steps
from training.task import Task


def evaluate(
    task: Task, params: Any, stats: Any, mesh: Mesh, matmul: str = "default", final: bool = True
) -> dict[str, Any]:
    """The metrics of the task's evaluation set, the last partial batch included; or of the set that a run may choose by.

    Batch size and devices change the result by no more than rounding: the task sums what the batches return on the host,
    in float64.
    """
    return task.summarize(scores(task, params, stats, mesh, matmul, final), final)


def scores(
    task: Task, params: Any, stats: Any, mesh: Mesh, matmul: str = "default", final: bool = True
) -> Iterator[Any]:
    """What the model's `score` says of every batch; those of batch i are fetched after batch i+1 is dispatched."""
    score, pending = steps.scorer(task.model, mesh, matmul), None
    for batch in task.eval_batches(final):
        placed = {name: meshes.place(array.__getitem__, array.shape, mesh) for name, array in batch.items()}
        dispatched = score(params, stats, placed)
        if pending is not None:
            yield jax.tree.map(np.asarray, pending)
        pending = dispatched
    if pending is not None:
        yield jax.tree.map(np.asarray, pending)
