"""Distillation: a decoder of width 32 that learns what one of width 80 says, and students x tokens for the law.

    isoflop train --config=configs/lm/distilled.py:teacher --workdir=runs/teacher
    isoflop reproduce --config=configs/lm/distilled.py
    isoflop sweep --config=configs/lm/distilled.py:law --workdir=runs/distillation

The text and the shapes are those of `make demo`; the teacher sees four million tokens, the student two. `weight` 1 is
pure distillation, at a temperature of 1 (Busbridge et al. 2025, arXiv 2502.08606).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo
from sweeps.design import axis, product

EXPECTED: dict[str, Any] = {
    "metric": "loss",
    "mean": 1.588,
    "tolerance": 0.025,
    "measured": "2026-11-23, 2 CPU cores, busy, 254 s of runs, with a teacher of loss 1.405",
}
TEACHER = "runs/teacher"
WIDTHS = (16, 24, 32, 48)
TOKENS = (0.5e6, 1.0e6, 2.0e6)


def get_config(arg: str = "") -> ConfigDict:
    """The baseline, its teacher, or the sweep of the law."""
    if arg not in ("", "teacher", "law"):
        raise ValueError(f"the argument is teacher, law or nothing, got {arg!r}")
    base = demo.base()
    if arg == "teacher":
        base.model.width, base.horizon, base.checkpoint.final = 80, ConfigDict({"tokens": 4.0e6}), True
        return base
    base.teacher = ConfigDict({"run": TEACHER})
    if not arg:
        base.model.width, base.horizon = 32, ConfigDict({"tokens": 2.0e6})
        return baseline("distilled", base, seeds(3), **EXPECTED)
    points = axis("model.width", WIDTHS), axis("horizon.tokens", TOKENS), axis("teacher.run", ("", TEACHER))
    return ConfigDict({"name": "distillation", "base": base, "design": product(*points), **demo.LIMITS})
