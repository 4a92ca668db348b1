"""A small decoder on the source of Python's standard library, for a first look.

    isoflop train --config=configs/lm/small.py --workdir=runs/small

About 130 thousand parameters, 20 tokens a parameter. The argument is the target size: `configs/lm/small.py:50000`.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """A single run; `arg` is the target number of parameters."""
    return ConfigDict(
        {
            "task": "lm",
            "model": {"size": float(arg or 130_000), "depth": 2},
            "data": {"corpus": "stdlib", "seq_len": 128},
            "duration": {"tokens_per_param": 20.0},
            "evaluation": {"tokens": 131_072},
        }
    )
