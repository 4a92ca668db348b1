"""Learning-rate schedules by name, as one array a run: made on the host, so that none is ever compiled in."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from training.errors import BadInput
from training.registry import chosen


class Schedule(NamedTuple):
    """`shape(u, warm, steps, **options)` maps progress after warmup, u in [0, 1), to a fraction of the peak."""

    shape: Callable[..., np.ndarray]
    options: dict[str, Any]
    needs_warmup: bool = False


def _wsd(u: np.ndarray, start: float, final_fraction: float, decay_fraction: float) -> np.ndarray:
    # `decay_fraction` is of the whole duration; `start` is the share of it that warmup took.
    decay = min(decay_fraction / max(1 - start, 1e-9), 1.0)
    return 1 - (1 - final_fraction) * np.clip((u - (1 - decay)) / decay, 0, 1)


def _inverse_sqrt(u: np.ndarray, start: float) -> np.ndarray:
    # peak * sqrt(warmup / step), Vaswani et al. 2017, section 5.3.
    return np.sqrt(start / (start + u * (1 - start)))


def _steps(u: np.ndarray, start: float, boundaries: tuple[float, ...], factor: float) -> np.ndarray:
    return factor ** np.searchsorted(np.asarray(boundaries), start + u * (1 - start), side="right")


TABLE: dict[str, Schedule] = {
    "constant": Schedule(lambda u, start: np.ones_like(u), {}),
    "cosine": Schedule(
        lambda u, start, final_fraction: final_fraction + (1 - final_fraction) * 0.5 * (1 + np.cos(math.pi * u)),
        {"final_fraction": 0.1},
    ),
    "linear": Schedule(lambda u, start, final_fraction: 1 - (1 - final_fraction) * u, {"final_fraction": 0.0}),
    "wsd": Schedule(_wsd, {"final_fraction": 0.0, "decay_fraction": 0.2}),
    "inverse_sqrt": Schedule(_inverse_sqrt, {}, needs_warmup=True),
    "exponential": Schedule(lambda u, start, final_fraction: final_fraction**u, {"final_fraction": 0.01}),
    "steps": Schedule(_steps, {"boundaries": (0.5, 0.75), "factor": 0.1}),
}


def options(config: ConfigDict) -> dict[str, float | str]:
    """The options of the named schedule, its own defaults where the config says None.

    Raises:
      BadInput: an unknown name, or an option that this schedule does not use.
    """
    return chosen("schedule", TABLE, config, {"name", "warmup_steps", "warmup_tokens", "warmup_fraction"})


def check_warmup(name: str, warmup_steps: int) -> None:
    """Raise BadInput where the named schedule has no value without a warmup."""
    if TABLE[name].needs_warmup and warmup_steps < 1:
        raise BadInput(f"schedule.name: {name} needs a warmup of at least one step, got {warmup_steps}")


def rates(config: ConfigDict) -> np.ndarray:
    """The learning rate of every step of a resolved config, float32 [steps]."""
    derived = config.derived
    return config.optimizer.learning_rate * values(config.schedule, derived.steps, derived.warmup_steps)


def values(config: ConfigDict, steps: int, warmup_steps: int) -> np.ndarray:
    """The schedule as a fraction of the peak for each step.

    Args:
      config: the `schedule` section.
      steps: the duration of the run, in optimizer steps.
      warmup_steps: linear warmup: step 0 runs at 1/warmup_steps of the peak.
    Returns:
      float32 [steps].
    Raises:
      BadInput: the schedule needs a warmup and has none.
    """
    check_warmup(config["name"], warmup_steps)
    step = np.arange(steps, dtype=np.float64)
    after = np.maximum(steps - warmup_steps, 1)
    u = np.clip((step - warmup_steps) / after, 0, 1)
    body = TABLE[config["name"]].shape(u, warmup_steps / max(steps, 1), **options(config))
    ramp = (step + 1) / max(warmup_steps, 1)
    return np.where(step < warmup_steps, ramp, body).astype(np.float32)
