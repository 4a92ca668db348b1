"""Pipeline parallelism: the blocks of a stack as stages along the mesh axis "stage", through which microbatches flow.

With S stages, R rounds and M >= S microbatches, the blocks are S R chunks, and stage s holds chunk r S + s for round r. At
tick t it passes microbatch (t - s) mod M through its chunk of round (t - s) div M and hands it on; the last stage hands it
to the first one for the next round. After M R + S - 1 ticks all is done; in S - 1 of them a stage has nothing to do.

All stages are one program: a chunk mapped over the axis, and a rotation of what they hold. The gradients of a chunk are
summed over the batch's devices at every tick, and what "fsdp" splits is gathered at every tick: with many microbatches
"stage" goes better with "tensor" than with "fsdp". Embedding and head are computed by the devices of every stage alike.

Source: the interleaved schedule of Narayanan et al. 2021 (arXiv 2104.04473, section 2.2), forward passes before backward
ones, in the form of Xu et al. 2021 (GSPMD, arXiv 2105.04663, section 3.3).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from training.errors import BadInput
from training.mesh import constrain
from training.types import Params

DEFAULT_MICROBATCHES = 4  # times the stages: a bubble of a fifth at most

Chunk = Callable[[Params, Float[Array, "rows length width"], PyTree[Array], Int[Array, ""]], Array]


class Schedule(NamedTuple):
    """Stages, rounds through all of them, and microbatches that a batch is cut into."""

    stages: int
    rounds: int
    microbatches: int

    @property
    def ticks(self) -> int:
        """Chunks that each stage computes, those before its first and after its last microbatch included."""
        return self.microbatches * self.rounds + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks in which a stage computes nothing that is kept."""
        return (self.stages - 1) / self.ticks


def check(stages: int, rounds: int, depth: int) -> None:
    """Raise BadInput where the stages cannot hold equally many blocks for each round."""
    if depth % (stages * rounds):
        raise BadInput(
            f"mesh.stage: {stages} stages in {rounds} rounds (model.pipeline_rounds) do not divide {depth} blocks"
        )


def schedule(stages: int, rounds: int, microbatches: int, depth: int, batch: int, shards: int) -> Schedule:
    """The schedule of a batch.

    Args:
      stages: size of the mesh axis "stage".
      rounds: how often a microbatch passes all stages.
      microbatches: at most so many, the largest number that cuts the batch evenly; 0: `DEFAULT_MICROBATCHES` a stage.
      depth: blocks.
      batch: rows.
      shards: of the batch, each of which has a part of every microbatch.

    Raises:
      BadInput: the stages cannot hold equally many blocks, or the batch makes fewer microbatches than stages.
    """
    check(stages, rounds, depth)
    wanted = microbatches or DEFAULT_MICROBATCHES * stages
    even = [count for count in range(min(wanted, batch), 0, -1) if batch % (count * shards) == 0]
    if not even or even[0] < stages:
        raise BadInput(
            f"mesh.stage: {batch} rows over {shards} shards make {even[0] if even else 0} microbatches, fewer than the "
            f"{stages} stages (model.pipeline_microbatches, batch_size)"
        )
    return Schedule(stages, rounds, even[0])


def run(
    chunk: Chunk, plan: Schedule, params: Params, x: Float[Array, "batch length width"], rows: PyTree[Array]
) -> Float[Array, "batch length width"]:
    """The stream behind all blocks.

    Args:
      chunk: (parameters of successive blocks, stream, `rows` of its rows, index of the first block) -> stream.
      plan: from `schedule`.
      params: stacked parameters of all blocks.
      x: the stream before them.
      rows: a tree of arrays [batch, ...] that blocks read.
    """
    stages, rounds, count = plan
    blocks = jax.tree.leaves(params)[0].shape[0] // (stages * rounds)
    of_stage = jax.tree.map(lambda leaf: leaf.reshape(rounds, stages, blocks, *leaf.shape[1:]), params)
    stored, rows = jax.tree.map(lambda array: _cut(array, count), (x, rows))
    stage = jnp.arange(stages)

    def tick(carry: tuple[Array, Array], time: Int[Array, ""]) -> tuple[tuple[Array, Array], None]:
        stored, held = carry  # [microbatches, rows, ...] and what each stage is about to read, [stages, rows, ...]
        number = jnp.clip(time - stage, 0, count * rounds - 1)
        turn, index = number // count, number % count
        held = _pinned(held.at[0].set(stored[index[0]]))
        here = jax.tree.map(lambda leaf: _of_round(leaf, turn), of_stage)
        of_rows = jax.tree.map(lambda array: array[index], rows)
        first = (turn * stages + stage) * blocks
        put = jax.vmap(chunk, spmd_axis_name="stage")(here, held, of_rows, first)
        done = time - (stages - 1)
        place = jnp.maximum(done, 0) % count
        stored = stored.at[place].set(jnp.where(done >= 0, put[-1], stored[place]))
        return (stored, _pinned(jnp.roll(put, 1, axis=0))), None

    held = jnp.zeros((stages, *stored.shape[1:]), stored.dtype)
    (stored, _), _ = jax.lax.scan(tick, (stored, held), jnp.arange(plan.ticks))
    return constrain(jnp.moveaxis(stored, 0, 1).reshape(x.shape), "batch", "length", None)


def _of_round(leaf: Array, turn: Int[Array, " stages"]) -> Array:
    """What each stage holds for its round, out of [rounds, stages, ...]: by comparison, for XLA's compiler for GPUs rejects
    the gradient of an index that differs by shard."""
    chosen = leaf[0]
    for number in range(1, len(leaf)):
        chosen = jnp.where(turn.reshape(-1, *[1] * (chosen.ndim - 1)) == number, leaf[number], chosen)
    return chosen


def _pinned(held: Float[Array, "stages rows length width"]) -> Array:
    return constrain(held, "stage", "batch", "length", None)


def _cut(array: Array, count: int) -> Array:
    """[batch, ...] as [count, batch / count, ...]; every device has a share of each part."""
    parts = jnp.moveaxis(array.reshape(array.shape[0] // count, count, *array.shape[1:]), 1, 0)
    return constrain(parts, None, "batch", *[None] * (parts.ndim - 2))
