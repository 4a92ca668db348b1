"""One train step of the same GPT by four hands: ours, plain linen, PyTorch eager and PyTorch compiled.

The model is GPT-2 without biases: learned positions, LayerNorm, GELU, tied head. The step is the same for all: mean
cross-entropy, gradients clipped to norm 1, AdamW with decay 0.1 on matrices and embeddings.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

LEARNING_RATE, B1, B2, EPS, DECAY, CLIP = 3e-4, 0.9, 0.95, 1e-8, 0.1, 1.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder and its batch; products in `dtype`, parameters in float32."""

    depth: int
    width: int
    heads: int
    length: int
    batch: int
    vocab: int
    dtype: str = "float32"
    unit: ClassVar[str] = "tokens"

    @property
    def examples(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    @property
    def flops(self) -> float:
        """FLOPs of a step's products, full attention, whatever part of them a contender skips."""
        from lm.cost import cost

        return self.batch * cost(self.decoder, self.length).flops_exact

    @property
    def decoder(self) -> Any:
        """Our model of it."""
        from lm.decoder import Decoder
        from training.nets.block_config import compose

        return compose(
            Decoder, vocab_size=self.vocab, depth=self.depth, width=self.width, heads=self.heads,
            mlp_width=4 * self.width, norm="layer", positions="learned", max_length=self.length, activation="gelu",
            compute_dtype=self.dtype,
        )  # fmt: skip


SHAPES = {
    "small": Shape(depth=4, width=128, heads=4, length=128, batch=32, vocab=256),
    "medium": Shape(depth=6, width=256, heads=8, length=256, batch=16, vocab=256),
    "large": Shape(depth=6, width=384, heads=6, length=256, batch=16, vocab=4096),
}

Step = Callable[[], Any]  # runs one step; `item()` of what it returns waits for the loss before the update


class Built(NamedTuple):
    """A step that can be timed.

    Attributes:
      step: runs one.
      compile_seconds: that it took to compile.
      compiled_bytes: of its arguments and temporaries, as XLA has them; None: not known.
    """

    step: Step
    compile_seconds: float
    compiled_bytes: int | None = None


def tokens(shape: Shape) -> np.ndarray:
    """A batch of random tokens [batch, length + 1]."""
    return np.random.default_rng(0).integers(0, shape.vocab, (shape.batch, shape.length + 1)).astype(np.int32)


def engine(model: Any, extra: dict[str, float], data: dict[str, np.ndarray]) -> Built:
    """The step that the engine compiles for a model with its own scalars."""
    import jax

    from training import compilation, mesh as meshes, optimizer as optimizers
    from training.step import programs
    from training.step_spec import StepSpec
    from training.transforms import Transforms

    spec = StepSpec(
        model=model,
        optimizer="adamw",
        options=tuple(sorted({"b1": B1, "b2": B2, "eps": EPS}.items())),
        weight_decay_roles=optimizers.ROLES[:2],
        ema=False,
        penalty=False,
        lr_multipliers=(),
        transforms=Transforms(),
        gradient_accumulation_steps=1,
        matmul="default",
        deterministic=False,
    )
    shared = {"weight_decay": DECAY, "clip": CLIP, "ema": 0.0, "l1": 0.0, "l2": 0.0}
    hyper = {name: np.float32(x) for name, x in {**shared, **extra}.items()}
    mesh = meshes.build({"data": 1, "fsdp": 1, "tensor": 1})
    shapes = tuple((name, array.shape, array.dtype) for name, array in data.items())
    step = programs(spec, mesh, 1, shapes, tuple(hyper))
    train, init = compilation.program(step.train), compilation.program(step.init)
    compilation.ready([train, init])
    rates, seed = np.array([LEARNING_RATE], np.float32), np.int32(0)
    state, batch = init(seed, hyper), {name: jax.device_put(array[None]) for name, array in data.items()}

    def run() -> Any:
        nonlocal state
        state, metrics = train(state, batch, rates, seed, hyper)
        return metrics["loss"]

    return Built(run, train.seconds + init.seconds, train.memory_bytes)


def ours(shape: Shape) -> Built:
    """The engine's step of our decoder."""
    from lm.objectives.next_token import LanguageModel

    constants = {"dropout": 0.0, "init_scale": 1.0, "z_loss": 0.0}
    return engine(LanguageModel(shape.decoder, None, False), constants, {"tokens": tokens(shape)})


def plain(shape: Shape) -> Built:
    """A plain linen model and optax step, as JAX codebases write them today."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    normal = nn.initializers.normal(0.02)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            head = shape.width // shape.heads
            y = nn.LayerNorm(use_bias=False)(x)
            project = functools.partial(nn.DenseGeneral, (shape.heads, head), use_bias=False, kernel_init=normal)
            q, k, v = project()(y), project()(y), project()(y)
            scores = jnp.einsum("bthd,bshd->bhts", q / math.sqrt(head), k)
            mask = jnp.tril(jnp.ones((shape.length, shape.length), bool))
            weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
            mixed = jnp.einsum("bhts,bshd->bthd", weights, v)
            x = x + nn.DenseGeneral(shape.width, axis=(-2, -1), use_bias=False, kernel_init=normal)(mixed)
            y = nn.Dense(4 * shape.width, use_bias=False, kernel_init=normal)(nn.LayerNorm(use_bias=False)(x))
            return x + nn.Dense(shape.width, use_bias=False, kernel_init=normal)(nn.gelu(y))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids: Any) -> Any:
            embed = nn.Embed(shape.vocab, shape.width, embedding_init=normal)
            x = embed(ids) + nn.Embed(shape.length, shape.width, embedding_init=normal)(jnp.arange(shape.length))
            for _ in range(shape.depth):
                x = Block()(x)
            return embed.attend(nn.LayerNorm(use_bias=False)(x))

    model, data = Model(), jnp.asarray(tokens(shape))
    decayed = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    adamw = optax.adamw(LEARNING_RATE, B1, B2, EPS, weight_decay=DECAY, mask=decayed)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), adamw)

    def update(params: Any, moments: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            logits = model.apply(p, batch[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()  # type: ignore[arg-type]

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    started = time.perf_counter()
    params = jax.jit(model.init)(jax.random.key(0), data[:, :-1])
    moments = jax.jit(optimizer.init)(params)
    step = jax.jit(update, donate_argnums=(0, 1)).lower(params, moments, data).compile()
    seconds = time.perf_counter() - started

    def run() -> Any:
        nonlocal params, moments
        params, moments, loss = step(params, moments, data)
        return loss

    return Built(run, seconds)


def torch_step(shape: Any, model: Any, loss: Callable[[Any], Any], compiled: bool, device: str) -> Built:
    """A step of PyTorch's AdamW, fused where the device is a GPU.

    Args:
      shape: of the model; its dtype is that of autocast.
      model: on the CPU.
      loss: of the model called as a function, compiled or not.
      compiled: whether it is.
      device: where it is trained.
    """
    import torch
    from torch import nn

    model = model.to(device)
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == decayed], "weight_decay": DECAY * decayed}
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, (B1, B2), EPS, fused=None if device == "cpu" else True)
    forward = torch.compile(model) if compiled else model

    def run() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=shape.dtype == "bfloat16"):
            value = loss(forward)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return value.detach()

    started = time.perf_counter()
    if compiled:
        run().item()
    return Built(run, time.perf_counter() - started)


def torch_gpt(shape: Shape, compiled: bool, device: str = "cpu") -> Built:
    """A plain PyTorch GPT with the library's fused attention."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(shape.width, bias=False)
            self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
            self.out = nn.Linear(shape.width, shape.width, bias=False)
            self.norm2 = nn.LayerNorm(shape.width, bias=False)
            self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
            self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

        def forward(self, x: Any) -> Any:
            qkv = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, shape.heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(shape.vocab, shape.width)
            self.position = nn.Embedding(shape.length, shape.width)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.depth))
            self.norm = nn.LayerNorm(shape.width, bias=False)
            for weight in self.parameters():
                if weight.ndim > 1:
                    nn.init.normal_(weight, std=0.02)

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.embed(ids) + self.position(torch.arange(shape.length, device=ids.device))
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.embed.weight)
            return F.cross_entropy(logits.view(-1, shape.vocab), targets.reshape(-1))

    torch.manual_seed(0)
    data = torch.as_tensor(tokens(shape), dtype=torch.long, device=device)
    ids, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
    return torch_step(shape, Model(), lambda forward: forward(ids, targets), compiled, device)


def matmul_peak() -> Built:
    """No model: the float32 product of two square matrices of 4,096, whose rate is the machine's peak."""
    import jax
    import jax.numpy as jnp

    square = jnp.ones((4096, 4096), jnp.float32)
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    return Built(lambda: product(square, square)[0, 0], 0.0)


CONTENDERS: dict[str, Callable[[Shape], Built]] = {
    "ours": ours,
    "plain": plain,
    "torch_eager": lambda shape: torch_gpt(shape, compiled=False),
    "torch_compiled": lambda shape: torch_gpt(shape, compiled=True),
    "matmul": lambda shape: matmul_peak(),
}
