"""A vision transformer of 0.3 million parameters on Fashion-MNIST: 6 blocks of width 64 on patches of 7 x 7, 5 epochs.

isoflop reproduce --config=configs/vision/vit_tiny.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.vision import baseline, run, seeds

EXPECTED: dict[str, Any] = {
    "mean": 0.8802,
    "tolerance": 0.005,
    "measured": "2026-11-22, 2 CPU cores, 1,111 s of single-core runs",
}


def get_config() -> ConfigDict:
    """The baseline."""
    base = run(
        "fashion",
        "vit",
        128,
        5,
        model__width=64,
        model__depth=6,
        model__patch=7,
        optimizer__learning_rate=0.002,
        schedule__name="cosine",
        schedule__final_fraction=0.0,
        schedule__warmup_fraction=0.1,
        data__augment__flip=True,
    )
    return baseline("vit-tiny-fashion", base, seeds(3), **EXPECTED)
