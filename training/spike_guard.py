"""Steps whose loss or gradient norm is a spike change nothing but the count of steps: the batch is left out.

A spike lies more than `spike_guard.sigmas` standard deviations above the mean of the last `spike_guard.window` steps, or is
not finite. Nothing but what is not finite is one before half a window has been seen. Values of spikes enter the window too,
so that a loss that stays on a higher level is soon no spike.

Source: the idea is that of the step-skipping optimizers of OLMo-core (OLMo 2, arXiv 2501.00656), whose defaults, 128
steps and 6 standard deviations, are a good start.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict

from training.errors import BadInput
from training.types import Metrics


class Guard(NamedTuple):
    """Losses and gradient norms of the last steps, in turn; how many were finite so far, and how many steps were skipped."""

    losses: Float[Array, " window"]
    norms: Float[Array, " window"]
    seen: Int[Array, ""]
    skipped: Int[Array, ""]


def check(config: ConfigDict) -> None:
    """Raise BadInput where the section `spike_guard` contradicts itself or others."""
    section = config.spike_guard
    if section.sigmas < 0:
        raise BadInput(f"spike_guard.sigmas: must not be negative, got {section.sigmas}")
    if section.window < 4:
        raise BadInput(f"spike_guard.window: must be at least 4 steps, got {section.window}")
    if section.sigmas and config.replicas.count > 1:
        raise BadInput("spike_guard.sigmas: replicas that train apart would each skip other steps")


def window(config: ConfigDict) -> int:
    """Steps that a guard looks back; 0: there is none."""
    return config.spike_guard.window if config.spike_guard.sigmas else 0


def initial(window: int) -> Guard | None:
    """The guard before the first step; None where it looks back no steps."""
    if not window:
        return None
    return Guard(jnp.zeros(window), jnp.zeros(window), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def judged(
    guard: Guard, loss: Float[Array, ""], norm: Float[Array, ""], sigmas: Float[Array, ""]
) -> tuple[Array, Guard]:
    """Whether a step is a spike, and the guard after it.

    Args:
      guard: before the step.
      loss: of its batch.
      norm: of its gradient, before it is clipped.
      sigmas: standard deviations above the mean that are no spike yet.
    """
    size = len(guard.losses)
    count = jnp.minimum(guard.seen, size)
    held = jnp.arange(size) < count

    def high(value: Array, values: Array) -> Array:
        mean = jnp.sum(jnp.where(held, values, 0)) / jnp.maximum(count, 1)
        variance = jnp.sum(jnp.where(held, jnp.square(values - mean), 0)) / jnp.maximum(count - 1, 1)
        return value - mean > sigmas * jnp.sqrt(variance)

    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    spike = ~finite | ((count >= size // 2) & (high(loss, guard.losses) | high(norm, guard.norms)))

    def entered(values: Array, value: Array) -> Array:
        return jnp.where(finite, values.at[guard.seen % size].set(value.astype(values.dtype)), values)

    seen, skipped = guard.seen + finite, guard.skipped + spike
    return spike, Guard(entered(guard.losses, loss), entered(guard.norms, norm), seen, skipped)


def applied(
    before: Guard, metrics: Metrics, sigmas: Float[Array, ""], old: PyTree[Array], new: PyTree[Array]
) -> tuple[PyTree[Array], Guard, Metrics]:
    """What a step leaves behind.

    Args:
      before: the guard before the step.
      metrics: of the step.
      sigmas: as in `judged`.
      old: the trees of a state before the step.
      new: the same after it.
    Returns:
      `old` where the step was a spike, else `new`; the guard; and the metrics with "skipped", 0 or 1.
    """
    spike, guard = judged(before, metrics["loss"], metrics["grad_norm"], sigmas)
    chosen = jax.tree.map(lambda was, now: jnp.where(spike, was, now), old, new)
    return chosen, guard, metrics | {"skipped": spike.astype(jnp.float32)}
