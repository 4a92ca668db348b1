"""The plain convolutional network: 3x3 convolutions and ReLU with 2x2 pools between them, then one dense layer.

The first convolution has `width` channels, all others twice as many, and so has the dense layer. Width 32 and depth 3
without a border is the network of tutorials on MNIST: 32, pool, 64, pool, 64, dense 64.

Parameters: conv1/{kernel (3, 3, channels, width), bias}, conv2, ..., dense/{kernel,bias}, head. Initial values: kernels
normal with standard deviation sqrt(2 / fan in), the head zero.
"""

import math
from collections.abc import Iterator

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from training.cost import Cost
from training.errors import BadInput
from training.nets.initial import Leaf, Leaves, parameters
from training.nets.layers import dropper, linear
from training.types import Collections, Params
from vision import layers

PADDINGS = {"valid": 0, "same": 1}  # pixels of zero border


class ConvNet(layers.Classifier):
    """A classifier of images.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      depth: convolutions; all but the last are followed by a pool.
      width: channels of the first convolution.
      padding: a name in `PADDINGS`.
      dropout: whether features of the dense layer are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    classes: int
    image: tuple[int, int, int]
    depth: int
    width: int
    padding: str = "valid"
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `layers.Classifier`."""
        return parameters(self, leaves(self), {}, init_scale, self.param_dtype)

    def features(
        self,
        variables: layers.Variables,
        images: layers.Images,
        key: Array | None = None,
        rates: layers.Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch features"], Collections]:
        """The dense layer, as in `layers.Classifier`."""
        params = variables["params"]
        drop = dropper((key, rates["dropout"]) if self.dropout and key is not None and rates else None)
        x = images.astype(self.compute_dtype)
        for layer in range(1, self.depth + 1):
            p = params[f"conv{layer}"]
            x = layers.conv(x, p["kernel"], border=PADDINGS[self.padding]) + p["bias"].astype(x.dtype)
            # Rectified after the pool, which is the same and leaves a quarter to rectify.
            x = jax.nn.relu(layers.max_pool(x, 2, 2) if layer < self.depth else x)
        x = linear(params["dense"], x.reshape(len(x), -1))
        return drop(jax.nn.relu(x), 0, 0), {}


def check(model: ConvNet) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    if model.padding not in PADDINGS:
        raise BadInput(f"model.padding: {model.padding!r} is not one of {', '.join(PADDINGS)}")
    for field in ("depth", "width"):
        if getattr(model, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(model, field)}")
    if min(side for *_, sides in convolutions(model) for side in sides) < 1:
        height, width, _ = model.image
        raise BadInput(f"model.depth: {model.depth} convolutions leave nothing of {height}x{width} pixels")


def convolutions(model: ConvNet) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Input channels, output channels and the sides of what each convolution puts out, before its pool."""
    shrink, (height, width, channels) = 2 - 2 * PADDINGS[model.padding], model.image
    for layer in range(model.depth):
        height, width = height - shrink, width - shrink
        outputs = model.width * (2 if layer else 1)
        yield channels, outputs, (height, width)
        height, width, channels = height // 2, width // 2, outputs


def leaves(model: ConvNet) -> Leaves:
    """The initial parameters."""
    tree, features = {}, 0
    for layer, (inputs, outputs, sides) in enumerate(convolutions(model), 1):
        tree[f"conv{layer}"] = {"kernel": layers.kernel(3, inputs, outputs), "bias": Leaf((outputs,), ("out",))}
        features = math.prod(sides) * outputs
    width = 2 * model.width
    return tree | {"dense": layers.dense(features, width), "head": layers.head(width, model.classes)}


def cost(model: ConvNet) -> Cost:
    """Parameters and forward products of one image; the first convolution counts as embedding."""
    tree = leaves(model)
    params = {name: sum(math.prod(leaf.shape) for leaf in part.values()) for name, part in tree.items()}
    products = {
        f"conv{layer}": 2.0 * 9 * inputs * outputs * math.prod(sides)
        for layer, (inputs, outputs, sides) in enumerate(convolutions(model), 1)
    }
    products |= {name: 2.0 * math.prod(tree[name]["kernel"].shape) for name in ("dense", "head")}
    return Cost(params, ("conv1",), products, products, tokens_per_example=1, from_data=products["conv1"])
