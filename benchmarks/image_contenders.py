"""One train step of the same classifier by four hands, on Fashion-MNIST's shape: ours, plain linen, PyTorch both ways.

The convolutional network is 32-pool-64-pool-64-dense 64-10 without a border; the vision transformer has patches of 4 x 4,
learned positions, a mean pool and biases. The step is that of `contenders`: mean cross-entropy, clipping, AdamW.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.contenders import B1, B2, CLIP, DECAY, EPS, LEARNING_RATE, Built, engine, matmul_peak, torch_step

MEAN, STD = 0.286, 0.353


@dataclasses.dataclass(frozen=True)
class Images:
    """A classifier and its batch; depth 0: the convolutional network, on Fashion-MNIST's shape alone."""

    batch: int
    depth: int = 0
    width: int = 32
    heads: int = 1
    patch: int = 4
    image: tuple[int, int, int] = (28, 28, 1)
    classes: int = 10
    dtype: str = "float32"
    unit: ClassVar[str] = "images"

    @property
    def examples(self) -> int:
        """Images of a step."""
        return self.batch

    @property
    def flops(self) -> float:
        """FLOPs of a step's products."""
        from vision import models

        return self.batch * models.cost("vit" if self.depth else "convnet", classifier(self)).flops_exact


SHAPES = {"convnet": Images(batch=128), "vit": Images(batch=128, depth=6, width=64, heads=4)}


def classifier(shape: Images) -> Any:
    """Our module."""
    from training.nets.block_config import compose
    from vision.convnet import ConvNet
    from vision.vit import BLOCKS, ViT

    if not shape.depth:
        return ConvNet(shape.classes, shape.image, depth=3, width=shape.width)
    return compose(
        ViT, classes=shape.classes, image=shape.image, compute_dtype=shape.dtype, patch=shape.patch, depth=shape.depth,
        width=shape.width, heads=shape.heads, mlp_width=4 * shape.width, **BLOCKS,
    )  # fmt: skip


def data(shape: Images) -> dict[str, np.ndarray]:
    """A batch of random images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (shape.batch, *shape.image)).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, shape.classes, shape.batch).astype(np.int32)}


def ours(shape: Images) -> Built:
    """The engine's step of our classifier."""
    from vision.augment import Augment
    from vision.task import ImageModel

    constants = {"dropout": 0.0, "stochastic_depth": 0.0, "label_smoothing": 0.0, "init_scale": 1.0}
    channels = shape.image[-1]
    model = ImageModel(classifier(shape), (MEAN,) * channels, (STD,) * channels, Augment())
    return engine(model, constants, data(shape))


def plain(shape: Images) -> Built:
    """Plain linen layers and an optax step."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            head = shape.width // shape.heads
            y = nn.LayerNorm()(x)
            q, k, v = (nn.DenseGeneral((shape.heads, head))(y) for _ in range(3))
            weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q / math.sqrt(head), k))
            x = x + nn.DenseGeneral(shape.width, axis=(-2, -1))(jnp.einsum("bhts,bshd->bthd", weights, v))
            return x + nn.Dense(shape.width)(nn.gelu(nn.Dense(4 * shape.width)(nn.LayerNorm()(x))))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, images: Any) -> Any:
            x = (images.astype(jnp.float32) / 255 - MEAN) / STD
            if not shape.depth:
                for layer, channels in enumerate((shape.width, 2 * shape.width, 2 * shape.width)):
                    x = nn.relu(nn.Conv(channels, (3, 3), padding="VALID")(x))
                    x = nn.max_pool(x, (2, 2), (2, 2)) if layer < 2 else x
                return nn.Dense(shape.classes)(nn.relu(nn.Dense(2 * shape.width)(x.reshape(len(x), -1))))
            size = (shape.patch, shape.patch)
            x = nn.Conv(shape.width, size, size, "VALID")(x).reshape(len(x), -1, shape.width)
            x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
            for _ in range(shape.depth):
                x = Block()(x)
            return nn.Dense(shape.classes)(nn.LayerNorm()(x).mean(axis=1))

    model, batch = Model(), {name: jnp.asarray(array) for name, array in data(shape).items()}
    decayed = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    adamw = optax.adamw(LEARNING_RATE, B1, B2, EPS, weight_decay=DECAY, mask=decayed)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), adamw)

    def update(params: Any, moments: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            logits: Any = model.apply(p, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    started = time.perf_counter()
    params = jax.jit(model.init)(jax.random.key(0), batch["image"])
    moments = jax.jit(optimizer.init)(params)
    step = jax.jit(update, donate_argnums=(0, 1)).lower(params, moments, batch).compile()
    seconds = time.perf_counter() - started

    def run() -> Any:
        nonlocal params, moments
        params, moments, loss = step(params, moments, batch)
        return loss

    return Built(run, seconds)


def torch_net(shape: Images, compiled: bool, device: str = "cpu") -> Built:
    """The same of PyTorch's layers."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
            self.qkv, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
            self.up, self.down = nn.Linear(shape.width, 4 * shape.width), nn.Linear(4 * shape.width, shape.width)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(shape.image[-1], shape.width, shape.patch, shape.patch)
            self.position = nn.Parameter(0.02 * torch.randn((shape.image[0] // shape.patch) ** 2, shape.width))
            self.blocks = nn.Sequential(*(Block() for _ in range(shape.depth)))
            self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.classes)

        def forward(self, x: Any) -> Any:
            x = self.patch(x).flatten(2).transpose(1, 2) + self.position
            return self.head(self.norm(self.blocks(x)).mean(1))

    def convnet() -> Any:
        a, b = shape.width, 2 * shape.width
        first = [nn.Conv2d(1, a, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(
            *first,
            nn.Conv2d(b, b, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(9 * b, b),
            nn.ReLU(),
            nn.Linear(b, shape.classes),
        )

    torch.manual_seed(0)
    model = Transformer() if shape.depth else convnet()
    arrays = data(shape)
    images = torch.as_tensor(arrays["image"], device=device).permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(arrays["label"], dtype=torch.long, device=device)
    loss = lambda forward: F.cross_entropy(forward((images.float() / 255 - MEAN) / STD), labels)
    return torch_step(shape, model, loss, compiled, device)


CONTENDERS: dict[str, Callable[[Images], Built]] = {
    "ours": ours,
    "plain": plain,
    "torch_eager": lambda shape: torch_net(shape, compiled=False),
    "torch_compiled": lambda shape: torch_net(shape, compiled=True),
    "matmul": lambda shape: matmul_peak(),
}
