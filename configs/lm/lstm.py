"""An LSTM of two layers on the source of Python's standard library, beside the decoders of `make demo`.

isoflop reproduce --config=configs/lm/lstm.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo

EXPECTED: dict[str, Any] = {
    "metric": "bits_per_byte",
    "mean": 2.332,
    "tolerance": 0.03,
    "measured": "2026-11-23, 2 CPU cores, busy, 782 s of single-core runs",
}


def get_config() -> ConfigDict:
    """The baseline."""
    base = demo.base()
    base.model, base.duration = ConfigDict({"name": "lstm", "width": 96}), ConfigDict({"tokens": 2.0e6})
    return baseline("lstm", base, seeds(3), **EXPECTED)
