"""The multilayer perceptron on pixels: `depth` hidden layers of one width, ReLU.

Parameters: hidden1/{kernel (pixels, width), bias}, hidden2 (width, width), ..., head. Initial values: kernels normal with
standard deviation sqrt(2 / fan in), the head zero.
"""

import math

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from training.cost import Cost
from training.errors import BadInput
from training.nets.initial import Leaves, parameters
from training.nets.layers import dropper, linear
from training.types import Collections, Params
from vision import layers


class MLP(layers.Classifier):
    """A classifier of images.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      depth: hidden layers.
      width: features of each.
      dropout: whether hidden features are dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    classes: int
    image: tuple[int, int, int]
    depth: int
    width: int
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
        """The last hidden layer, as in `layers.Classifier`."""
        params = variables["params"]
        drop = dropper((key, rates["dropout"]) if self.dropout and key is not None and rates else None)
        x = images.astype(self.compute_dtype).reshape(len(images), -1)
        for layer in range(self.depth):
            x = drop(jax.nn.relu(linear(params[f"hidden{layer + 1}"], x)), layer, 0)
        return x, {}


def check(model: MLP) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    for field in ("depth", "width"):
        if getattr(model, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(model, field)}")


def leaves(model: MLP) -> Leaves:
    """The initial parameters."""
    sides = [math.prod(model.image)] + [model.width] * model.depth
    hidden = {f"hidden{i + 1}": layers.dense(*sides[i : i + 2]) for i in range(model.depth)}
    return hidden | {"head": layers.head(model.width, model.classes)}


def cost(model: MLP) -> Cost:
    """Parameters and forward products of one image; the first layer counts as embedding."""
    params, products = {}, {}
    for name, part in leaves(model).items():
        rows, columns = part["kernel"].shape
        params[name], products[name] = (rows + 1) * columns, 2.0 * rows * columns
    return Cost(params, ("hidden1",), products, products, tokens_per_example=1, from_data=products["hidden1"])
