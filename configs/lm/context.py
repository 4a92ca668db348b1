"""Loss by position in the context, of a decoder and an LSTM of about the same size: who goes on gaining from far back?

    isoflop train --config=configs/lm/context.py:decoder --workdir=runs/context-decoder
    isoflop evaluate runs/context-decoder --predictions=decoder.parquet
    isoflop train --config=configs/lm/context.py:lstm --workdir=runs/context-lstm
    isoflop evaluate runs/context-lstm --predictions=lstm.parquet

A row is a token. The text is that of `make demo`, in windows of 512 bytes, of which both see the same four million.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lm import demo

MODELS: dict[str, dict[str, Any]] = {
    "decoder": {"name": "decoder", "width": 80, "depth": 2, "heads": 2, "qk_norm": True},
    "lstm": {"name": "lstm", "width": 96, "depth": 2},
}


def get_config(arg: str = "decoder") -> ConfigDict:
    """One of the two runs."""
    if arg not in MODELS:
        raise ValueError(f"the argument is one of {', '.join(MODELS)}, got {arg!r}")
    base = demo.base()
    base.model, base.duration, base.checkpoint.final = ConfigDict(MODELS[arg]), ConfigDict({"tokens": 4.0e6}), True
    base.data.seq_len, base.evaluation.tokens = 512, 524_288
    return base
