"""Convolutions, their norms and pools, and the head: pure functions of arrays (batch, height, width, channels)."""

import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from training.nets.initial import Leaf
from training.nets.layers import wide

NORMS = ("batch", "group")
EPS = 1e-5
GROUPS = 32  # of channels, or the most that divide them (Wu and He 2018)

Images = Float[Array, "batch height width channels"]
Rates = dict[str, Array]  # of what is dropped in training, by name


class Classifier(nn.Module):
    """What every model of images shares: features, then one linear head. Hashable: equal models share compiled steps."""

    def features(
        self, images: Images, key: Array | None = None, rates: Rates | None = None, train: bool = False
    ) -> tuple[Float[Array, "batch width"], Any]:
        """One vector an image, which the head reads, and the running statistics after this batch ({}: there are none).

        Args:
          images: normalised pixels.
          key: of what is dropped; None: nothing is.
          rates: "dropout" and "stochastic_depth", each read by models that have it.
          train: whether batch norm uses the batch's own mean and variance.
        """
        raise NotImplementedError

    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> dict[str, Any]:
        """The parameter tree; under `init(key, init_scale, method="parameters")` it is drawn, and nothing else is run."""
        raise NotImplementedError

    def filters(self, params: Any) -> Float[np.ndarray, "height width channels filters"] | None:
        """What the first layer correlates images with; None: nothing that can be seen."""
        kernels = [params[name]["kernel"] for name in ("stem", "conv1") if name in params]
        if kernels:
            return kernels[0]
        kernel = next((params[name]["kernel"] for name in ("patch", "hidden1") if name in params), None)
        height, width, channels = self.image  # type: ignore[attr-defined]
        if kernel is None:
            return None
        sides = (
            (height, width) if len(kernel) == height * width * channels else 2 * (math.isqrt(len(kernel) // channels),)
        )
        return kernel.reshape(*sides, channels, -1)

    def classify(
        self, images: Images, key: Array | None = None, rates: Rates | None = None, train: bool = False
    ) -> tuple[Float[Array, "batch classes"], Any]:
        """Logits and the running statistics after this batch; arguments as in `features`."""
        vectors, stats = self.features(images, key, rates, train)
        p, dtype = self.parameters()["head"], jnp.dtype(self.logit_dtype)  # type: ignore[attr-defined]
        product = jnp.dot(vectors, p["kernel"].astype(vectors.dtype), preferred_element_type=dtype)
        return product + p["bias"].astype(dtype), stats

    def __call__(
        self, images: Images, key: Array | None = None, rates: Rates | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits with running statistics; arguments as in `features`."""
        return self.classify(images, key, rates)[0]


def head(width: int, classes: int) -> dict[str, Leaf]:
    """The parameters of the head: zero, so that training starts at log(classes)."""
    return {"kernel": Leaf((width, classes), ("in", None)), "bias": Leaf((classes,), (None,))}


def kernel(size: int, inputs: int, outputs: int) -> Leaf:
    """A square kernel, normal with standard deviation sqrt(2 / fan in) (He et al. 2015)."""
    return Leaf((size, size, inputs, outputs), (None, None, "in", "out"), (2 / (size * size * inputs)) ** 0.5)


def dense(inputs: int, outputs: int) -> dict[str, Leaf]:
    """A layer before a ReLU: kernel normal with standard deviation sqrt(2 / fan in), bias zero."""
    return {
        "kernel": Leaf((inputs, outputs), ("in", "out"), (2 / inputs) ** 0.5),
        "bias": Leaf((outputs,), ("out",)),
    }


def cut(images: Images, patch: int) -> Float[Array, "batch patches pixels"]:
    """Square patches row by row, each as one vector.

    Raises:
      ValueError: the side of a patch does not divide the image.
    """
    batch, height, width, _ = images.shape
    grid = images.reshape(batch, height // patch, patch, width // patch, patch, -1)
    return jnp.swapaxes(grid, 2, 3).reshape(batch, (height // patch) * (width // patch), -1)


def conv(x: Images, kernel: Float[Array, "size size channels outputs"], stride: int = 1, border: int = -1) -> Images:
    """Correlation with a kernel over a zero border; by default of half its size, so that the stride divides the sides."""
    border = (kernel.shape[0] - 1) // 2 if border < 0 else border
    apply = _conv_on_cpu if jax.default_backend() == "cpu" else _conv
    return apply(x, kernel.astype(x.dtype), stride, border)


def _conv(x: Array, kernel: Array, stride: int, border: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(border, border)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_on_cpu(x: Array, kernel: Array, stride: int, border: int) -> Array:
    """The same; its gradient with respect to the kernel is made of products, a row of the kernel each.

    XLA's own, a convolution with the batch for channels, takes three to ten times as long as the forward pass on CPUs:
    this halves a train step of a small network.
    """
    return _conv(x, kernel, stride, border)


def _conv_forward(x: Array, kernel: Array, stride: int, border: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, stride, border), (x, kernel)


def _conv_backward(stride: int, border: int, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    (x, kernel), (_, down, across, outputs) = kept, grad.shape
    (into_x,) = jax.linear_transpose(lambda x: _conv(x, kernel, stride, border), x)(grad)
    size, wide_x = kernel.shape[0], jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    rows, ends = grad.reshape(-1, outputs), (stride * (down - 1) + 1, stride * (across - 1) + 1)

    def row(i: int) -> Array:
        seen = [wide_x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for j in range(size)]
        return jnp.concatenate(seen, axis=3).reshape(len(rows), -1).T @ rows

    into_kernel = jnp.stack([row(i) for i in range(size)])
    return into_x, into_kernel.reshape(kernel.shape)


_conv_on_cpu.defvjp(_conv_forward, _conv_backward)


def max_pool(x: Images, size: int, stride: int, border: int = 0) -> Images:
    """The largest value of every window; what is left over at the far edge is not read.

    Places that are largest together share the gradient. Made of one strided slice for every place in a window: XLA's
    gradient of `reduce_window` scatters what it selects, which on CPUs takes an order of magnitude longer.
    """
    x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), constant_values=-jnp.inf)
    down, across = (stride * ((side - size) // stride) + 1 for side in x.shape[1:3])
    places = itertools.product(range(size), repeat=2)
    return functools.reduce(jnp.maximum, (x[:, i : i + down : stride, j : j + across : stride] for i, j in places))


def norm_leaves(kind: str, channels: int, scale: float = 1.0) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Parameters and running statistics of a norm."""
    params = {"scale": Leaf((channels,), (None,), offset=scale), "bias": Leaf((channels,), (None,))}
    stats = {"mean": Leaf((channels,), (None,)), "var": Leaf((channels,), (None,), offset=1.0)}
    return params, stats if kind == "batch" else {}


def norm(kind: str, p: Any, stats: Any, x: Images, train: bool, momentum: float) -> tuple[Images, Any]:
    """Batch or group norm, computed in float32, and the running statistics after it.

    Batch norm (Ioffe and Szegedy 2015) uses the mean and variance over the whole batch in training (over each micro-batch
    where it is accumulated), which under a mesh is a sum over all devices, and moves its running ones towards them by a
    share 1 - `momentum` (the variance with n / (n - 1), as in Torch); otherwise it uses the running ones.
    """
    full = wide(x)
    if kind == "group":
        channels = x.shape[-1]
        groups = max(count for count in range(1, min(GROUPS, channels) + 1) if channels % count == 0)
        parts = full.reshape(*x.shape[:3], groups, channels // groups)
        mean = jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
        var = jnp.mean(jnp.square(parts - mean), axis=(1, 2, 4), keepdims=True)
        out = ((parts - mean) * jax.lax.rsqrt(var + EPS)).reshape(x.shape) * wide(p["scale"])
    else:
        mean, var = stats["mean"], stats["var"]
        if train:
            mean = jnp.mean(full, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(full - mean), axis=(0, 1, 2))
            count = full.size // full.shape[-1]
            found = {"mean": mean, "var": var * (count / max(count - 1, 1))}
            stats = {name: momentum * old + (1 - momentum) * found[name] for name, old in stats.items()}
        out = (full - mean) * (jax.lax.rsqrt(var + EPS) * wide(p["scale"]))
    return (out + wide(p["bias"])).astype(x.dtype), stats
