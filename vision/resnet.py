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
from jaxtyping import Array, Float, PyTree

from training.cost import Cost
from training.errors import BadInput
from training.nets.initial import Leaf, Leaves, draw, parameters
from training.types import Collections, Option, Params
from vision import layers

STEMS = ("cifar", "imagenet")

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


class ResNet(layers.Classifier):
    """A classifier of images.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      stages: blocks of each stage; each but the first halves the sides and doubles the channels.
      width: channels of the first stage.
      bottleneck: whether blocks are 1x1, 3x3, 1x1 with four times the channels, instead of two 3x3.
      preact: whether norms and activations come before convolutions.
      stem: "imagenet" (7x7 with stride 2 and a pool) or "cifar" (3x3).
      norm: "batch" or "group".
      momentum: of the running statistics of batch norm.
      stochastic_depth: whether a block's branch is dropped for an example in training, ever more often with depth (Huang
        et al. 2016); the last one's rate is an argument.
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
    momentum: float = 0.9
    stochastic_depth: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `layers.Classifier`; running statistics are drawn beside it."""
        params, stats = leaves(self)
        if self.is_initializing():
            key = jax.random.key(0)  # nothing of the statistics is random
            for name, part in stats.items():
                self.variable("batch_stats", name, draw, key, part, 1.0, "float32")
        return parameters(self, params, {}, init_scale, self.param_dtype)

    def features(
        self,
        variables: layers.Variables,
        images: layers.Images,
        key: Array | None = None,
        rates: layers.Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch features"], Collections]:
        """The mean over places of the last block, as in `layers.Classifier`."""
        params, stats = variables["params"], variables.get("batch_stats", {})
        if images.shape[1:] != self.image:
            raise BadInput(f"images of {images.shape[1:]} do not fit a model of {self.image}")
        after: dict[str, PyTree[Array]] = {}
        drop = _dropper(self, key, rates)

        def normed(x: Array, *path: str) -> Array:
            out, found = layers.norm(self.norm, _at(params, path), _at(stats, path), x, train, self.momentum)
            _put(after, path, found)
            return out

        def convolved(x: Array, *path: str, stride: int = 1) -> Array:
            return layers.conv(x, _at(params, path)["kernel"], stride)

        large = self.stem == "imagenet"
        x = convolved(images.astype(self.compute_dtype), "stem", stride=2 if large else 1)
        x = x if self.preact else nn.relu(normed(x, "stem", "norm"))
        x = layers.max_pool(x, 3, 2, 1) if large else x
        for index, (block, stride) in enumerate(_blocks(self)):
            strides = (1, stride, 1) if self.bottleneck else (stride, 1)
            y, shortcut = x, x
            if self.preact:
                y = nn.relu(normed(y, *block, "conv1", "norm"))
            if "shortcut" in _at(params, block):
                shortcut = convolved(y if self.preact else x, *block, "shortcut", stride=stride)
                shortcut = shortcut if self.preact else normed(shortcut, *block, "shortcut", "norm")
            for number, own in enumerate(strides, 1):
                if self.preact and number > 1:
                    y = nn.relu(normed(y, *block, f"conv{number}", "norm"))
                y = convolved(y, *block, f"conv{number}", stride=own)
                if not self.preact:
                    y = normed(y, *block, f"conv{number}", "norm")
                    y = nn.relu(y) if number < len(strides) else y
            x = shortcut + drop(y, index)
            x = x if self.preact else nn.relu(x)
        if self.preact:
            x = nn.relu(normed(x, "final_norm"))
        return jnp.mean(x, axis=(1, 2)), {"batch_stats": after} if self.norm == "batch" else {}


def _blocks(model: ResNet) -> Iterator[tuple[tuple[str, str], int]]:
    """The place of each block in the tree, and its stride."""
    for stage, count in enumerate(model.stages, 1):
        for number in range(1, count + 1):
            yield (f"stage{stage}", f"block{number}"), 2 if stage > 1 and number == 1 else 1


def _dropper(model: ResNet, key: Array | None, rates: layers.Rates | None) -> Any:
    """Drops the branch of a block for whole examples."""
    if not model.stochastic_depth or key is None or rates is None:
        return lambda y, index: y
    last = max(sum(model.stages) - 1, 1)

    def drop(y: Array, index: int) -> Array:
        rate = rates["stochastic_depth"] * index / last
        keep = jax.random.bernoulli(jax.random.fold_in(key, index), 1.0 - rate, (len(y), 1, 1, 1)) / (1.0 - rate)
        return y * keep.astype(y.dtype)

    return drop


def variant(name: str) -> dict[str, Option]:
    """The shape of a published network: "50".

    Raises:
      BadInput: there is no such name.
    """
    if name not in VARIANTS:
        raise BadInput(f"model.variant: no {name!r}; known: {', '.join(VARIANTS)}")
    return dict(zip(("stages", "bottleneck", "width", "stem"), VARIANTS[name], strict=True))


def check(model: ResNet) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    for field, known in {"stem": STEMS, "norm": layers.NORMS}.items():
        if getattr(model, field) not in known:
            raise BadInput(f"model.{field}: {getattr(model, field)!r} is not one of {', '.join(known)}")
    if not model.stages or min(model.stages) < 1:
        raise BadInput(f"model.stages: every stage needs a block, got {model.stages}")
    if model.width < 1:
        raise BadInput(f"model.width: must be at least 1, got {model.width}")
    if not 0 <= model.momentum < 1:
        raise BadInput(f"model.momentum: must be in [0, 1), got {model.momentum}")


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


def leaves(model: ResNet) -> tuple[Leaves, Leaves]:
    """The initial parameters and running statistics."""
    params: Leaves = {}
    stats: Leaves = {}
    last = "conv3" if model.bottleneck else "conv2"
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
    params["head"] = layers.head(outputs, model.classes)
    return params, stats


def cost(model: ResNet) -> Cost:
    """Parameters and forward products of one image, by stage."""
    products: dict[str, float] = {}
    outputs = 0
    for path, size, inputs, outputs, _, (height, width) in convolutions(model):
        products[path[0]] = products.get(path[0], 0.0) + 2.0 * height * width * size**2 * inputs * outputs
    products["head"] = 2.0 * outputs * model.classes
    params = {name: _count(part) for name, part in leaves(model)[0].items()}
    return Cost(params, ("stem",), products, products, tokens_per_example=1, from_data=products["stem"])


def _count(tree: PyTree[Leaf]) -> int:
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
