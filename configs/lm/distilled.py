"""Distillation: a decoder of width 32 that learns what one of width 80 says, and student x teacher x tokens for the law.

    isoflop train --config=configs/lm/distilled.py:teacher --workdir=runs/teacher
    isoflop reproduce --config=configs/lm/distilled.py

and for the law, whose teachers have widths 24, 48 and 80:

    isoflop train --config=configs/lm/distilled.py:teacher-24 --workdir=runs/teacher-24
    isoflop train --config=configs/lm/distilled.py:teacher-48 --workdir=runs/teacher-48
    isoflop sweep --config=configs/lm/distilled.py:law --workdir=runs/distillation

The text and the shapes are those of `make demo`; teachers see four million tokens, the baseline's student two. `weight` 1
is pure distillation, at a temperature of 1 (Busbridge et al. 2025, arXiv 2502.08606).
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
TEACHERS = {"teacher-24": 24, "teacher-48": 48, "teacher": 80}  # their widths
WIDTHS = (24, 32, 48)
TOKENS = (0.5e6, 1.0e6, 2.0e6)


def get_config(arg: str = "") -> ConfigDict:
    """The baseline, a teacher, or the sweep of the law."""
    if arg not in ("", "law", *TEACHERS):
        raise ValueError(f"the argument is {', '.join(TEACHERS)}, law or nothing, got {arg!r}")
    base = demo.base()
    if arg in TEACHERS:
        base.model.width, base.duration, base.checkpoint.final = TEACHERS[arg], ConfigDict({"tokens": 4.0e6}), True
        return base
    if not arg:
        base.teacher = ConfigDict({"run": "runs/teacher"})
        base.model.width, base.duration = 32, ConfigDict({"tokens": 2.0e6})
        return baseline("distilled", base, seeds(3), **EXPECTED)
    teachers = axis("teacher.run", ("", *(f"runs/{name}" for name in TEACHERS)))
    design = product(axis("model.width", WIDTHS), axis("duration.tokens", TOKENS), teachers)
    return ConfigDict({"name": "distillation", "base": base, "design": design, **demo.LIMITS})
