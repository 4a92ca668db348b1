"""BERT in small: masked bytes of WordNet's definitions, and the category of a definition, from scratch or fine-tuned.

    isoflop reproduce --config=configs/lm/bert.py
    isoflop reproduce --config=configs/lm/bert.py:categories
    isoflop sweep --config=configs/lm/bert.py:law --workdir=runs/encoders
    isoflop fit runs/encoders --law=chinchilla
    isoflop train --config=configs/lm/bert.py:tune --workdir=runs/tuned \\
        --config.init_from.run=runs/reproduce/bert/runs/RUN_ID

The texts are in Debian's package wordnet-base. A category is one of 45, as noun.animal or verb.motion. Fine-tuning begins
with a run of the first command, with the classifier drawn anew. Positions are rotary: with learned ones, as BERT has them,
the loss stood still at 2.8 nats, near that of the bytes' frequencies, for all of 770 steps. From scratch, categories are
read in subwords: in bytes, three seeds of the first model ended at an accuracy of 0.18 with a standard error of 0.03.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo
from sweeps.design import axis, product

EXPECTED: dict[str, dict[str, Any]] = {
    "": {
        "metric": "loss",
        "mean": 1.449,
        "tolerance": 0.04,
        "measured": "2026-11-23, 2 CPU cores, busy, 2,113 s of single-core runs",
    },
    "categories": {
        "metric": "accuracy",
        "mean": 0.615,
        "tolerance": 0.03,
        "measured": "2026-11-23, 2 CPU cores, busy, 514 s of single-core runs",
    },
}
WIDTHS = (24, 32, 48, 64)
TOKENS = (1.0e6, 2.0e6, 4.0e6)


def base(paired: bool) -> ConfigDict:
    """A run on the running text of the definitions, or on pairs of a definition and its category."""
    data = {"corpus": "wordnet"} if paired else {"corpus": "debian", "corpus_args": {"packages": "wordnet-base"}}
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 32,
            "duration": {"steps": 1000},
            "model": {"name": "encoder", "width": 96, "depth": 3, "positions": "rotary"},
            "optimizer": {"learning_rate": 2e-3},
            "data": {**data, "seq_len": 128},
            "evaluation": {"tokens": 262_144},
        }
    )


def get_config(arg: str = "") -> ConfigDict:
    """The baseline of that name, the sweep of the law of masked bytes, or the run that is fine-tuned."""
    if arg not in ("", "categories", "law", "tune"):
        raise ValueError(f"the argument is categories, law, tune or nothing, got {arg!r}")
    if arg == "law":
        config = base(False)
        config.model.depth, config.duration = 2, ConfigDict({})
        config.batch_size, config.optimizer.learning_rate = 8, None  # the rate of the rule
        points = axis("model.width", WIDTHS), axis("duration.tokens", TOKENS), axis("seed", (0, 1, 2))
        return ConfigDict({"name": "encoders", "base": config, "design": product(*points), **demo.LIMITS})
    config = base(bool(arg))
    if arg == "tune":
        config.optimizer.learning_rate = 1e-3
        config.init_from = ConfigDict({"reinit": ("pooler/.*", "classifier/.*")})
        return config
    if arg:
        config.model.depth, config.model.norm_position = 2, "pre"
        config.data.tokenizer, config.data.seq_len, config.batch_size = "bpe:4096", 32, 64
        config.duration.steps = 1500
    return baseline("bert-categories" if arg else "bert", config, seeds(3), **EXPECTED[arg])
