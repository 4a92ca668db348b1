"""The record of a run that has ended, `result.json`: its config, cost, speed and losses, by every convention of N and C."""

import time
from typing import Any

from ml_collections import ConfigDict

from training import async_sgd, cost as costs, replicas
from training.lines import RECORD_SCHEMA
from training.types import Record


def result(
    config: ConfigDict,
    cost: costs.Cost,
    facts: Record,
    env: dict[str, Any],
    steps: int,
    measured: dict[str, Any],
) -> Record:
    """The record of a run that ended after `steps` steps; `measured` holds status, losses and times.

    Every convention of N and C is there, so that the analyst chooses.
    """
    examples = steps * config.batch_size
    tokens = examples * cost.tokens_per_example
    available = facts.pop("available_tokens", None)
    exact = examples * cost.flops_exact
    seconds = measured["train_seconds"]
    forked = config.derived.get("fork_step")
    share = 1 - (forked or 0) / steps if steps else 1.0  # of the steps that this run made itself
    peak = costs.peak_flops(env["device_kind"], config.precision.compute, config.precision.matmul)
    return {
        "schema": RECORD_SCHEMA,
        **facts,
        "run_id": config.derived.run_id,
        "parent": config.derived.parent,
        "parent_tokens": config.derived.parent_tokens,
        "pretrained": int(config.derived.parent is not None),
        "trunk": config.derived.get("trunk"),
        "fork_step": forked,
        "teacher": config.derived.teacher,
        "task": config.task,
        "family": config.model.get("name", config.task),
        "seed": config.seed,
        "params_total": cost.params_total,
        "params_non_embedding": cost.params_non_embedding,
        "params_active": cost.active,
        "flops_per_example_6n": cost.flops_per_example_6n,
        "flops_per_example_exact": cost.flops_exact,
        "flops_6nd": 6.0 * cost.params_total * tokens,
        "flops_6nd_non_embedding": 6.0 * cost.params_non_embedding * tokens,
        "flops_6nd_active": 6.0 * cost.active * tokens,
        "flops_exact": exact,
        "flops_forward": examples * cost.flops_forward,
        "flops_backward": examples * cost.flops_backward,
        "flops_teacher": examples * cost.teacher,
        "flops_routing": examples * cost.flops_routing,
        "flops_hardware": examples * cost.flops_hardware,
        "flops_exact_causal": examples * cost.flops_exact_causal,
        "tokens": tokens,
        "unique_tokens": tokens if available is None else min(tokens, available),
        "epochs": 0.0 if available is None else tokens / available,
        "examples": examples,
        "steps": steps,
        "batch_size": config.batch_size,
        "peak_lr": config.optimizer.learning_rate,
        "warmup_steps": config.derived.warmup_steps,
        "schedule": config.schedule.name,
        "recipe": config.recipe.name,
        "parametrization": config.derived.parametrization.name if config.derived.parametrization else "standard",
        "optimizer": config.optimizer.name,
        "weight_decay": config.optimizer.weight_decay,
        **replicas.record(config, cost.params_total, steps),
        **async_sgd.record(config, cost.params_total, steps),
        "tokens_per_second": share * tokens / seconds if seconds else None,
        "mfu": costs.mfu(share * exact, seconds, env["num_devices"], peak),
        "device_kind": env["device_kind"],
        "num_devices": env["num_devices"],
        "git_revision": env["git_revision"],
        "versions": env["versions"],
        **measured,
        "ended_at": time.time(),
    }
