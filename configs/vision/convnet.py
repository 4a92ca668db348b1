"""The small convolutional network of tutorials, 32-pool-64-pool-64-dense 64-10: Adam 0.001, batch 128, 10 epochs.

    isoflop reproduce --config=configs/vision/convnet.py                 # Fashion-MNIST, 5 seeds
    isoflop reproduce --config=configs/vision/convnet.py:mnist5k         # 5,000 of MNIST, 5 folds
    isoflop plan --config=configs/vision/convnet.py:mnist                # the whole of MNIST: not reproduced

The argument is the dataset: fashion, mnist5k, or mnist, which TFDS must download. A tolerance is twice the standard
deviation of one run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.vision import baseline, kfold, run, seeds

EXPECTED: dict[str, dict[str, Any]] = {
    "fashion": {
        "mean": 0.9052,
        "tolerance": 0.013,
        "measured": "2026-11-22, 2 CPU cores, busy, 2,084 s of single-core runs",
    },
    "mnist5k": {
        "mean": 0.9678,
        "tolerance": 0.009,
        "measured": "2026-11-23, 2 CPU cores, busy, 375 s of single-core runs",
    },
    "mnist": {},
}


def get_config(arg: str = "fashion") -> ConfigDict:
    """The baseline; `arg` is a key of `EXPECTED`."""
    if arg not in EXPECTED:
        raise ValueError(f"the argument is one of {', '.join(EXPECTED)}, got {arg!r}")
    base = run(
        arg,
        "convnet",
        128,
        10,
        optimizer__name="adam",
        optimizer__learning_rate=0.001,
        optimizer__clip=0.0,
        schedule__name="constant",
        schedule__warmup_steps=0,
    )
    design = kfold(base, 5) if arg == "mnist5k" else seeds(5)
    return baseline(f"convnet-{arg}", base, design, **EXPECTED[arg])
