"""A vision transformer of 0.3 million parameters on Fashion-MNIST: 6 blocks of width 64 on patches of 4 x 4, 5 epochs.

isoflop reproduce --config=configs/vision/vit_tiny.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.vision import baseline, run, seeds

EXPECTED: dict[str, Any] = {}


def get_config() -> ConfigDict:
    """The baseline."""
    base = run(
        "fashion",
        "vit",
        128,
        5,
        model__width=64,
        model__depth=6,
        optimizer__peak_lr=0.002,
        schedule__name="cosine",
        schedule__final_fraction=0.0,
        schedule__warmup_fraction=0.1,
        data__augment__flip=True,
    )
    return baseline("vit-tiny-fashion", base, seeds(3), **EXPECTED)
