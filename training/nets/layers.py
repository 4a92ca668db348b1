"""Products, norms, activations, rotary positions and dropout: pure functions of arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x in float32, or in float64 where it is that already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(
    x: Float[Array, "*rows fan_in"], kernel: Float[Array, "fan_in fan_out"], dtype: Any = None
) -> Float[Array, "*rows fan_out"]:
    """x times a kernel, accumulated in `dtype`, by default that of both.

    On CPU the kernel's gradient is a product of its own: see `_thin_first`.
    """
    plain = x.dtype == kernel.dtype and jnp.dtype(dtype or x.dtype) == x.dtype and x.dtype != jnp.bfloat16
    if plain and jax.default_backend() == "cpu":
        return _thin_first(x, kernel)
    return jnp.matmul(x, kernel, preferred_element_type=None if dtype is None else jnp.dtype(dtype))


def product_gradients(
    x: Float[Array, "rows fan_in"], kernel: Float[Array, "fan_in fan_out"], grad: Float[Array, "rows fan_out"]
) -> tuple[Float[Array, "rows fan_in"], Float[Array, "fan_in fan_out"]]:
    """Gradients of the factors of a product by that of the product, summed in float32 at least, of factors of one dtype."""
    if jax.default_backend() == "cpu" and x.dtype != jnp.bfloat16:
        return grad @ kernel.T, _kernel_gradient_on_cpu(x, grad)
    sums = jnp.promote_types(x.dtype, jnp.float32)
    of_kernel = jax.lax.dot_general(x, grad, (((0,), (0,)), ((), ())), preferred_element_type=sums)
    return jnp.matmul(grad, kernel.T, preferred_element_type=sums), of_kernel


@jax.custom_vjp
def _thin_first(x: Array, kernel: Array) -> Array:
    """Both factors of a kernel's gradient are contracted over their rows, and XLA's CPU lays the left one out anew for it:
    with the narrower one there, the product is up to three times as fast. The barrier keeps XLA from turning it round."""
    return x @ kernel


def _thin_first_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _thin_first_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return grad @ kernel.T, _kernel_gradient_on_cpu(x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]))


def _kernel_gradient_on_cpu(rows: Array, grads: Array) -> Array:
    turned = rows.shape[1] > grads.shape[1]
    left, right = (grads, rows) if turned else (rows, grads)
    found = jax.lax.optimization_barrier(jax.lax.dot_general(left, right, (((0,), (0,)), ((), ()))))
    return found.T if turned else found


_thin_first.defvjp(_thin_first_forward, _thin_first_backward)


def rms_norm(x: Float[Array, "*rows width"], scale: Float[Array, " width"], eps: float) -> Float[Array, "*rows width"]:
    """x over its root mean square, times `scale`; computed in float32 (Zhang and Sennrich 2019)."""
    out: Array = _norm(False, eps, x, scale)
    return out.astype(x.dtype)


def layer_norm(
    x: Float[Array, "*rows width"], scale: Float[Array, " width"], bias: Float[Array, " width"] | None, eps: float
) -> Float[Array, "*rows width"]:
    """(x - mean) / standard deviation, times `scale`, plus `bias`; computed in float32 (Ba et al. 2016)."""
    out: Array = _norm(True, eps, x, scale)
    return (out if bias is None else out + wide(bias)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _norm(centre: bool, eps: float, x: Array, scale: Array) -> Array:
    """Each row, centred or not, over its root mean square, times `scale`, in float32.

    The backward pass keeps x and two numbers a row, and takes sums over features as products with `scale`: it reads and
    writes less memory than the derived one."""
    return _norm_forward(centre, eps, x, scale)[0]


def _norm_forward(centre: bool, eps: float, x: Array, scale: Array) -> tuple[Array, Any]:
    full = wide(x)
    mean = jnp.mean(full, axis=-1, keepdims=True) if centre else jnp.zeros((), full.dtype)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(full - mean), axis=-1, keepdims=True) + eps)
    return (full - mean) * inverse * wide(scale), (x, mean, inverse, scale)


def _norm_backward(centre: bool, eps: float, kept: Any, grads: Array) -> tuple[Array, Array]:
    x, mean, inverse, scale = kept
    scales = wide(scale)
    normed = (wide(x) - mean) * inverse

    def scaled_mean(values: Array) -> Array:
        """The mean of values times the scale, of each row."""
        return jnp.matmul(values, scales, precision=jax.lax.Precision.HIGHEST)[..., None] / x.shape[-1]

    along = grads * normed
    dx = grads * scales - normed * scaled_mean(along)
    dx = inverse * (dx - scaled_mean(grads) if centre else dx)
    return dx.astype(x.dtype), jnp.sum(along, axis=tuple(range(x.ndim - 1))).astype(scale.dtype)


_norm.defvjp(_norm_forward, _norm_backward)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The tanh form of x times the normal distribution function (Hendrycks and Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=True)


# Name -> function, and whether a second projection gates it (Shazeer 2020).
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "gelu": (gelu, False),
    "gelu_exact": (functools.partial(jax.nn.gelu, approximate=False), False),
    "relu": (jax.nn.relu, False),
    "geglu": (gelu, True),
    "swiglu": (jax.nn.silu, True),
}


def positions_in_segments(segments: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Each token's distance from the start of its segment, a run of equal ids."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)
    first = jnp.ones_like(segments[:, :1], dtype=bool)
    starts = jnp.concatenate([first, segments[:, 1:] != segments[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def sinusoids(positions: Int[Array, "*rows length"], width: int) -> Float[Array, "*rows length width"]:
    """Sines in the first half of the features and cosines in the second, of wavelengths from 2 pi to 20,000 pi (Vaswani et
    al. 2017, 3.5, which interleaves them)."""
    half = (width + 1) // 2
    angle = positions.astype(jnp.float32)[..., None] * 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[..., :width]


def relative_buckets(
    queries: Int[Array, " new"], keys: Int[Array, " length"], count: int, farthest: int, causal: bool
) -> Int[Array, "new length"]:
    """The bucket of each distance from a query to a key: small ones have their own, larger ones share by their log up to
    `farthest`, beyond which all share the last (Raffel et al. 2019, 2.1).

    Args:
      count: of the buckets; without `causal`, half of them are for the keys after the query.
      causal: whether keys after the query are never looked up.
    """
    distance = queries[:, None] - keys[None, :]
    after = jnp.zeros_like(distance)
    if not causal:
        count //= 2
        after = jnp.where(distance < 0, count, 0)
        distance = jnp.abs(distance)
    distance = jnp.maximum(distance, 0)
    exact = count // 2
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / jnp.log(farthest / exact)
    shared = exact + (ratio * (count - exact)).astype(jnp.int32)
    return after + jnp.where(distance < exact, distance, jnp.minimum(shared, count - 1))


def rotary_angles(
    positions: Int[Array, "*rows length"], head_width: int, theta: float
) -> tuple[Float[Array, "*rows length 1 half"], Float[Array, "*rows length 1 half"]]:
    """Cosines and sines of the angles that rotate each pair of a head's features, ready to broadcast over heads."""
    frequency = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angle = positions.astype(jnp.float32)[..., None, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float[Array, "batch length heads width"], cos: Float[Array, "... half"], sin: Float[Array, "... half"]
) -> Float[Array, "batch length heads width"]:
    """Rotary positions (Su et al. 2021); feature i is paired with i + width / 2, as in Llama's published weights."""
    left, right = jnp.split(wide(x), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def dropout(x: Float[Array, "*shape"], key: Array, rate: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); `rate` < 1 may be traced."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros((), x.dtype))
