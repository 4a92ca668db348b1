"""Convolutions, their norms and pools, and the head: pure functions of arrays (batch, height, width, channels)."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from training import mesh
from training.nets import cpu
from training.nets.initial import Leaf
from training.nets.primitives import correlate, upcast_to_f32
from training.types import Collections, Params

NORMS = ("batch", "group")
EPS = 1e-5
GROUPS = 32  # of channels, or the most that divide them (Wu and He 2018)

Images = Float[Array, "batch height width channels"]
Variables = Mapping[str, Collections]  # collections by name: "params", and "batch_stats"
Rates = dict[str, Array]  # of what is dropped in training, by name


class Classifier(nn.Module):
    """What every model of images shares: features, then one linear head. Hashable: equal models share compiled steps."""

    def features(
        self,
        variables: Variables,
        images: Images,
        key: Array | None = None,
        rates: Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch features"], Collections]:
        """One vector an image, which the head reads, and the running statistics after this batch ({}: there are none).

        Args:
          variables: "params" and, of models with batch norm, "batch_stats", unboxed.
          images: normalised pixels.
          key: of what is dropped; None: nothing is.
          rates: "dropout" and "stochastic_depth", each read by models that have it.
          train: whether batch norm uses the batch's own mean and variance.
        """
        raise NotImplementedError

    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, drawn; see `training.nets.initial.variables`."""
        raise NotImplementedError

    def filters(self, params: Params) -> Float[np.ndarray, "height width channels filters"] | None:
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
        self,
        variables: Variables,
        images: Images,
        key: Array | None = None,
        rates: Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch classes"], Collections]:
        """Logits and the running statistics after this batch; arguments as in `features`."""
        vectors, stats = self.features(variables, images, key, rates, train)
        p, dtype = variables["params"]["head"], jnp.dtype(self.logit_dtype)  # type: ignore[attr-defined]
        product = jnp.dot(vectors, p["kernel"].astype(vectors.dtype), preferred_element_type=dtype)
        return product + p["bias"].astype(dtype), stats

    def __call__(
        self, variables: Variables, images: Images, key: Array | None = None, rates: Rates | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits with running statistics; arguments as in `features`."""
        return self.classify(variables, images, key, rates)[0]


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


def conv(
    x: Images, kernel: Float[Array, "size size channels outputs"], stride: int = 1, border: int = -1
) -> Float[Array, "batch rows columns outputs"]:
    """Correlation with a kernel over a zero border; by default of half its size, so that the stride divides the sides."""
    border = (kernel.shape[0] - 1) // 2 if border < 0 else border
    apply = cpu.conv if mesh.platform() == "cpu" else correlate
    return apply(x, kernel.astype(x.dtype), stride, border)


def max_pool(x: Images, size: int, stride: int, border: int = 0) -> Float[Array, "batch rows columns channels"]:
    """The largest value of every window; what is left over at the far edge is not read."""
    if mesh.platform() == "cpu":
        return cpu.max_pool(x, size, stride, border)
    padding = ((0, 0), (border, border), (border, border), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


def norm_leaves(kind: str, channels: int, scale: float = 1.0) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Parameters and running statistics of a norm."""
    params = {"scale": Leaf((channels,), (None,), offset=scale), "bias": Leaf((channels,), (None,))}
    stats = {"mean": Leaf((channels,), (None,)), "var": Leaf((channels,), (None,), offset=1.0)}
    return params, stats if kind == "batch" else {}


def norm(
    kind: str, p: Params, stats: Collections, x: Images, train: bool, momentum: float
) -> tuple[Images, Collections]:
    """Batch or group norm, computed in float32, and the running statistics after it.

    Batch norm (Ioffe and Szegedy 2015) uses the mean and variance over the whole batch in training (over each micro-batch
    where it is accumulated), which under a mesh is a sum over all devices, and moves its running ones towards them by a
    share 1 - `momentum` (the variance with n / (n - 1), as in Torch); otherwise it uses the running ones.
    """
    full = upcast_to_f32(x)
    if kind == "group":
        channels = x.shape[-1]
        groups = max(count for count in range(1, min(GROUPS, channels) + 1) if channels % count == 0)
        parts = full.reshape(*x.shape[:3], groups, channels // groups)
        mean = jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
        var = jnp.mean(jnp.square(parts - mean), axis=(1, 2, 4), keepdims=True)
        out = ((parts - mean) * jax.lax.rsqrt(var + EPS)).reshape(x.shape) * upcast_to_f32(p["scale"])
    else:
        mean, var = stats["mean"], stats["var"]
        if train:
            mean = jnp.mean(full, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(full - mean), axis=(0, 1, 2))
            count = full.size // full.shape[-1]
            found = {"mean": mean, "var": var * (count / max(count - 1, 1))}
            stats = {name: momentum * old + (1 - momentum) * found[name] for name, old in stats.items()}
        out = (full - mean) * (jax.lax.rsqrt(var + EPS) * upcast_to_f32(p["scale"]))
    return (out + upcast_to_f32(p["bias"])).astype(x.dtype), stats
