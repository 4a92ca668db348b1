"""The loss of a language model: one number a token, in float32, and its mean over documents."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm.decoder import logits
from training.nets.layers import wide


def cross_entropy(
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    targets: Int[Array, "batch length"],
    logit_dtype: str = "float32",
    bias: Float[Array, " vocab"] | None = None,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Nats of each target, and the log of each normaliser.

    The target's logit is a product with the head's row, so that no pass over all logits looks for it.

    Args:
      states: hidden states, from `Decoder.hidden`.
      head: the head, from the same call.
      targets: the token that follows each position.
      logit_dtype: the dtype that the logits are accumulated in.
      bias: added to the logits of each position; None: nothing.
    """
    rows, labels = states.reshape(-1, states.shape[-1]), targets.reshape(-1)
    scores = wide(logits(rows, head, logit_dtype))
    target = jnp.sum(wide(rows) * wide(head[labels]), axis=-1)
    if bias is not None:
        scores, target = scores + wide(bias), target + wide(bias)[labels]
    normaliser = jax.nn.logsumexp(scores, axis=-1)
    return (normaliser - target).reshape(targets.shape), normaliser.reshape(targets.shape)


def divergence(
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    teacher_states: Float[Array, "batch length teacher_width"],
    teacher_head: Float[Array, "vocab teacher_width"],
    temperature: Float[Array, ""] | float,
    logit_dtype: str = "float32",
) -> Float[Array, "batch length"]:
    """Nats of the divergence of a model's prediction from its teacher's, both at a temperature, times its square.

    The square keeps the gradient as large as that of the cross-entropy at any temperature (Hinton et al. 2015, arXiv
    1503.02531, section 2). No gradient flows to the teacher.

    Args:
      states, head: of the model, as in `cross_entropy`.
      teacher_states, teacher_head: of its teacher, with the same vocabulary.
      temperature: that divides the logits of both; may be traced.
    """
    rows, taught = (x.reshape(-1, x.shape[-1]) for x in (states, jax.lax.stop_gradient(teacher_states)))
    ours = jax.nn.log_softmax(wide(logits(rows, head, logit_dtype)) / temperature)
    theirs = jax.nn.log_softmax(wide(logits(taught, jax.lax.stop_gradient(teacher_head), logit_dtype)) / temperature)
    nats = jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)
    return (jnp.square(temperature) * nats).reshape(states.shape[:-1])


def z_penalty(
    normaliser: Float[Array, "batch length"], coefficient: Float[Array, ""] | float
) -> Float[Array, "batch length"]:
    """The z-loss, which keeps normalisers near one (Chowdhery et al. 2022, section 5).

    Args:
      normaliser: logs of the normalisers, from `cross_entropy`.
      coefficient: weight of the squares, commonly 1e-4; may be traced.
    """
    return coefficient * jnp.square(normaliser)


def by_document(
    nats: Float[np.ndarray, "*tokens"], documents: Int[np.ndarray, "*tokens"]
) -> dict[str, float | int | None]:
    """The mean over tokens as a record's "loss", with its standard error, and how many tokens and documents there are.

    Tokens of one document are correlated, so the error is that of a ratio of sums over documents; None for one document.

    Args:
      nats: of each token.
      documents: which document each token is of.
    """
    _, document = np.unique(documents.ravel(), return_inverse=True)
    sums, counts = np.bincount(document, np.asarray(nats, np.float64).ravel()), np.bincount(document)
    mean, m = sums.sum() / counts.sum(), len(sums)
    spread = np.square(sums - mean * counts).sum() * m / max(m - 1, 1)
    return {
        "loss": float(mean),
        "loss_sem": float(np.sqrt(spread) / counts.sum()) if m > 1 else None,
        "eval_tokens": int(counts.sum()),
        "eval_documents": m,
    }
