"""The loss of a language model: one number a token, in float32, and its mean over documents."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm.decoder import logits
from training import mesh as meshes
from training.nets.layers import product_gradients
from training.nets.primitives import upcast_to_f32

Residuals = tuple[Array, Array, Array | None, Array, Array, Array]  # rows, head, bias, labels, powers and their sum
LOGITS_SHARE = 1 / 24  # of a device's memory, beyond which logits are made in parts


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
    batch, length = targets.shape
    count = chunks(batch, length, head.shape[0])
    if count > 1:
        # Each device its own rows: the head is gathered once and its gradient summed over devices once, not for every part.
        in_chunks: Any = _in_chunks
        of_rows = lambda s, t, whole: in_chunks(logit_dtype, count, s, *whole, t)
        return meshes.by_rows(of_rows, (states, targets), (head, bias))
    rows = states.reshape(-1, states.shape[-1])
    found: Any = _of_rows(logit_dtype, rows, head, bias, targets.reshape(-1))
    nats, normaliser = (of_rows.reshape(targets.shape) for of_rows in found)
    return nats, normaliser


def chunks(batch: int, length: int, vocab: int) -> int:
    """In how many parts, by position, the logits of a batch are made, none kept for the backward pass; 1: as a whole.

    A whole takes fewer cycles, so that parts are made only where the float32 logits of a device exceed `LOGITS_SHARE` of
    its memory; then of a quarter of that each.
    """
    memory = meshes.device_memory()
    if memory is None:
        return 1
    held = 4.0 * batch * length * vocab / (meshes.ways("batch") * meshes.ways("vocab"))
    if held <= LOGITS_SHARE * memory:
        return 1
    wanted = math.ceil(held / (LOGITS_SHARE * memory / 4))
    return next(count for count in range(wanted, length + 1) if length % count == 0) if wanted < length else length


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_chunks(
    dtype: str,
    count: int,
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"] | None,
    targets: Int[Array, "batch length"],
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """`cross_entropy` of `count` parts of the positions, one after another; the backward pass makes their logits again."""
    return _in_chunks_forward(dtype, count, states, head, bias, targets)[0]


def _in_chunks_forward(
    dtype: str, count: int, states: Array, head: Array, bias: Array | None, targets: Array
) -> tuple[Any, Any]:
    def one(part: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, labels = part
        found, _ = _of_rows_forward(dtype, rows.reshape(-1, rows.shape[-1]), head, bias, labels.reshape(-1))
        return tuple(x.reshape(labels.shape) for x in found)  # type: ignore[return-value]

    found = jax.lax.map(one, (_split(states, count), _split(targets, count)))
    return tuple(_joined(x) for x in found), (states, head, bias, targets)


def _in_chunks_backward(dtype: str, count: int, residuals: Any, grads: tuple[Array, Array]) -> tuple[Any, ...]:
    states, head, bias, targets = residuals

    def one(sums: Any, part: tuple[Array, ...]) -> tuple[Any, Array]:
        rows, labels, *of_part = part
        _, kept = _of_rows_forward(dtype, rows.reshape(-1, rows.shape[-1]), head, bias, labels.reshape(-1))
        of_rows, of_head, of_bias, _ = _of_rows_backward(dtype, kept, tuple(x.reshape(-1) for x in of_part))  # type: ignore[arg-type]
        return jax.tree.map(jnp.add, sums, (of_head, of_bias)), of_rows.reshape(rows.shape)

    zero = jax.tree.map(jnp.zeros_like, (head, bias))
    inputs = (states, targets, *grads)
    (of_head, of_bias), of_states = jax.lax.scan(one, zero, tuple(_split(x, count) for x in inputs))
    return _joined(of_states), of_head, of_bias, np.zeros(targets.shape, jax.dtypes.float0)


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _split(x: Array, count: int) -> Array:
    """[batch, length, ...] as [count, batch, length / count, ...]; the batch, which devices share, stays whole."""
    return jnp.moveaxis(x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:]), 1, 0)


def _joined(x: Array) -> Array:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


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
