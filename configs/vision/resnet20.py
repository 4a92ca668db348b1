"""ResNet-20 (He et al. 2015, section 4.2) on Fashion-MNIST: momentum, cosine decay, flips and crops, 3 epochs.

isoflop reproduce --config=configs/vision/resnet20.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.vision import baseline, run, seeds

EXPECTED: dict[str, Any] = {
    "mean": 0.9022,
    "tolerance": 0.003,
    "measured": "2026-11-23, 2 CPU cores, busy, 8,526 s of single-core runs",
}


def get_config() -> ConfigDict:
    """The baseline."""
    base = run(
        "fashion",
        "resnet",
        128,
        3,
        model__variant="20",
        optimizer__name="nesterov",
        optimizer__learning_rate=0.1,
        optimizer__clip=0.0,
        optimizer__weight_decay=5e-4,
        schedule__name="cosine",
        schedule__final_fraction=0.0,
        schedule__warmup_fraction=0.05,
        data__augment__flip=True,
        data__augment__crop=2,
    )
    return baseline("resnet20-fashion", base, seeds(3), **EXPECTED)
