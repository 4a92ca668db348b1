"""What CPUs need: products, norms, convolutions and attention laid out for XLA's CPU compiler.

The layers of `training.nets` call these where the devices of the mesh are CPUs, and nowhere else; values are those of the
portable definitions up to rounding.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from training.nets.primitives import correlate, upcast_to_f32

# Products ---------------------------------------------------------------------------------------------------------------


def product(
    x: Float[Array, "*rows fan_in"], kernel: Float[Array, "fan_in fan_out"], dtype: DTypeLike | None = None
) -> Float[Array, "*rows fan_out"]:
    """As `training.nets.layers.product`, over rows: the weight gradient of a product with more dimensions makes XLA
    transpose a copy of the activations."""
    rows = x.reshape(-1, x.shape[-1])
    plain = x.dtype == kernel.dtype and jnp.dtype(dtype or x.dtype) == x.dtype and x.dtype != jnp.bfloat16
    if plain:
        out: Array = _thin_first(rows, kernel)
    else:
        out = jnp.matmul(rows, kernel, preferred_element_type=None if dtype is None else jnp.dtype(dtype))
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _thin_first(x: Array, kernel: Array) -> Array:
    """Both factors of a kernel's gradient are contracted over their rows, and XLA's CPU lays the left one out anew for it:
    with the narrower one there, the product is up to three times as fast. The barrier keeps XLA from swapping them."""
    return x @ kernel


def _thin_first_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _thin_first_backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return grad @ kernel.T, kernel_gradient(x, grad)


def kernel_gradient(
    x: Float[Array, "rows fan_in"], grad: Float[Array, "rows fan_out"]
) -> Float[Array, "fan_in fan_out"]:
    """The gradient of the kernel of a product, of its input and that of its output; see `_thin_first`."""
    swapped = x.shape[1] > grad.shape[1]
    left, right = (grad, x) if swapped else (x, grad)
    into_kernel = jax.lax.optimization_barrier(jax.lax.dot_general(left, right, (((0,), (0,)), ((), ()))))
    return into_kernel.T if swapped else into_kernel


_thin_first.defvjp(_thin_first_forward, _thin_first_backward)


def products(x: Float[Array, "*rows fan_in"], kernels: Sequence[Array]) -> list[Array]:
    """`product` of one input with each of these kernels, as one where there are more rows than features: XLA's CPU compiler
    merges no products, and a wide one is faster than narrow ones, unless of few rows, as when text is generated, when
    laying the kernels side by side would take longer."""
    rows = math.prod(x.shape[:-1])  # of an exported program, a symbol
    if not (isinstance(rows, int) and rows >= x.shape[-1]):
        return [product(x, kernel) for kernel in kernels]
    whole = product(x, jnp.concatenate(kernels, axis=1))
    return list(jax.lax.split(whole, [kernel.shape[1] for kernel in kernels], axis=whole.ndim - 1))


def add_bias(y: Float[Array, "*rows width"], bias: Float[Array, " width"]) -> Float[Array, "*rows width"]:
    """y + bias over rows, so that the gradient of the bias is one sum over them."""
    return (y.reshape(-1, y.shape[-1]) + bias).reshape(y.shape)


# Norms ------------------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def norm(centre: bool, eps: float, x: Float[Array, "*rows width"], scale: Float[Array, " width"]) -> Array:
    """As `training.nets.layers.normalised`; the backward pass keeps x and two numbers a row, and takes sums over features as
    products with `scale`: it reads and writes less memory than the derived one."""
    return _norm_forward(centre, eps, x, scale)[0]


def _norm_forward(centre: bool, eps: float, x: Array, scale: Array) -> tuple[Array, Any]:
    full = upcast_to_f32(x)
    mean = jnp.mean(full, axis=-1, keepdims=True) if centre else jnp.zeros((), full.dtype)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(full - mean), axis=-1, keepdims=True) + eps)
    return (full - mean) * inverse * upcast_to_f32(scale), (x, mean, inverse, scale)


def _norm_backward(centre: bool, eps: float, residuals: Any, grads: Array) -> tuple[Array, Array]:
    x, mean, inverse, scale = residuals
    scales = upcast_to_f32(scale)
    normed = (upcast_to_f32(x) - mean) * inverse

    def scaled_mean(values: Array) -> Array:
        """The mean of values times the scale, of each row."""
        return jnp.matmul(values, scales, precision=jax.lax.Precision.HIGHEST)[..., None] / x.shape[-1]

    along = grads * normed
    dx = grads * scales - normed * scaled_mean(along)
    dx = inverse * (dx - scaled_mean(grads) if centre else dx)
    return dx.astype(x.dtype), jnp.sum(along.reshape(-1, x.shape[-1]), axis=0).astype(scale.dtype)


norm.defvjp(_norm_forward, _norm_backward)


# Attention ------------------------------------------------------------------------------------------------------------


def attend(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads values"],
    segments: Int[Array, "batch length"] | None,
    causal: bool,
    window: int,
) -> Float[Array, "batch length heads values"]:
    """As `training.nets.attention.attend`: products over contiguous (length, width) matrices, and rows cut into blocks to
    skip masked-out keys."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # The queries of one position that share a key head are neighbouring rows: (batch, kv head, length x group, width).
    rows = jnp.swapaxes(q.reshape(batch, length, kv_heads, group * width), 1, 2) * width**-0.5
    rows = rows.reshape(batch, kv_heads, length * group, width)
    out: Array = _rows(group, causal, window, rows, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), segments)
    out = jnp.swapaxes(out.reshape(batch, kv_heads, length, group * v.shape[3]), 1, 2)
    return out.reshape(batch, length, heads, v.shape[3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _rows(group: int, causal: bool, window: int, q: Array, k: Array, v: Array, segments: Array | None) -> Array:
    """Attention of scaled queries [b, h, length x group, d] over k [b, h, length, d] and v [b, h, length, values]."""
    return _forward(group, causal, window, q, k, v, segments)[0]


def _forward(
    group: int, causal: bool, window: int, q: Array, k: Array, v: Array, segments: Array | None
) -> tuple[Array, Any]:
    """The attention maps are kept transposed, keys before queries: then no product, here or in the backward pass,
    contracts over a map's leading axis, which XLA does at half the speed on CPU; only the thin factors are transposed."""
    outs, maps = [], []
    for low, start, end in _blocks(k.shape[2], causal, window):
        scores = _product("bhsd,bhtd->bhst", k[:, :, low:end], q[:, :, start * group : end * group])
        if causal or segments is not None:
            scores = jnp.where(_mask(segments, low, start, end, group, causal, window), scores, -1e30)
        weights = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
        total = jnp.sum(weights, axis=2, keepdims=True)
        # Normalised after the product with v, where there is less to divide.
        mixed = _through(v[:, :, low:end], weights.astype(v.dtype)) / total
        outs.append(jnp.swapaxes(mixed, 2, 3).astype(v.dtype))
        maps.append((weights, jnp.swapaxes(total, 2, 3)))
    out = jnp.concatenate(outs, axis=2)
    return out, (q, k, v, out, maps)


def _backward(group: int, causal: bool, window: int, residuals: Any, grad: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, out, maps = residuals
    length, dtype = k.shape[2], q.dtype
    dq, dk, dv = [], jnp.zeros((), dtype), jnp.zeros((), dtype)
    for (low, start, end), (weights, total) in zip(_blocks(length, causal, window), maps, strict=True):
        rows = slice(start * group, end * group)
        g = grad[:, :, rows] / total
        inner = jnp.swapaxes(jnp.sum(g * out[:, :, rows], axis=3, keepdims=True), 2, 3)
        g = g.astype(dtype)
        dscores = (weights * (_product("bhsd,bhtd->bhst", v[:, :, low:end], g) - inner)).astype(dtype)
        unseen = ((0, 0), (0, 0), (low, length - end), (0, 0))
        dv += jnp.pad(_product("bhst,bhtd->bhsd", weights.astype(dtype), g), unseen)
        dk += jnp.pad(_product("bhst,bhtd->bhsd", dscores, q[:, :, rows]), unseen)
        dq.append(_transposed(_through(k[:, :, low:end], dscores)))
    return jnp.concatenate(dq, axis=2).astype(dtype), dk.astype(dtype), dv.astype(dtype), None


_rows.defvjp(_forward, _backward)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


def _through(thin: Array, weights: Array) -> Array:
    """A thin matrix [b, h, s, d] through a map [b, h, s, t], as [b, h, d, t]; its transposition stays outside."""
    return jax.lax.optimization_barrier(_product("bhds,bhst->bhdt", _transposed(thin), weights))


def _transposed(x: Array) -> Array:
    """The transpose of a thin matrix, really laid out so: XLA would fold it into the product, which is slower."""
    return jax.lax.optimization_barrier(jnp.swapaxes(x, -1, -2))


def _blocks(length: int, causal: bool, window: int) -> list[tuple[int, int, int]]:
    """Blocks of queries as (first key, first query, end of both): up to four of at least 64 positions, which skip up to
    three quarters of the masked-out half of the work, or more where a window is narrower; one where nothing is masked."""
    most = max(4, length // window) if window else 4
    count = min(max(length // 64, 1), most) if causal else 1
    edges = pairwise(length * i // count for i in range(count + 1))
    return [(max(start - window + 1, 0) if window else 0, start, end) for start, end in edges]


def _mask(segments: Array | None, low: int, start: int, end: int, group: int, causal: bool, window: int) -> Array:
    """Which keys `low` to `end` (axis -2) the queries of positions `start` to `end` (axis -1) may see."""
    position = start + jnp.arange((end - start) * group) // group
    index = low + jnp.arange(end - low)[:, None]
    before = index <= position if causal else True
    if window:
        before &= index > position - window
    if segments is None:
        return jnp.asarray(before)
    queries = jnp.repeat(segments[:, start:end], group, axis=1)
    return before & (segments[:, None, low:end, None] == queries[:, None, None, :])


# Convolutions ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: Array, kernel: Array, stride: int, border: int) -> Array:
    """The same; its gradient with respect to the kernel is made of products, a row of the kernel each.

    XLA's own, a convolution with the batch for channels, takes three to ten times as long as the forward pass on CPUs:
    this halves a train step of a small network.
    """
    return correlate(x, kernel, stride, border)


def _conv_forward(x: Array, kernel: Array, stride: int, border: int) -> tuple[Array, tuple[Array, Array]]:
    return correlate(x, kernel, stride, border), (x, kernel)


def _conv_backward(stride: int, border: int, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    (x, kernel), (_, down, across, outputs) = residuals, grad.shape
    (into_x,) = jax.linear_transpose(lambda x: correlate(x, kernel, stride, border), x)(grad)
    size, bordered = kernel.shape[0], jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    rows, ends = grad.reshape(-1, outputs), (stride * (down - 1) + 1, stride * (across - 1) + 1)

    def row(i: int) -> Array:
        windows = [bordered[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for j in range(size)]
        return jnp.concatenate(windows, axis=3).reshape(len(rows), -1).T @ rows

    into_kernel = jnp.stack([row(i) for i in range(size)])
    return into_x, into_kernel.reshape(kernel.shape)


conv.defvjp(_conv_forward, _conv_backward)


def max_pool(x: Array, size: int, stride: int, border: int = 0) -> Array:
    """The largest value of every window; what is left over at the far edge is not read.

    Places that are largest together share the gradient. Made of one strided slice for every place in a window: XLA's
    gradient of `reduce_window` scatters what it selects, which on CPUs takes an order of magnitude longer.
    """
    x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), constant_values=-jnp.inf)
    down, across = (stride * ((side - size) // stride) + 1 for side in x.shape[1:3])
    places = itertools.product(range(size), repeat=2)
    return functools.reduce(jnp.maximum, (x[:, i : i + down : stride, j : j + across : stride] for i, j in places))
