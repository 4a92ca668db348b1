"""Pruning: three quarters of the weights cut while training, and sparsity x size x tokens for its law.

    isoflop reproduce --config=configs/lm/pruned.py
    isoflop sweep --config=configs/lm/pruned.py:law --workdir=runs/sparsity
    isoflop fit runs/sparsity --law=sparsity --n_column=params_nonzero

The text and the shape are those of `make demo`. Weights are cut by magnitude among all matrices, from a quarter to three
quarters of the duration.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo
from sweeps.design import axis, product

EXPECTED: dict[str, Any] = {
    "metric": "loss",
    "mean": 1.592,
    "tolerance": 0.01,
    "measured": "2026-11-23, 2 CPU cores, busy, 394 s of single-core runs",
}
SPARSITIES = (0.0, 0.5, 0.75, 0.875)
WIDTHS = (24, 32, 48)
TOKENS = (0.5e6, 1.0e6, 2.0e6)


def get_config(arg: str = "") -> ConfigDict:
    """The baseline, or the sweep of the law."""
    if arg not in ("", "law"):
        raise ValueError(f"the argument is law or nothing, got {arg!r}")
    base = demo.base()
    if not arg:
        base.model.width, base.duration = 64, ConfigDict({"tokens": 2.0e6})
        base.prune = ConfigDict({"sparsity": 0.75})
        return baseline("pruned", base, seeds(3), **EXPECTED)
    points = axis("model.width", WIDTHS), axis("duration.tokens", TOKENS), axis("prune.sparsity", SPARSITIES)
    return ConfigDict({"name": "sparsity", "base": base, "design": product(*points), **demo.LIMITS})
