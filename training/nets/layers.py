"""Products, norms, activations, positions and dropout: pure functions of arrays, and of the parameters that a block has.

Activations are [batch, length, width]. Where the devices of the mesh are CPUs and hold whole sequences, products and norms
are those of `training.nets.cpu`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from training import mesh, per_device
from training.nets import cpu, tpu
from training.nets.block_config import BlockConfig
from training.nets.initial import Leaf, Leaves
from training.nets.primitives import upcast_to_f32
from training.nets.rounding import rounded
from training.types import Params

NORMS = ("rms", "layer")
Dropout = tuple[Array, Array]  # a key and a rate
Layer = Int[Array, ""] | int  # index of a block, which may be traced
Drop = Callable[[Array, Layer, int], Array]  # of an activation, at a layer and a place in it


def _laid_out_for_cpus() -> bool:
    """Whether `training.nets.cpu` serves: the devices are CPUs and hold whole sequences, for it merges batch and length."""
    return mesh.platform() == "cpu" and mesh.ways("length") == 1


# Linear maps ------------------------------------------------------------------------------------------------------------


def product(
    x: Float[Array, "*rows fan_in"], kernel: Float[Array, "fan_in fan_out"], dtype: DTypeLike | None = None
) -> Float[Array, "*rows fan_out"]:
    """x times a kernel, accumulated in `dtype`, by default that of both."""
    if _laid_out_for_cpus():
        return cpu.product(x, kernel, dtype)
    return jnp.matmul(x, kernel, preferred_element_type=None if dtype is None else jnp.dtype(dtype))


def product_gradients(
    x: Float[Array, "rows fan_in"], kernel: Float[Array, "fan_in fan_out"], grad: Float[Array, "rows fan_out"]
) -> tuple[Float[Array, "rows fan_in"], Float[Array, "fan_in fan_out"]]:
    """Gradients of the factors of a product by that of the product, summed in float32 at least, of factors of one dtype."""
    if _laid_out_for_cpus() and x.dtype != jnp.bfloat16:
        return grad @ kernel.T, cpu.kernel_gradient(x, grad)
    sums = jnp.promote_types(x.dtype, jnp.float32)
    of_kernel = jax.lax.dot_general(x, grad, (((0,), (0,)), ((), ())), preferred_element_type=sums)
    return jnp.matmul(grad, kernel.T, preferred_element_type=sums), of_kernel


def linear(p: Params, x: Float[Array, "*rows fan_in"]) -> Float[Array, "*rows fan_out"]:
    """The product with a kernel, and a bias where there is one; of rounded inputs where the parameters say so."""
    if "inputs" in p:
        x = rounded(x, p["inputs"], -1)
    return _biased(p, product(x, p["kernel"].astype(x.dtype)))


def to_heads(
    parameters: Sequence[Params], x: Float[Array, "batch length fan_in"], width: int
) -> list[Float[Array, "batch length heads {width}"]]:
    """`linears`, cut into heads of `width` features.

    Off CPUs one product makes heads and features two dimensions, which the compiler may lay out as attention reads them;
    cut afterwards, every array is copied.
    """
    if _laid_out_for_cpus() or any("inputs" in p for p in parameters):
        return [part.reshape(*x.shape[:2], -1, width) for part in linears(parameters, x)]
    kernels = [p["kernel"].astype(x.dtype).reshape(x.shape[-1], -1, width) for p in parameters]
    parts = [jnp.einsum("btd,dhw->bthw", x, kernel) for kernel in kernels]
    return [
        part + p["bias"].astype(x.dtype).reshape(-1, width) if "bias" in p else part
        for p, part in zip(parameters, parts, strict=True)
    ]


def from_heads(p: Params, x: Float[Array, "batch length heads width"]) -> Float[Array, "batch length fan_out"]:
    """`linear` of the features of all heads; see `to_heads`."""
    if _laid_out_for_cpus() or "inputs" in p:
        return linear(p, x.reshape(*x.shape[:2], -1))
    kernel = p["kernel"].astype(x.dtype).reshape(*x.shape[2:], -1)
    return _biased(p, jnp.einsum("bthw,hwd->btd", x, kernel))


def linears(parameters: Sequence[Params], x: Float[Array, "*rows fan_in"]) -> list[Array]:
    """`linear` of one input with each of these."""
    split = mesh.ways("heads") * mesh.ways("kv") > 1 or any("inputs" in p for p in parameters)
    if split or not _laid_out_for_cpus():
        return [linear(p, x) for p in parameters]
    parts = cpu.products(x, [p["kernel"].astype(x.dtype) for p in parameters])
    return [_biased(p, y) for p, y in zip(parameters, parts, strict=True)]


def _biased(p: Params, y: Array) -> Array:
    if "bias" not in p:
        return y
    bias = p["bias"].astype(y.dtype)
    return cpu.add_bias(y, bias) if _laid_out_for_cpus() else y + bias


def projection(
    rows: int, columns: int, axes: tuple[str | None, str | None], bias: bool = False, scale: float = 1.0
) -> Leaves:
    """The parameters of `linear`.

    Args:
      rows: features of the input.
      columns: features of the output.
      axes: logical axes of the kernel.
      bias: whether there is one.
      scale: factor of the kernel's standard deviation of 1 / sqrt(rows).
    """
    kernel = {"kernel": Leaf((rows, columns), axes, scale * rows**-0.5)}
    return kernel | ({"bias": Leaf((columns,), axes[1:])} if bias else {})


# Embeddings -------------------------------------------------------------------------------------------------------------

FEW_ROWS = 1024  # up to which a table is read by a product: adding gradients to few rows is slow where many add at once


def embedded(table: Float[Array, "rows width"], ids: Int[Array, "*shape"], dtype: str) -> Float[Array, "*shape width"]:
    """Rows of a table in `dtype`; the table's gradient is summed in its own dtype, however many ids are equal."""
    if mesh.platform() != "cpu" and table.shape[0] <= FEW_ROWS:
        return _by_product(table, ids, dtype)
    return _by_index(table, ids, dtype) if mesh.ways("embed") > 1 else table[ids].astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_index(table: Array, ids: Array, dtype: str) -> Array:
    """The rows of a table whose columns FSDP splits: sums of gradients are scattered, where they would be whole on every
    device."""
    return table[ids].astype(dtype)


def _by_index_forward(table: Array, ids: Array, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return _by_index(table, ids, dtype), (table, ids)


def _by_index_backward(dtype: str, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, np.ndarray]:
    del dtype
    table, ids = residuals
    add = lambda ids, grad, _: ((), jnp.zeros(table.shape, table.dtype).at[ids].add(grad.astype(table.dtype)))
    _, sums = per_device.sums_by_tokens(add, (ids, grad), (), axis=1)
    return sums, np.zeros(ids.shape, jax.dtypes.float0)


_by_index.defvjp(_by_index_forward, _by_index_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_product(table: Array, ids: Array, dtype: str) -> Array:
    """The rows as a product with a matrix of zeros and ones: exact, where the factors are not rounded to bfloat16 first."""
    ones = jax.nn.one_hot(ids, table.shape[0], dtype=dtype)
    return jnp.matmul(ones, table.astype(dtype), precision=jax.lax.Precision.HIGHEST)


def _by_product_forward(table: Array, ids: Array, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return _by_product(table, ids, dtype), (table, ids)


def _by_product_backward(dtype: str, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, np.ndarray]:
    table, ids = residuals
    ones, axes = jax.nn.one_hot(ids, table.shape[0], dtype=dtype), tuple(range(ids.ndim))
    sums = jax.lax.dot_general(
        ones,
        grad,
        ((axes, axes), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=table.dtype,
    )
    return sums, np.zeros(ids.shape, jax.dtypes.float0)


_by_product.defvjp(_by_product_forward, _by_product_backward)

# Norms ------------------------------------------------------------------------------------------------------------------


def norm(config: BlockConfig, p: Params, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """The norm of each row, of the kind that the blocks have."""
    if config.norm == "rms":
        return rms_norm(x, p["scale"], config.norm_eps)
    return layer_norm(x, p["scale"], p.get("bias"), config.norm_eps)


def norm_leaves(config: BlockConfig, width: int) -> Leaves:
    """The parameters of `norm`."""
    scale = {"scale": Leaf((width,), (None,), offset=1.0)}
    return scale | ({"bias": Leaf((width,), (None,))} if config.norm == "layer" and config.bias else {})


def rms_norm(x: Float[Array, "*rows width"], scale: Float[Array, " width"], eps: float) -> Float[Array, "*rows width"]:
    """x over its root mean square, times `scale`; computed in float32 (Zhang and Sennrich 2019)."""
    return normalised(False, eps, x, scale).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*rows width"], scale: Float[Array, " width"], bias: Float[Array, " width"] | None, eps: float
) -> Float[Array, "*rows width"]:
    """(x - mean) / standard deviation, times `scale`, plus `bias`; computed in float32 (Ba et al. 2016)."""
    out = normalised(True, eps, x, scale)
    return (out if bias is None else out + upcast_to_f32(bias)).astype(x.dtype)


def normalised(
    centre: bool, eps: float, x: Float[Array, "*rows width"], scale: Float[Array, " width"]
) -> Float[Array, "*rows width"]:
    """Each row over its root mean square, times `scale`, in float32.

    Args:
      centre: whether the row's mean is subtracted first.
      eps: added to the mean square.
      x: the rows.
      scale: of each feature.
    """
    if _laid_out_for_cpus():
        return cpu.norm(centre, eps, x, scale)
    full = upcast_to_f32(x)
    full = full - jnp.mean(full, axis=-1, keepdims=True) if centre else full
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(full), axis=-1, keepdims=True) + eps)
    return full * inverse * upcast_to_f32(scale)


# Activations ------------------------------------------------------------------------------------------------------------


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


# Positions ------------------------------------------------------------------------------------------------------------


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
    if mesh.platform() == "tpu":
        return tpu.rotate(x, cos, sin)
    left, right = jnp.split(upcast_to_f32(x), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


# Dropout --------------------------------------------------------------------------------------------------------------


def dropout(x: Float[Array, "*shape"], key: Array, rate: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); `rate` < 1 may be traced."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros((), x.dtype))


def no_drop(x: Array, layer: Layer, place: int) -> Array:
    """The identity, where nothing is dropped."""
    del layer, place
    return x


def dropper(key_and_rate: Dropout | None) -> Drop:
    """Drops an activation at a (layer, place), each with its own key; the identity without dropout."""
    if key_and_rate is None:
        return no_drop
    key, rate = key_and_rate
    return lambda x, layer, place: dropout(x, jax.random.fold_in(jax.random.fold_in(key, layer + 1), place), rate)
