"""Recipes of classifiers: learning rate, batch size and warmup as named functions of parameters N and images D."""

import math
from collections.abc import Callable
from typing import NamedTuple

from training.errors import BadInput, nearest
from training.task import Hyperparameters

PLAIN = ("sgd", "momentum", "nesterov")  # whose steps shrink with the gradient
STEPS = 400


class Recipe(NamedTuple):
    """`adaptive(n, batch)` and `plain(n, batch)` are peak learning rates; `batch(d)` images a step; `warmup` a share of the
    duration; `source` says where it was measured."""

    adaptive: Callable[[float, float], float]
    plain: Callable[[float, float], float]
    batch: Callable[[float], float]
    warmup: float
    source: str


def _batch(d: float) -> float:
    """128 images up to a million, then as D^0.5; never so many that under 400 steps remain."""
    return min(128 * max(1.0, d / 1e6) ** 0.5, d / STEPS)


# Measured on small models trained for 400 to 1,900 steps of 64 or 128 images (configs/vision/scaling_lr.py; the runs are in
# benchmarks/results/image_lr.csv). Adaptive: ViTs of 7 to 103 thousand parameters with AdamW. The rule's loss is within 8%
# of that at the best rate, half the rate is worse everywhere, twice the rate better by up to 7% for the smallest models and
# worse by up to 30% for others. Plain: residual networks of 20 and 78 thousand parameters with Nesterov's momentum, whose
# best rate is between 0.4 and 0.8, but for one curve that is flat to 2% up to 1.6. Larger and longer runs are extrapolation.
TABLE: dict[str, Recipe] = {
    "default": Recipe(
        adaptive=lambda n, batch: min(0.8 * n**-0.45 * (batch / 128) ** 0.5, 0.02),
        plain=lambda n, batch: min(0.6 * (batch / 128) ** 0.5, 1.0),
        batch=_batch,
        warmup=0.05,
        source="measured on 7 to 103 thousand parameters (configs/vision/scaling_lr.py)",
    ),
}


def apply(name: str, n: float, d: float, optimizer: str, batch_size: int | None = None) -> Hyperparameters:
    """Batch size, learning rate and warmup by a named recipe.

    Args:
      name: a key of `TABLE`.
      n: parameters in all.
      d: training images, the true duration.
      optimizer: its name in `training.optimizer.TABLE`.
      batch_size: images a step where the config gives them.
    Returns:
      `batch_size` (a power of two), `learning_rate`, `warmup_steps`, and the recipe's `source`.
    Raises:
      BadInput: no such recipe.
    """
    if name not in TABLE:
        raise BadInput(f"recipe.name: no {name!r}{nearest(name, TABLE)} (known: {', '.join(TABLE)})")
    recipe = TABLE[name]
    batch = batch_size or 2 ** max(0, math.floor(math.log2(max(recipe.batch(d), 1))))
    rate = recipe.plain if optimizer in PLAIN else recipe.adaptive
    return {
        "batch_size": batch,
        "learning_rate": rate(n, batch),
        "warmup_steps": round(recipe.warmup * d / batch),
        "source": recipe.source,
    }
