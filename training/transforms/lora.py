"""Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685): W + (alpha / rank) A B, where A and B learn and W stands still.

The factors of a matrix lie beside it in the tree of parameters, with their scale: `kernel_lora_in` A [.., inputs, rank],
`kernel_lora_out` B [.., rank, outputs], `kernel_lora_scale` [..]. So a checkpoint says by itself what it computes, and
merging needs no config. B begins at zero: the first loss is the parent's.

Costs are those of the merged model: the factors are multiplied once a step, so that a token takes the products of full
fine-tuning; what is saved are the moments of what stands still.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from training.errors import BadInput
from training.optimizer import STACKS
from training.task import Model
from training.types import Batch, Collections, HostScalars, Loss, Outputs, Params, Rules, Scalars, Variables

IN, OUT, SCALE = "_lora_in", "_lora_out", "_lora_scale"
LEARNS = rf".*({IN}|{OUT})"
OWN = rf".*({IN}|{OUT}|{SCALE})"


def check(config: ConfigDict) -> None:
    """Raise BadInput where the section `lora` contradicts itself or others."""
    section = config.lora
    if section.rank < 0:
        raise BadInput(f"lora.rank: must not be negative, got {section.rank}")
    if not 0 < section.alpha < math.inf:
        raise BadInput(f"lora.alpha: must be positive, got {section.alpha}")
    for pattern in section.targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"lora.targets: {pattern!r} is no regular expression ({error})") from None
    if not section.rank:
        return
    if not config.init_from.run:
        raise BadInput("lora.rank: adapts what another run has learnt; give init_from.run")
    quantized = config.quantize.weights or config.quantize.activations or config.quantize.post
    others = {
        "prune": config.prune.sparsity or config.prune.pattern,
        "quantize": quantized,
        "replicas": config.replicas.count > 1 or config.replicas.outer.name != "average",
        "async_sgd": config.async_sgd.workers > 1,
    }
    for name, asked in others.items():
        if asked:
            raise BadInput(f"lora.rank: does not go with {name}")


def rules(section: ConfigDict, given: Rules) -> Rules:
    """The rules of `optimizer.lr_multipliers`: beside the factors, only that learns which the config gives a factor."""
    return ((LEARNS, 1.0), *given, (".*", 0.0)) if section.rank else given


def wrapped(model: Model, section: ConfigDict) -> Model:
    """The model with factors beside the parameters that a config's section `lora` names; itself where it names none."""
    return Lora(model, section.rank, tuple(section.targets)) if section.rank else model


def merged(params: Any) -> Any:
    """The parameters that the model computes with: without factors, and with what these add."""
    if not isinstance(params, Mapping):
        return params
    made = {key: merged(value) for key, value in params.items() if not re.fullmatch(OWN, key)}
    for name in [key.removesuffix(SCALE) for key in params if key.endswith(SCALE)]:
        low, high, scale = (params[f"{name}{suffix}"] for suffix in (IN, OUT, SCALE))
        made[name] = made[name] + (scale[..., None, None] * (low @ high)).astype(made[name].dtype)
    return made


def plain(axes: Any) -> Any:
    """A tree of what belongs to parameters, without that of the factors."""
    if not isinstance(axes, Mapping):
        return axes
    return {key: plain(value) for key, value in axes.items() if not re.fullmatch(OWN, key)}


@dataclasses.dataclass(frozen=True)
class Lora:
    """A model whose parameters hold factors; `hyper["lora_alpha"]` sets their scale when they are drawn."""

    model: Model
    rank: int
    targets: tuple[str, ...]

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """The model's variables, boxed, with factors: A is drawn, B is zero.

        Raises:
          BadInput: a pattern of `lora.targets` matches no matrix.
        """
        variables = dict(self.model.init(key, hyper))
        scale = hyper["lora_alpha"] / self.rank
        params = added(variables["params"], self.targets, lambda name, leaf: self._factors(name, leaf, scale, key))
        return variables | {"params": params}

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """As the merged model's."""
        return self.model.loss(merged(params), stats, batch, key, hyper)

    def score(self, params: Params, stats: Collections, batch: Batch) -> Outputs:
        """As the merged model's."""
        return self.model.score(merged(params), stats, batch)

    def _factors(
        self, name: str, leaf: nn.LogicallyPartitioned, scale: Float[Array, ""] | np.float32 | float, key: jax.Array
    ) -> dict[str, nn.LogicallyPartitioned]:
        """What lies beside one matrix, by the end of its name."""
        value, names = leaf.value, leaf.names
        *stack, inputs, outputs = value.shape
        drawn = jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), (*stack, inputs, self.rank))
        made = {
            IN: ((drawn / math.sqrt(inputs)).astype(value.dtype), (*names[:-1], None)),
            OUT: (jnp.zeros((*stack, self.rank, outputs), value.dtype), (*names[:-2], None, names[-1])),
            SCALE: (jnp.full(tuple(stack), scale, jnp.float32), tuple(names[:-2])),
        }
        return {end: nn.LogicallyPartitioned(array, axes) for end, (array, axes) in made.items()}


def added(params: Any, targets: tuple[str, ...], factors: Callable[[str, Any], dict[str, Any]]) -> Any:
    """A tree of boxed parameters with what `factors` (path, box) lays beside every matrix that a pattern matches.

    Raises:
      BadInput: a pattern matches no matrix.
    """
    used: set[str] = set()

    def visit(tree: Any, prefix: str) -> Any:
        made = {}
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                made[key] = visit(value, f"{name}/")
                continue
            made[key] = value
            matching = [pattern for pattern in targets if re.fullmatch(pattern, name)]
            if matching and _matrix(value):
                used.update(matching)
                made |= {f"{key}{end}": leaf for end, leaf in factors(name, value).items()}
        return made

    made = visit(params, "")
    for pattern in targets:
        if pattern not in used:
            raise BadInput(f"lora.targets: no matrix matches {pattern!r}")
    return made


def _matrix(leaf: nn.LogicallyPartitioned) -> bool:
    """Whether it has two dimensions behind those of stacks."""
    inner = [name not in STACKS for name in leaf.names]
    return sum(inner) == 2 and all(inner[-2:])
