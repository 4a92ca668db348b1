"""The loss of a language model: one number a token, in float32, and its mean over documents."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm.decoder import logits
from training import mesh as meshes, per_device
from training.nets.layers import product_gradients
from training.nets.primitives import upcast_to_f32

Residuals = tuple[Array, Array, Array | None, Array, Array, Array]  # rows, head, bias, labels, powers and their sum
Arrays = tuple[Any, ...]
OfRows = Callable[[Arrays, Arrays, Arrays, Arrays], Arrays]  # a loss of rows, see `_in_parts`
LOGITS_SHARE = 1 / 24  # of a device's memory, beyond which logits are made in parts


def cross_entropy(
    states: Float[Array, "batch length width"],
    head: Float[Array, "vocab width"],
    targets: Int[Array, "batch length"],
    logit_dtype: str = "float32",
    bias: Float[Array, " vocab"] | None = None,
    kept_features: int = 0,
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
      kept_features: of a position, see `BlockConfig.kept_features`.
    """
    batch, length = targets.shape
    count = chunks(batch, length, head.shape[0], kept_features * states.dtype.itemsize)
    of_rows = functools.partial(_nats_of_rows, logit_dtype)
    return _of_tokens(of_rows, count, (states,), (head, bias), (targets,), ())


def chunks(batch: int, length: int, vocab: int, kept: int = 0) -> int:
    """In how many parts, by position, the logits of a batch are made, none kept for the backward pass; 1: as a whole.

    A whole takes fewer cycles, so that parts are made only where the float32 logits of a device exceed `LOGITS_SHARE` of
    its memory, or all that full rematerialisation keeps of the blocks; then of a quarter of that each.

    Args:
      batch, length: of the positions.
      vocab: logits of a position.
      kept: bytes of a position that blocks keep, see `BlockConfig.kept_features`; 0: these are not what memory goes to.
    """
    memory = meshes.device_memory()
    if memory is None:
        return 1
    length = length // meshes.ways("length") if length % meshes.ways("length") == 0 else length
    positions, most = batch * length / meshes.ways("batch"), LOGITS_SHARE * memory
    held = 4.0 * positions * vocab / meshes.ways("vocab")
    most = min(most, positions * kept) if kept else most
    if held <= most:
        return 1
    wanted = math.ceil(held / (most / 4))
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


def _nats_of_rows(dtype: str, rows: Arrays, whole: Arrays, fixed_rows: Arrays, fixed: Arrays) -> Arrays:
    """`_of_rows` as `_in_parts` calls it."""
    del fixed
    found: Any = _of_rows(dtype, *rows, *whole, *fixed_rows)
    return found


def _of_tokens(of_rows: OfRows, count: int, rows: Arrays, whole: Arrays, fixed_rows: Arrays, fixed: Arrays) -> Any:
    """As `_in_parts`, and of one part with the logits kept; where devices share sequences out, each merges its own rows."""
    if count > 1:
        in_parts: Any = _in_parts
        return in_parts(of_rows, count, rows, whole, fixed_rows, fixed)

    def of_device(rows: Arrays, fixed_rows: Arrays, every: tuple[Arrays, Arrays]) -> Any:
        found = of_rows(_merged(rows), every[0], _merged(fixed_rows), every[1])
        return tuple(x.reshape(rows[0].shape[:2]) for x in found)

    if meshes.ways("length") == 1:
        return of_device(rows, fixed_rows, (whole, fixed))
    return per_device.by_tokens_gathered(of_device, (rows, fixed_rows), (whole, fixed), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_parts(
    of_rows: OfRows, count: int, rows: Arrays, whole: Arrays, fixed_rows: Arrays, fixed: Arrays
) -> tuple[Float[Array, "batch length"], ...]:
    """A loss of `count` parts of the positions, one after another; the backward pass makes the logits of each again.

    Each device does its own rows: what is whole is gathered once, and its gradient is summed over devices once, not for
    every part.

    Args:
      of_rows: (rows, whole, fixed_rows, fixed) -> values of each row, of arrays whose positions are merged into rows.
      count: divides the length.
      rows: arrays [batch, length, ...] that are learnt.
      whole: arrays that every position needs, learnt; their gradients are summed in float32.
      fixed_rows, fixed: the same of which no gradient is taken.
    """
    return _in_parts_forward(of_rows, count, rows, whole, fixed_rows, fixed)[0]


def _in_parts_forward(
    of_rows: OfRows, count: int, rows: Arrays, whole: Arrays, fixed_rows: Arrays, fixed: Arrays
) -> tuple[Any, Any]:
    def of_device(rows: Arrays, fixed_rows: Arrays, every: tuple[Arrays, Arrays]) -> Any:
        def one(part: tuple[Arrays, Arrays]) -> Any:
            shape = part[0][0].shape[:2]
            found = of_rows(_merged(part[0]), every[0], _merged(part[1]), every[1])
            return jax.tree.map(lambda x: x.reshape(shape), found)

        return jax.tree.map(_joined, jax.lax.map(one, (_split(rows, count), _split(fixed_rows, count))))

    found = per_device.by_tokens(of_device, (rows, fixed_rows), (whole, fixed))
    return found, (rows, whole, fixed_rows, fixed)


def _in_parts_backward(of_rows: OfRows, count: int, residuals: Any, grads: Any) -> tuple[Any, ...]:
    rows, whole, fixed_rows, fixed = residuals

    def of_device(rows: Arrays, fixed_rows: Arrays, grads: Any, every: tuple[Arrays, Arrays]) -> Any:
        precise = jax.tree.map(upcast_to_f32, every[0])

        def one(sums: Any, part: tuple[Any, ...]) -> tuple[Any, Any]:
            learnt, unlearnt, of_part = part
            _, pull = jax.vjp(lambda r, w: of_rows(r, w, _merged(unlearnt), every[1]), _merged(learnt), precise)
            of_merged, of_whole = pull(jax.tree.map(lambda x: x.reshape(-1), of_part))
            shaped = jax.tree.map(lambda x, like: x.reshape(like.shape), of_merged, learnt)
            return jax.tree.map(jnp.add, sums, of_whole), shaped

        inputs = tuple(_split(x, count) for x in (rows, fixed_rows, grads))
        sums, of_rows_grads = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, precise), inputs)
        return jax.tree.map(_joined, of_rows_grads), sums

    of_rows_grads, sums = per_device.sums_by_tokens(of_device, (rows, fixed_rows, grads), (whole, fixed), axis=1)
    of_whole = jax.tree.map(lambda total, like: total.astype(like.dtype), sums, whole)
    return of_rows_grads, of_whole, None, None


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)


def _merged(arrays: Arrays) -> Arrays:
    """[batch, length, ...] as [batch * length, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)


def _split(arrays: Arrays, count: int) -> Arrays:
    """[batch, length, ...] as [count, batch, length / count, ...]; the batch, which devices share, stays whole."""
    of_parts = lambda x: jnp.moveaxis(x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:]), 1, 0)
    return jax.tree.map(of_parts, arrays)


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
    kept_features: int = 0,
) -> Float[Array, "batch length"]:
    """Nats of the divergence of a model's prediction from its teacher's, both at a temperature, times its square.

    The square keeps the gradient as large as that of the cross-entropy at any temperature (Hinton et al. 2015, arXiv
    1503.02531, section 2). No gradient flows to the teacher and the temperature; that of the logits is in the dtype of the
    states, as in `cross_entropy`. Where memory asks for it the logits of both are made in parts, see `chunks`.

    Args:
      states, head: of the model, as in `cross_entropy`.
      teacher_states, teacher_head: of its teacher, with the same vocabulary.
      temperature: that divides the logits of both; may be traced.
      logit_dtype: as in `cross_entropy`.
      kept_features: of the model, as in `cross_entropy`.
    """
    teacher_states, teacher_head, temperature = jax.lax.stop_gradient((teacher_states, teacher_head, temperature))
    batch, length, _ = states.shape
    count = chunks(batch, length, 2 * head.shape[0], kept_features * states.dtype.itemsize)  # the logits of both
    of_rows = functools.partial(_nats_apart_of_rows, logit_dtype)
    fixed = (teacher_head, jnp.asarray(temperature))
    return _of_tokens(of_rows, count, (states,), (head,), (teacher_states,), fixed)[0]


def _nats_apart_of_rows(dtype: str, rows: Arrays, whole: Arrays, fixed_rows: Arrays, fixed: Arrays) -> Arrays:
    """`_apart_of_rows` as `_in_parts` calls it."""
    found: Any = _apart_of_rows(dtype, *rows, *whole, *fixed_rows, *fixed)
    return (found,)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apart_of_rows(
    dtype: str,
    rows: Float[Array, "rows width"],
    head: Float[Array, "vocab width"],
    taught: Float[Array, "rows teacher_width"],
    teacher_head: Float[Array, "vocab teacher_width"],
    temperature: Float[Array, ""],
) -> Float[Array, " rows"]:
    """`divergence` of rows of hidden states."""
    return _apart_forward(dtype, rows, head, taught, teacher_head, temperature)[0]


def _apart_forward(
    dtype: str, rows: Array, head: Array, taught: Array, teacher_head: Array, temperature: Array
) -> tuple[Array, tuple[Array, ...]]:
    ours = jax.nn.log_softmax(upcast_to_f32(logits(rows, head, dtype)) / temperature)
    theirs = jax.nn.log_softmax(upcast_to_f32(logits(taught, teacher_head, dtype)) / temperature)
    probabilities = jnp.exp(theirs)
    nats = jnp.sum(probabilities * (theirs - ours), axis=-1)
    return jnp.square(temperature) * nats, (rows, head, jnp.exp(ours) - probabilities, temperature)


def _apart_backward(dtype: str, residuals: tuple[Array, ...], grad: Array) -> tuple[Any, ...]:
    """Gradients of the logits: the temperature times the difference of the two predictions."""
    del dtype
    rows, head, difference, temperature = residuals
    slopes = (difference * (temperature * grad)[:, None]).astype(rows.dtype)
    of_rows, of_head = product_gradients(rows, head.astype(rows.dtype).T, slopes)
    return of_rows.astype(rows.dtype), of_head.T.astype(head.dtype), None, None, None


_apart_of_rows.defvjp(_apart_forward, _apart_backward)


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
