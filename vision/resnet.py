"""Residual networks (He et al. 2015), with the stride in the 3x3 convolution (v1.5), or pre-activated (He et al. 2016).

Parameters, by the names of the convolutions in `convolutions`:

    stem/{kernel,norm}                         not the norm if pre-activated
    stage1/block1/conv1/{kernel,norm} ...      norm is {scale,bias}
    stage1/block1/shortcut/{kernel,norm}       where shape or stride change; without a norm if pre-activated
    final_norm/{scale,bias}                    pre-activated only
    head/{kernel,bias}

Running statistics of batch norm lie in a second collection, `batch_stats`, under the same names. Initial values: kernels
normal with sqrt(2 / fan in); the last scale of every block zero, so that blocks begin as the identity (Goyal et al. 2017; in
pre-activated blocks the last kernel is zero instead); the head zero.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.cost import Cost
from training.errors import BadInput
from training.nets.initial import Leaf, draw
from vision import layers

STEMS = ("cifar", "imagenet")
NORMS = ("batch", "group")
MOMENTUM = 0.9

# Blocks of each stage, whether they are bottlenecks, channels of the first stage, stem.
VARIANTS: dict[str, tuple[tuple[int, ...], bool, int, str]] = {
    "18": ((2, 2, 2, 2), False, 64, "imagenet"),
    "34": ((3, 4, 6, 3), False, 64, "imagenet"),
    "50": ((3, 4, 6, 3), True, 64, "imagenet"),
    "20": ((3, 3, 3), False, 16, "cifar"),
    "56": ((9, 9, 9), False, 16, "cifar"),
}


class Convolution(NamedTuple):
    """One convolution: its place in the tree, kernel, channels, stride, and the sides of what it puts out."""

    path: tuple[str, ...]
    size: int
    inputs: int
    outputs: int
    stride: int
    sides: tuple[int, int]


class ResNet(nn.Module):
    """A classifier of images; hashable, so that equal models share compiled steps.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      stages: blocks of each stage; each but the first halves the sides and doubles the channels.
      width: channels of the first stage.
      bottleneck: whether blocks are 1x1, 3x3, 1x1 with four times the channels, instead of two 3x3.
      preact: whether norms and activations come before convolutions.
      stem: "imagenet" (7x7 with stride 2 and a pool) or "cifar" (3x3).
      norm: "batch" or "group".
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    classes: int
    image: tuple[int, int, int]
    stages: tuple[int, ...]
    width: int
    bottleneck: bool = False
    preact: bool = False
    stem: str = "cifar"
    norm: str = "batch"
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> tuple[Any, Any]:
        """The trees of parameters and of running statistics, drawn under `init(key, init_scale, method="parameters")`.

        Args:
          init_scale: factor of every initial standard deviation; may be traced.
        """
        if not self.is_initializing():
            return tuple(nn.meta.unbox(self.variables.get(kind, {})) for kind in ("params", "batch_stats"))  # type: ignore[return-value]
        check(self)
        params, stats = leaves(self)
        drawn = {name: self.param(name, draw, part, init_scale, self.param_dtype) for name, part in params.items()}
        key = jax.random.key(0)  # nothing of the statistics is random
        kept = {
            name: self.variable("batch_stats", name, draw, key, part, 1.0, "float32").value
            for name, part in stats.items()
            if part
        }
        return drawn, kept

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Float[Array, "batch classes"], Any]:
        """Logits, and the running statistics after this batch.

        Args:
          images: normalised pixels.
          train: whether batch norm uses the batch's own mean and variance.
        """
        params, stats = self.parameters()
        if images.shape[1:] != self.image:
            raise BadInput(f"images of {images.shape[1:]} do not fit a model of {self.image}")
        after: dict[str, Any] = {}

        def normed(x: Array, *path: str) -> Array:
            out, found = layers.norm(self.norm, _at(params, path), _at(stats, path), x, train, MOMENTUM)
            _put(after, path, found)
            return out

        def convolved(x: Array, *path: str, stride: int = 1) -> Array:
            return layers.conv(x, _at(params, path)["kernel"], stride)

        x = convolved(images.astype(self.compute_dtype), "stem", stride=2 if self.stem == "imagenet" else 1)
        x = x if self.preact else nn.relu(normed(x, "stem", "norm"))
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, 1)
        for stage, count in enumerate(self.stages, 1):
            for number in range(1, count + 1):
                block = (f"stage{stage}", f"block{number}")
                stride = 2 if stage > 1 and number == 1 else 1
                apply = _preactivated if self.preact else _block
                x = apply(self, x, block, stride, "shortcut" in _at(params, block), normed, convolved)
        if self.preact:
            x = nn.relu(normed(x, "final_norm"))
        pooled, head = jnp.mean(x, axis=(1, 2)), params["head"]
        dtype = jnp.dtype(self.logit_dtype)
        logits = jnp.dot(pooled, head["kernel"].astype(pooled.dtype), preferred_element_type=dtype)
        return logits + head["bias"].astype(dtype), after if self.norm == "batch" else {}


def _block(model: ResNet, x: Array, block: tuple[str, ...], stride: int, project: bool, normed: Any, convolved: Any):
    y = x
    names = _names(model)
    for name in names:
        y = convolved(y, *block, name, stride=stride if name == _strided(model) else 1)
        y = normed(y, *block, name, "norm")
        y = y if name == names[-1] else nn.relu(y)
    if project:
        x = normed(convolved(x, *block, "shortcut", stride=stride), *block, "shortcut", "norm")
    return nn.relu(x + y)


def _preactivated(
    model: ResNet, x: Array, block: tuple[str, ...], stride: int, project: bool, normed: Any, convolved: Any
):
    y = x
    for name in _names(model):
        y = nn.relu(normed(y, *block, name, "norm"))
        if project and name == "conv1":
            x = convolved(y, *block, "shortcut", stride=stride)
        y = convolved(y, *block, name, stride=stride if name == _strided(model) else 1)
    return x + y


def _names(model: ResNet) -> tuple[str, ...]:
    return ("conv1", "conv2", "conv3") if model.bottleneck else ("conv1", "conv2")


def _strided(model: ResNet) -> str:
    return "conv2" if model.bottleneck else "conv1"


def variant(name: str) -> dict[str, Any]:
    """The shape of a published network: "50".

    Raises:
      BadInput: there is no such name.
    """
    if name not in VARIANTS:
        raise BadInput(f"model.variant: no {name!r}; known: {', '.join(VARIANTS)}")
    return dict(zip(("stages", "bottleneck", "width", "stem"), VARIANTS[name], strict=True))


def check(model: ResNet) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    for field, known in {"stem": STEMS, "norm": NORMS}.items():
        if getattr(model, field) not in known:
            raise BadInput(f"model.{field}: {getattr(model, field)!r} is not one of {', '.join(known)}")
    if not model.stages or min(model.stages) < 1:
        raise BadInput(f"model.stages: every stage needs a block, got {model.stages}")
    if model.width < 1:
        raise BadInput(f"model.width: must be at least 1, got {model.width}")


def convolutions(model: ResNet) -> Iterator[Convolution]:
    """Every convolution in order."""

    def smaller(sides: tuple[int, int], stride: int) -> tuple[int, int]:
        return -(-sides[0] // stride), -(-sides[1] // stride)

    large = model.stem == "imagenet"
    sides = smaller(model.image[:2], 2 if large else 1)
    channels = model.width
    yield Convolution(("stem",), 7 if large else 3, model.image[2], channels, 2 if large else 1, sides)
    sides = smaller(sides, 2 if large else 1)
    for stage, count in enumerate(model.stages):
        inner = model.width * 2**stage
        outer = inner * (4 if model.bottleneck else 1)
        for number in range(count):
            stride = 2 if stage and not number else 1
            after, block = smaller(sides, stride), (f"stage{stage + 1}", f"block{number + 1}")
            if model.bottleneck:
                yield Convolution((*block, "conv1"), 1, channels, inner, 1, sides)
                yield Convolution((*block, "conv2"), 3, inner, inner, stride, after)
                yield Convolution((*block, "conv3"), 1, inner, outer, 1, after)
            else:
                yield Convolution((*block, "conv1"), 3, channels, inner, stride, after)
                yield Convolution((*block, "conv2"), 3, inner, outer, 1, after)
            if stride > 1 or channels != outer:
                yield Convolution((*block, "shortcut"), 1, channels, outer, stride, after)
            sides, channels = after, outer


def leaves(model: ResNet) -> tuple[dict[str, Any], dict[str, Any]]:
    """The initial parameters and running statistics."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    last = _names(model)[-1]
    outputs = 0
    for path, size, inputs, outputs, _, _ in convolutions(model):
        kernel = layers.kernel(size, inputs, outputs)
        if model.preact and path[-1] == last:
            kernel = Leaf(kernel.shape, kernel.axes)
        _put(params, (*path, "kernel"), kernel)
        if model.preact and path[-1] in ("stem", "shortcut"):
            continue
        channels = inputs if model.preact else outputs
        first = 0.0 if path[-1] == last and not model.preact else 1.0
        for tree, part in zip((params, stats), layers.norm_leaves(model.norm, channels, first), strict=True):
            _put(tree, (*path, "norm"), part)
    if model.preact:
        params["final_norm"], stats["final_norm"] = layers.norm_leaves(model.norm, outputs)
    params["head"] = {
        "kernel": Leaf((outputs, model.classes), ("in", None)),
        "bias": Leaf((model.classes,), (None,)),
    }
    return params, stats


def cost(model: ResNet) -> Cost:
    """Parameters and forward products of one image, by stage."""
    products: dict[str, float] = {}
    outputs = 0
    for path, size, inputs, outputs, _, (height, width) in convolutions(model):
        products[path[0]] = products.get(path[0], 0.0) + 2.0 * height * width * size**2 * inputs * outputs
    products["head"] = 2.0 * outputs * model.classes
    params = {name: _count(part) for name, part in leaves(model)[0].items()}
    return Cost(params=params, embedding=("stem",), forward=products, forward_causal=products, tokens_per_example=1)


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    if isinstance(value, dict) and not value:
        return
    tree[path[-1]] = value
