"""The gradient noise scale, from the gradients of micro-batches: how many examples a batch can have before more hardly help.

With G the true gradient and Sigma the covariance of those of examples, a batch of B has an expected |G_B|^2 of
|G|^2 + tr(Sigma) / B. Two sizes of batch, a micro-batch and the whole, so give unbiased estimates of |G|^2 and tr(Sigma) in
every step; B_simple = tr(Sigma) / |G|^2 is the ratio of their running means, since each alone is noisy and the ratio of two
noisy numbers is biased.

Source: McCandlish et al. 2018, "An empirical model of large-batch training", arXiv 1812.06162, appendix A.1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from training.errors import BadInput
from training.nets.primitives import upcast_to_f32
from training.types import Metrics, Params, Record

MICRO = "gradient_noise/micro_square"  # |G_b|^2 of micro-batches, among the sums of a step


class Noise(NamedTuple):
    """Exponential running means over steps, which began at zero, and the weight that they have gathered, below 1."""

    square: Float[Array, ""]
    trace: Float[Array, ""]
    weight: Float[Array, ""]


def check(config: ConfigDict) -> None:
    """Raise BadInput where `log.gradient_noise` contradicts itself or other sections."""
    span, parts = config.log.gradient_noise, config.gradient_accumulation_steps
    if span < 0:
        raise BadInput(f"log.gradient_noise: must not be negative, got {span}")
    if not span:
        return
    if parts < 2:
        raise BadInput(
            f"log.gradient_noise: compares micro-batches; gradient_accumulation_steps of 2 or more, got {parts}"
        )
    if config.replicas.count > 1 or config.async_sgd.workers > 1:
        raise BadInput("log.gradient_noise: replicas and workers would each have another; log.gradient_noise=0")


def initial(span: int) -> Noise | None:
    """The running means before the first step; None where they span no steps."""
    return Noise(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())) if span else None


def watched(differentiate: Callable[..., Any]) -> Callable[..., Any]:
    """(loss, (sums, stats)), gradients of a micro-batch, with the square of the mean gradient's norm among the sums."""

    def differentiate_and_measure(*arguments: Any) -> Any:
        (total, (sums, stats)), grads = differentiate(*arguments)
        return (total, (sums | {MICRO: square(grads) / jnp.square(sums["weight"])}, stats)), grads

    return differentiate_and_measure


def square(grads: Params) -> Float[Array, ""]:
    """The square of the global norm, summed in float32."""
    return optax.tree.norm(jax.tree.map(upcast_to_f32, grads), squared=True)


def estimates(
    micro: Float[Array, "..."], whole: Float[Array, "..."], small: float, large: float
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Unbiased estimates of |G|^2 and tr(Sigma).

    Args:
      micro: mean over micro-batches of the square of their mean gradient's norm.
      whole: the same of the whole batch.
      small: examples of a micro-batch.
      large: examples of the batch.
    """
    return (large * whole - small * micro) / (large - small), (micro - whole) / (1 / small - 1 / large)


def updated(
    noise: Noise, micro: Float[Array, ""], whole: Float[Array, ""], parts: int, batch: int, span: int
) -> tuple[Noise, Metrics]:
    """The running means after a step, and its metrics.

    Args:
      noise: before the step.
      micro: as in `estimates`.
      whole: as in `estimates`.
      parts: micro-batches.
      batch: examples of all of them.
      span: steps that a running mean looks back over.
    """
    found = jnp.stack([*estimates(micro, whole, batch / parts, batch), jnp.ones(())])
    moved = jnp.stack(noise) + (found - jnp.stack(noise)) / span
    after = Noise(*jnp.where(jnp.isfinite(found).all(), moved, jnp.stack(noise)))
    metrics = {"square": found[0], "trace": found[1], "scale": after.trace / after.square}
    return after, {f"gradient_noise/{name}": value for name, value in metrics.items()}


def record(noise: Noise | None) -> Record:
    """The entry of the record: B_simple in examples; None where the running mean of |G|^2 is not positive."""
    if noise is None:
        return {}
    return {"gradient_noise_scale": float(noise.trace / noise.square) if float(noise.square) > 0 else None}
