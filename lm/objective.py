"""The loss of a language model, one number a token, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.decoder import logits
from training.nets.layers import wide


def cross_entropy(
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    targets: Int[Array, "batch length"],
    logit_dtype: str = "float32",
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Nats of each target, and the log of each normaliser.

    The target's logit is a product with the head's row, so that no pass over all logits looks for it.

    Args:
      states: hidden states, from `Decoder.hidden`.
      head: the head, from the same call.
      targets: the token that follows each position.
      logit_dtype: the dtype that the logits are accumulated in.
    """
    rows = states.reshape(-1, states.shape[-1])
    normaliser = jax.nn.logsumexp(wide(logits(rows, head, logit_dtype)), axis=-1)
    target = jnp.sum(wide(rows) * wide(head[targets.reshape(-1)]), axis=-1)
    return (normaliser - target).reshape(targets.shape), normaliser.reshape(targets.shape)


def z_penalty(
    normaliser: Float[Array, "batch length"], coefficient: Float[Array, ""] | float
) -> Float[Array, "batch length"]:
    """The z-loss, which keeps normalisers near one (Chowdhery et al. 2022, section 5).

    Args:
      normaliser: logs of the normalisers, from `cross_entropy`.
      coefficient: weight of the squares, commonly 1e-4; may be traced.
    """
    return coefficient * jnp.square(normaliser)
