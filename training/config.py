"""The engine's config: defaults, completion of what a file states, and the one place where all else is derived."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from training import (
    async_sgd,
    compiler_options,
    gradient_noise,
    identity,
    optimizer,
    parametrization,
    replicas,
    rollback,
    schedule,
    spike_guard,
    statistics,
    transfer,
    transforms,
)
from training.defaults import RENAMED, defaults, renamed
from training.errors import BadInput, nearest
from training.task import Family, resolve as family_of
from training.transforms import lora

DTYPES = ("float32", "bfloat16")
MATMUL = ("default", "highest", "high", "tensorfloat32", "bfloat16", "float32")


def complete(partial: ConfigDict, where: str = "config") -> ConfigDict:
    """What a file states, laid over the defaults of the engine and of its family; locked.

    Raises:
      BadInput: an unknown key (with the nearest name) or a value of the wrong type.
    """
    full = defaults()
    family = family_of(str(partial.get("task", full.task)))
    full.update(family.defaults())
    full.lock()
    merge(full, partial, where)
    return full


def merge(full: ConfigDict, partial: ConfigDict, where: str) -> None:
    """Lay `partial` over `full` in place; every key must be there already, with a value of the same type.

    Raises:
      BadInput: a key is unknown, or has another name now, or its value is of another type.
    """
    of_family = family_of(full.task).RENAMED if "task" in full else {}
    _merge(full, partial, where, {**RENAMED, **of_family}, "")


def _merge(full: Any, partial: Any, where: str, names: Mapping[str, str], prefix: str) -> None:
    for key, value in partial.items(preserve_field_references=False):
        name = f"{prefix}{key}"
        if key not in full:
            if new := renamed(name, names):
                raise BadInput(f"{where}: {name} is now called {new}")
            raise BadInput(f"{where}: unknown key {name!r}{nearest(key, full.keys())}")
        if isinstance(full[key], ConfigDict):
            if not isinstance(value, ConfigDict):
                raise BadInput(f"{where}: {name} is a section, got {value!r}")
            _merge(full[key], value, where, names, f"{name}.")
            continue
        try:
            full[key] = value
        except (TypeError, ValueError):
            kind = _type_of(full, key)
            raise BadInput(f"{where}: {name} wants {kind}, got {value!r}") from None


def _type_of(section: ConfigDict, key: str) -> str:
    field = section.get_oneway_ref(key) if section.get_type(key) is not type(None) else FieldReference(None)
    return getattr(field.get_type(), "__name__", "another type")


def resolve(config: ConfigDict) -> ConfigDict:
    """The config with everything derivable filled in, and a section `derived`; idempotent, locked.

    The order: the model's shape from `model.size`, N from the shape, D from the duration, then batch, learning rate, warmup
    and what else the named recipe says, unless the config gives them; N are the parameters that one token uses.

    Raises:
      BadInput: a section contradicts itself, or the duration is shorter than one step.
    """
    config = ConfigDict(config.copy_and_resolve_references())
    config.unlock()
    family = family_of(config.task)
    _validate(config)
    if "derived" in config:  # resolved before: its size has become a shape
        del config.derived
    else:
        fill(config.model, family.shape_for(config))
    config.init_from.run = transfer.located(config.init_from.run, identity.of_model(config))
    family.validate(config)
    parametrization.check_parent(config)
    cost = family.cost(config)
    examples = _examples(config, family, cost)
    rule = family.scaled_hparams(config, cost.active, examples)
    if config.batch_size is None:
        config.batch_size = int(rule["batch_size"])
    replicas.check_split(config, config.mesh.replica)
    steps = round(examples / config.batch_size)
    if steps < 1:
        raise BadInput(
            f"duration: {examples:.3g} examples are less than half a batch of {config.batch_size}: "
            "a larger budget, a smaller model or a smaller batch_size"
        )
    if config.optimizer.learning_rate is None:
        config.optimizer.learning_rate = float(rule["learning_rate"])
    for key in ("b1", "b2", "eps", "weight_decay"):
        if config.optimizer[key] is None and key in rule:
            config.optimizer[key] = float(rule[key])
    if config.optimizer.weight_decay is None:
        config.optimizer.weight_decay = optimizer.weight_decay(config.optimizer)
    warmup = _warmup(config, steps, cost.tokens_per_example, rule)
    seen = steps * config.batch_size
    config.derived = ConfigDict(
        {
            "parent": transfer.parent(config.init_from),
            "parent_tokens": transfer.tokens_before(config.init_from),
            "teacher": transfer.identity(config.teacher, "teacher"),
            "parametrization": parametrization.summary(parametrization.of(config)),
            "recipe": {"source": rule.get("source"), "reference": rule.get("reference", {})},
            "steps": steps,
            "warmup_steps": warmup,
            "params_total": cost.params_total,
            "examples": seen,
            "tokens": seen * cost.tokens_per_example,
            "flops": float(seen * cost.flops_exact),
        }
    )
    config.derived.schema, config.derived.run_id = identity.SCHEMA, identity.run_id(config)
    return config.lock()


def _validate(config: ConfigDict) -> None:
    optimizer.check(config)
    schedule.options(config.schedule)
    transfer.check(config.optimizer.lr_multipliers)
    transforms.of(config)
    transfer.check_teacher(config.teacher)
    if not -(2**31) <= config.seed < 2**31:
        raise BadInput(f"seed: must be a whole number of 32 bits, got {config.seed}")
    size = config.model.get("size")
    if size is not None and not 0 < size < math.inf:
        raise BadInput(f"model.size: must be a number of parameters, got {size}")
    given = [key for key, value in config.duration.items() if value is not None]
    if len(given) != 1:
        raise BadInput(f"duration: give exactly one of {', '.join(config.duration)}; got {', '.join(given) or 'none'}")
    if config.duration[given[0]] <= 0:
        raise BadInput(f"duration.{given[0]}: must be positive, got {config.duration[given[0]]}")
    for key in ("params", "compute", "logits"):
        if config.precision[key] == "float16":
            raise BadInput(f"precision.{key}: float16 needs loss scaling, which is not here; bfloat16 needs none")
        if config.precision[key] not in DTYPES:
            raise BadInput(f"precision.{key}: {config.precision[key]!r} is not one of {', '.join(DTYPES)}")
    if config.precision.matmul not in MATMUL:
        raise BadInput(f"precision.matmul: {config.precision.matmul!r} is not one of {', '.join(MATMUL)}")
    if config.compiler_options not in compiler_options.PRESETS:
        raise BadInput(
            f"compiler_options: {config.compiler_options!r} is not one of {', '.join(compiler_options.PRESETS)}"
        )
    for key in ("gradient_accumulation_steps", "steps_per_call", "batch_size"):
        if config[key] is not None and config[key] < 1:
            raise BadInput(f"{key}: must be at least 1, got {config[key]}")
    if config.batch_size is not None and config.batch_size % config.gradient_accumulation_steps:
        parts = config.gradient_accumulation_steps
        raise BadInput(f"gradient_accumulation_steps: {parts} does not divide batch_size {config.batch_size}")
    replicas.check(config)
    async_sgd.check(config)
    spike_guard.check(config)
    rollback.check(config)
    statistics.check(config)
    gradient_noise.check(config)
    if config.optimizer.qk_clip:
        statistics.check_mesh(config, "optimizer.qk_clip")
    lora.check(config)
    if sum(config.schedule[key] is not None for key in identity.WARMUP) > 1:
        raise BadInput(f"schedule: give at most one of {', '.join(identity.WARMUP)}")
    if not 0 <= config.optimizer.ema < 1:
        raise BadInput(f"optimizer.ema: must be in [0, 1), got {config.optimizer.ema}")
    for key in ("l1", "l2"):
        if config.optimizer[key] < 0:
            raise BadInput(f"optimizer.{key}: must not be negative, got {config.optimizer[key]}")
    if config.early_stopping.patience < 0:
        raise BadInput(f"early_stopping.patience: must not be negative, got {config.early_stopping.patience}")
    if config.early_stopping.patience and not config.log.evaluate_every:
        raise BadInput("early_stopping.patience: there is nothing to judge by; set log.evaluate_every")
    if config.optimizer.learning_rate is not None and config.optimizer.learning_rate <= 0:
        raise BadInput(f"optimizer.learning_rate: must be positive, got {config.optimizer.learning_rate}")


def _examples(config: ConfigDict, family: Family, cost: Any) -> float:
    (kind, amount), *_ = [(key, value) for key, value in config.duration.items() if value is not None]
    if kind == "steps":
        if config.batch_size is None:
            raise BadInput("duration.steps needs batch_size: the batch rule follows from the duration, not the reverse")
        return amount * config.batch_size
    if kind == "epochs":
        available = family.available(config)
        if available is None:
            raise BadInput("duration.epochs: this data never ends; give tokens, examples, steps or flops")
        return amount * available
    per_example = {
        "tokens": cost.tokens_per_example,
        "examples": 1,
        "flops": cost.flops_exact,
        "tokens_per_param": cost.tokens_per_example / cost.params_total,
    }
    return amount / per_example[kind]


def _warmup(config: ConfigDict, steps: int, tokens_per_example: int, rule: dict[str, Any]) -> int:
    section = config.schedule
    if section.warmup_steps is not None:
        warmup = section.warmup_steps
    elif section.warmup_tokens is not None:
        warmup = round(section.warmup_tokens / (config.batch_size * tokens_per_example))
    elif section.warmup_fraction is not None:
        warmup = round(section.warmup_fraction * steps)
    else:
        warmup = int(rule["warmup_steps"])
    if not 0 <= warmup <= steps:
        raise BadInput(f"schedule: a warmup of {warmup} steps does not fit a duration of {steps} steps")
    schedule.check_warmup(section.name, warmup)
    return warmup


def fill(model: ConfigDict, options: Mapping[str, Any]) -> None:
    """Give the keys of a model that are None their values among its options."""
    for key, value in options.items():
        if model[key] is None:
            model[key] = value
