"""Quantization: weights of 4 bits and activations of 8 in training, and bits x size x tokens for the law of precision.

    isoflop reproduce --config=configs/lm/quantized.py
    isoflop sweep --config=configs/lm/quantized.py:law --workdir=runs/precision
    isoflop fit runs/precision --law=precision_weights
    isoflop fit runs/precision/post.parquet --law=precision_post --loss_column=loss_added \
        --where="bits_post < 8 < bits_weights"

The text and the shape are those of `make demo`. Every run is also evaluated with its weights rounded after training
(`post` in its record).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo
from sweeps.design import axis, product

EXPECTED: dict[str, Any] = {
    "metric": "loss",
    "mean": 1.547,
    "tolerance": 0.013,
    "measured": "2026-11-23, 2 CPU cores, busy, 279 s of single-core runs",
}
FORMATS = ("int2", "int3", "int4", "int6", "")
POST = ("int8", "int6", "int4", "int3")
WIDTHS = (24, 32, 48)
TOKENS = (0.5e6, 1.0e6, 2.0e6)


def get_config(arg: str = "") -> ConfigDict:
    """The baseline, or the sweep of the law."""
    if arg not in ("", "law"):
        raise ValueError(f"the argument is law or nothing, got {arg!r}")
    base = demo.base()
    base.quantize = ConfigDict({"post": POST})
    if not arg:
        base.model.width, base.duration = 64, ConfigDict({"tokens": 2.0e6})
        base.quantize.weights, base.quantize.activations = "int4", "int8"
        return baseline("quantized", base, seeds(3), **EXPECTED)
    points = axis("model.width", WIDTHS), axis("duration.tokens", TOKENS), axis("quantize.weights", FORMATS)
    return ConfigDict({"name": "precision", "base": base, "design": product(*points), **demo.LIMITS})
