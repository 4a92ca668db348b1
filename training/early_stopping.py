"""Which evaluation of a run was the best, and whether to stop: pure functions of what its metrics say."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from training import checkpoint
from training.errors import BadInput
from training.lines import read_metrics

LOWER = ("loss", "error", "bits_per_byte", "calibration_error")  # every other metric is better when higher


class Verdict(NamedTuple):
    """The best evaluation so far, its score (higher is better), and whether patience has run out since."""

    step: int
    score: float
    exhausted: bool


def score(metrics: dict[str, Any], metric: str) -> float:
    """The value of a metric, its sign such that higher is better.

    Raises:
      BadInput: the evaluation has no such metric.
    """
    if metric not in metrics or isinstance(metrics[metric], str):
        check(metric, [name for name, value in metrics.items() if isinstance(value, float)])
    value = metrics[metric]
    if value is None or not math.isfinite(value):
        return -math.inf
    return float(-value if metric in LOWER else value)


def check(metric: str, known: Iterable[str]) -> None:
    """Raise BadInput where a metric is none of those that an evaluation gives."""
    if metric not in known:
        raise BadInput(f"early_stopping.metric: the evaluation gives no {metric!r} (it gives {', '.join(known)})")


def judge(run: Path, step: int, metric: str, patience: int) -> Verdict | None:
    """The verdict over the evaluations of a run up to a step, as its `metrics.jsonl` has them; None: there were none.

    Args:
      run: its directory.
      metric: name, as in `score`.
      patience: evaluations in a row without a better one that end a run; 0: none do.
    """
    lines = [line for line in read_metrics(run) if line["step"] <= step and f"eval/{metric}" in line]
    if not lines:
        return None
    scores = [score({metric: line[f"eval/{metric}"]}, metric) for line in lines]
    best = max(range(len(scores)), key=lambda i: checkpoint.rank(scores[i], lines[i]["step"]))
    return Verdict(lines[best]["step"], scores[best], 0 < patience <= len(scores) - 1 - best)
