"""Learning rate, batch size and warmup as named functions of parameters N and tokens D, those of a decoder."""

import math
from collections.abc import Callable
from typing import NamedTuple

from training.errors import BadInput, nearest


class Rule(NamedTuple):
    """`lr(n, d, batch_tokens)` is the peak learning rate; `batch(d)` tokens a step; `warmup` a share of the duration."""

    lr: Callable[[float, float, float], float]
    batch: Callable[[float], float]
    warmup: float


def _batch(d: float) -> float:
    """2,048 tokens at D = 4e6, as D^0.65 up to half a million at 2e10; never so many that under 400 steps remain."""
    return min(2048 * (d / 4e6) ** 0.65, d / 400)


# Measured with AdamW and cosine decay to a tenth and to zero, on two-layer decoders of 3.6 to 115 thousand parameters, at
# 256 to 2,048 tokens a step, with and without normalised queries and keys (configs/lm/demo_lr.py; the runs are in
# benchmarks/results/demo_lr.csv): at 15 of 18 combinations of size, budget, decay and model the rule is within 25% of the
# best rate, and half or twice the rule's rate is nowhere better by a standard error. Larger models are extrapolation.
# Of experts, N are the parameters that a token goes through: 800 steps of configs/lm/moe.py, one seed, ended at 1.522 with a
# peak of 8e-3 and at 1.539 with 4e-3, and the rule says 6.9e-3 of the 116 thousand at work, 4.4e-3 of all 313 thousand.
TABLE: dict[str, Rule] = {
    "default": Rule(lr=lambda n, d, batch: 0.22 * n**-0.46 * batch**0.25, batch=_batch, warmup=0.05),
}


MOST = 0.05  # the largest rate that a rule gives


def apply(
    name: str, n: float, d: float, seq_len: int, batch_size: int | None = None, factor: float = 1.0
) -> dict[str, float | int]:
    """Batch size, learning rate and warmup by a named rule.

    Args:
      name: a key of `TABLE`.
      n: parameters that a token goes through.
      d: training tokens, the true duration.
      seq_len: tokens an example.
      batch_size: examples a step where the config gives them: learning rate and warmup then follow from it.
      factor: how many times the rate of a decoder a model wants.
    Returns:
      `batch_size` in examples (a power of two), `learning_rate`, `warmup_steps`.
    Raises:
      BadInput: no such rule.
    """
    if name not in TABLE:
        raise BadInput(f"hparam_scaling: no {name!r}{nearest(name, TABLE)} (known: {', '.join(TABLE)})")
    rule = TABLE[name]
    batch = batch_size
    if batch is None:
        batch = 2 ** max(0, math.floor(math.log2(max(rule.batch(d) / seq_len, 1))))
    steps = d / (batch * seq_len)
    return {
        "batch_size": batch,
        "learning_rate": min(factor * rule.lr(n, d, batch * seq_len), MOST),
        "warmup_steps": round(rule.warmup * steps),
    }
