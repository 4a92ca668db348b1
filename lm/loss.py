"""The loss of a language model: one number a token, in float32, and its mean over documents."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm.decoder import logits
from training.nets.layers import product_gradients
from training.nets.primitives import upcast_to_f32

Residuals = tuple[Array, Array, Array | None, Array, Array, Array]  # rows, head, bias, labels, powers and their sum


def cross_entropy(
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    targets: Int[Array, "batch length"],
    logit_dtype: str = "float32",
    bias: Float[Array, " vocab"] | None = None,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Nats of each target, and the log of each normaliser, both of the same logits, so that no rounding is of one alone.

    The gradient of the logits is in the dtype of the states, so that both of its products are as fast as the forward one;
    that of the head is summed in float32, and in its own dtype.

    Args:
      states: hidden states, from `Decoder.hidden`.
      head: the head, from the same call; cast to the dtype of the states for the product.
      targets: the token that follows each position.
      logit_dtype: the dtype that the logits are accumulated in.
      bias: added to the logits of each position; None: nothing.
    """
    rows = states.reshape(-1, states.shape[-1])
    found: Any = _of_rows(logit_dtype, rows, head, bias, targets.reshape(-1))
    nats, normaliser = (of_rows.reshape(targets.shape) for of_rows in found)
    return nats, normaliser


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_rows(
    dtype: str,
    rows: Float[Array, "rows width"],
    head: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"] | None,
    labels: Int[Array, " rows"],
) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
    """`cross_entropy` of rows of hidden states."""
    return _of_rows_forward(dtype, rows, head, bias, labels)[0]


def _of_rows_forward(
    dtype: str, rows: Array, head: Array, bias: Array | None, labels: Array
) -> tuple[tuple[Array, Array], Residuals]:
    scores = upcast_to_f32(logits(rows, head.astype(rows.dtype), dtype))
    if bias is not None:
        scores = scores + upcast_to_f32(bias)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    powers = jnp.exp(scores - largest)
    total = jnp.sum(powers, axis=-1)
    gap = jnp.sum(jnp.where(_is_label(scores, labels), largest - scores, 0), axis=-1)  # largest logit less the target's
    return (jnp.log(total) + gap, jnp.log(total) + largest[:, 0]), (rows, head, bias, labels, powers, total)


def _of_rows_backward(dtype: str, residuals: Residuals, grads: tuple[Array, Array]) -> tuple[Any, ...]:
    """Gradients of the logits: softmax times the sum of both, less that of the nats at the label."""
    del dtype
    rows, head, bias, labels, powers, total = residuals
    of_nats, of_normaliser = grads
    slopes = powers * ((of_nats + of_normaliser) / total)[:, None]
    slopes = slopes - jnp.where(_is_label(slopes, labels), of_nats[:, None], 0)
    of_bias = None if bias is None else jnp.sum(slopes, axis=0).astype(bias.dtype)
    of_rows, of_head = product_gradients(rows, head.astype(rows.dtype).T, slopes.astype(rows.dtype))
    return of_rows.astype(rows.dtype), of_head.T.astype(head.dtype), of_bias, np.zeros(labels.shape, jax.dtypes.float0)


_of_rows.defvjp(_of_rows_forward, _of_rows_backward)


def _is_label(scores: Float[Array, "rows vocab"], labels: Int[Array, " rows"]) -> Bool[Array, "rows vocab"]:
    return jax.lax.broadcasted_iota(labels.dtype, scores.shape, 1) == labels[:, None]


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
    ours = jax.nn.log_softmax(upcast_to_f32(logits(rows, head, logit_dtype)) / temperature)
    theirs = jax.nn.log_softmax(
        upcast_to_f32(logits(taught, jax.lax.stop_gradient(teacher_head), logit_dtype)) / temperature
    )
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
