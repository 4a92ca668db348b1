"""The perceptron 784-500-10 of textbooks: SGD 0.001 with momentum 0.9, batch 64, 10 epochs.

    isoflop reproduce --config=configs/vision/perceptron.py              # Fashion-MNIST, 5 seeds
    isoflop reproduce --config=configs/vision/perceptron.py:mnist5k      # 5,000 of MNIST, 5 folds
    isoflop plan --config=configs/vision/perceptron.py:mnist             # the whole of MNIST: not reproduced

The argument is the dataset: fashion, mnist5k, or mnist, which TFDS must download. A tolerance is twice the standard
deviation of one run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.vision import baseline, kfold, run, seeds

EXPECTED: dict[str, dict[str, Any]] = {
    "fashion": {"mean": 0.8662, "tolerance": 0.005, "measured": "2026-11-22, 2 CPU cores, 1,031 s of single-core runs"},
    "mnist5k": {
        "mean": 0.9010,
        "tolerance": 0.013,
        "measured": "2026-11-23, 2 CPU cores, busy, 40 s of single-core runs",
    },
    "mnist": {"claimed": 0.986, "source": "the tutorial with this setting"},
}


def get_config(arg: str = "fashion") -> ConfigDict:
    """The baseline; `arg` is a key of `EXPECTED`."""
    if arg not in EXPECTED:
        raise ValueError(f"the argument is one of {', '.join(EXPECTED)}, got {arg!r}")
    base = run(
        arg,
        "mlp",
        64,
        10,
        optimizer__name="momentum",
        optimizer__learning_rate=0.001,
        optimizer__clip=0.0,
        schedule__name="constant",
        schedule__warmup_steps=0,
    )
    design = kfold(base, 5) if arg == "mnist5k" else seeds(5)
    return baseline(f"perceptron-{arg}", base, design, **EXPECTED[arg])
