"""Statistics of a step by layer: how large activations, attention logits, weights and updates are.

`log.statistics` says every how many steps. Names, of which those of layers are logged with `/layer_00` and so on behind:

    activations/rms                  root mean square of the stream behind each block
    attention/max_logit              largest logit of each layer, see `training.nets.probes`
    weights/rms/{role}               root mean square of the parameters of a role in each layer, after the step
    updates/rms/{role}               the same of what the step added to them, learning rate and decay included
    weights/rms/{role}/outside       of the parameters outside the blocks

Roles are those of `training.optimizer.role`. A model of two stacks has the name of each behind the role. The first two are
of models that report them: decoders that are trained on the next token.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from training.errors import BadInput
from training.nets import probes
from training.optimizer import Axes, role
from training.types import Metrics, Params

STACK = re.compile(r"(?:(?P<side>encoder|decoder)_)?(?P<dense>dense_)?blocks(?:_(?P<position>\d+))?")


class Part(NamedTuple):
    """Where the layers of a stacked tree stand: the name of their stack ("": the only one), and their indices in it."""

    stack: str
    layers: np.ndarray


def check(config: ConfigDict) -> None:
    """Raise BadInput where `log.statistics` contradicts itself or other sections."""
    every = config.log.statistics
    if every < 0:
        raise BadInput(f"log.statistics: must not be negative, got {every}")
    if not every:
        return
    if every % max(config.log.every, 1):
        raise BadInput(
            f"log.statistics: {every} is no multiple of log.every={config.log.every}, so it would not be logged"
        )
    if config.replicas.count > 1 or config.async_sgd.workers > 1:
        raise BadInput("log.statistics: replicas and workers would each have others; log.statistics=0")
    check_mesh(config, "log.statistics")


def check_mesh(config: ConfigDict, key: str) -> None:
    """Raise BadInput where the mesh cuts what the probes of a block read.

    Args:
      config: complete.
      key: that asks for them.
    """
    for axis in ("stage", "context"):
        if config.mesh[axis] != 1:
            raise BadInput(f"mesh.{axis}: blocks report no statistics across it ({key}); mesh.{axis}=1 or {key}=0")


def due(every: int, step: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether the statistics of the step that follows `step` steps are taken."""
    return (step + 1) % every == 0


def of_step(
    flag: Bool[Array, ""],
    reported: Metrics,
    weight: Float[Array, ""],
    before: Params,
    after: Params,
    axes: PyTree[Axes],
) -> Metrics:
    """The statistics of a step; zeros where they are not taken.

    Args:
      flag: whether they are taken.
      reported: by blocks: mean squares times the weight of their micro-batches, and maxima by head.
      weight: of the batch.
      before: the parameters before the step.
      after: the same after it.
      axes: of the parameters.
    """
    metrics: Metrics = {}
    if probes.SQUARE in reported:
        metrics["activations/rms"] = jnp.sqrt(reported[probes.SQUARE] / weight)
    if probes.MAX_LOGIT in reported:
        metrics[probes.MAX_LOGIT] = jnp.max(reported[probes.MAX_LOGIT], axis=1)

    def of_parameters() -> Metrics:
        moved = jax.tree.map(lambda new, old: new.astype(jnp.float32) - old.astype(jnp.float32), after, before)
        return {f"weights/rms/{name}": value for name, value in rms(after, axes).items()} | {
            f"updates/rms/{name}": value for name, value in rms(moved, axes).items()
        }

    shapes = jax.eval_shape(of_parameters)
    nothing = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return metrics | jax.lax.cond(flag, of_parameters, nothing)


def rms(params: Params, axes: PyTree[Axes]) -> dict[str, Float[Array, "..."]]:
    """The root mean square of parameters by role: [layers] of those in blocks, () outside."""
    parts = layers_of(params, axes)
    squares: dict[str, list[tuple[np.ndarray | None, Array, int]]] = defaultdict(list)
    leaves = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, Axes))
    for (path, leaf), values in zip(leaves, jax.tree.leaves(params), strict=True):
        square = jnp.square(values.astype(jnp.float32))
        part = parts.get(path[0].key) if leaf.names[:1] == ("layers",) else None
        if part is None:
            squares[f"{role(leaf)}/outside"].append((None, jnp.sum(square), values.size))
        else:
            sums = jnp.sum(square, axis=tuple(range(1, values.ndim)))
            name = f"{role(leaf)}/{part.stack}".rstrip("/")
            squares[name].append((part.layers, sums, math.prod(values.shape[1:])))
    return {name: _root(entries) for name, entries in squares.items()}


def _root(entries: list[tuple[np.ndarray | None, Array, int]]) -> Float[Array, "..."]:
    """The root of sums of squares over their counts, added up in place: layers, or all together."""
    if entries[0][0] is None:
        return jnp.sqrt(sum(total for _, total, _ in entries) / sum(size for *_, size in entries))
    depth = 1 + max(int(layers.max()) for layers, *_ in entries if layers is not None)
    total, count = jnp.zeros(depth), np.zeros(depth)
    for layers, sums, size in entries:
        assert layers is not None
        total, count[layers] = total.at[layers].add(sums), count[layers] + size
    return jnp.sqrt(total / np.maximum(count, 1))


def layers_of(params: Params, axes: PyTree[Axes]) -> dict[str, Part]:
    """The layers of every stacked tree of a model, by its name, as `training.nets.stack` lays them out."""
    depths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, Axes)):
        if leaf.names[:1] == ("layers",):
            depths[path[0].key] = len(jax.tree.leaves(params[path[0].key])[0])
    matches = {name: STACK.fullmatch(name) for name in depths}
    parts = {}
    for name, depth in depths.items():
        if (match := matches[name]) is None:
            parts[name] = Part(name, np.arange(depth))
            continue
        alike = [
            other
            for other, own in matches.items()
            if own is not None and (own["side"], own["dense"]) == (match["side"], match["dense"])
        ]
        side = f"{match['side']}_" if match["side"] else ""
        first = (
            0 if match["dense"] else sum(n for other, n in depths.items() if other.startswith(f"{side}dense_blocks"))
        )
        parts[name] = Part(match["side"] or "", first + int(match["position"] or 0) + len(alike) * np.arange(depth))
    return parts
