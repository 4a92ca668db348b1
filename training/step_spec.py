"""What a compiled train step depends on, and the scalars that enter it as arrays: both from a resolved config."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from training import optimizer as optimizers, parametrization, replicas, spike_guard, transfer, transforms
from training.errors import BadInput
from training.replicas import Scheme
from training.task import Model, QKClipped, Task
from training.transforms import lora


class StepSpec(NamedTuple):
    """All that a compiled step depends on beside the shapes of its arguments; hashable, so that runs share steps."""

    model: Model
    optimizer: str
    options: tuple[tuple[str, float], ...]  # of the optimizer
    weight_decay_roles: tuple[str, ...]
    ema: bool
    penalty: bool
    lr_multipliers: transfer.Rules
    transforms: transforms.Transforms
    gradient_accumulation_steps: int
    matmul: str
    deterministic: bool
    compiler_options: str = "tuned"
    replicas: Scheme | None = None
    workers: tuple[int, str] = (1, "")  # of a parameter server, and the order in which they deliver
    cautious_weight_decay: bool = False
    guard_window: int = 0  # steps that the guard against spikes looks back; 0: there is none
    scaling: parametrization.Scaling | None = None  # of initial values and rates; None: the standard parametrization
    statistics: int = 0  # every how many steps they are taken; 0: never
    noise_span: int = 0  # steps that the means of the gradient noise scale span; 0: there are none


def of(model: Model, config: ConfigDict) -> StepSpec:
    """What the step of a model under a resolved config depends on."""
    return StepSpec(
        model=lora.wrapped(model, config.lora),
        optimizer=config.optimizer.name,
        options=tuple(sorted(optimizers.options(config.optimizer).items())),
        weight_decay_roles=tuple(config.optimizer.weight_decay_roles),
        ema=config.optimizer.ema > 0 or optimizers.TABLE[config.optimizer.name].averages,
        penalty=config.optimizer.l1 > 0 or config.optimizer.l2 > 0,
        lr_multipliers=tuple(
            (pattern, _tupled(factor)) for pattern, factor in lora.rules(config.lora, config.optimizer.lr_multipliers)
        ),
        transforms=transforms.of(config),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        matmul=config.precision.matmul,
        deterministic=config.deterministic,
        compiler_options=config.compiler_options,
        replicas=replicas.scheme(config),
        workers=(config.async_sgd.workers, config.async_sgd.order if config.async_sgd.workers > 1 else ""),
        cautious_weight_decay=config.optimizer.cautious_weight_decay,
        guard_window=spike_guard.window(config),
        scaling=parametrization.of(config),
        statistics=config.log.statistics,
        noise_span=config.log.gradient_noise,
    )


def _tupled(factor: float | Sequence[float]) -> float | tuple[float, ...]:
    return tuple(float(one) for one in factor) if isinstance(factor, Sequence) else float(factor)


def hyper(config: ConfigDict, task: Task) -> dict[str, np.float32]:
    """The scalars that enter a step as arrays: the optimizer's, those of replicas and the task's own."""
    values = {
        "weight_decay": config.optimizer.weight_decay,
        "clip": config.optimizer.clip or math.inf,
        "ema": config.optimizer.ema,
        "l1": config.optimizer.l1,
        "l2": config.optimizer.l2,
        **transforms.hyper(config),
        **replicas.hyper(config),
        **task.hyper(),
    }
    if config.spike_guard.sigmas:
        values["spike_sigmas"] = config.spike_guard.sigmas
    if config.optimizer.qk_clip:
        if not isinstance(task.model, QKClipped):
            raise BadInput("optimizer.qk_clip: is of decoders that are trained on the next token; optimizer.qk_clip=0")
        values["qk_clip"] = config.optimizer.qk_clip
    if "steps" in optimizers.TABLE[config.optimizer.name].inputs:
        values["steps"] = config.derived.steps
    return {name: np.float32(value) for name, value in values.items()}
