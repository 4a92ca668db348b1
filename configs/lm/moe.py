"""A mixture of 8 experts, 2 a token, on the source of Python's standard library; and the dense decoder of the same work.

    isoflop reproduce --config=configs/lm/moe.py
    isoflop reproduce --config=configs/lm/moe.py:dense

Two experts are as wide as the dense MLP, so that both multiply a token with as many parameters, but for the router's.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds

EXPECTED: dict[str, dict[str, Any]] = {
    "": {
        "metric": "loss",
        "mean": 1.2735,
        "tolerance": 0.02,
        "measured": "2026-11-23, 2 CPU cores, 675 s of single-core runs",
    },
    "dense": {"metric": "loss"},
}
EXPERTS = {"name": "moe", "experts": 8, "experts_per_token": 2, "mlp_width": 128}


def base(dense: bool) -> ConfigDict:
    """A run."""
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 16,
            "duration": {"steps": 4000},
            "model": {"width": 64, "depth": 2, "heads": 2, "qk_norm": True, **({} if dense else EXPERTS)},
            "optimizer": {"b2": 0.99},
            "data": {"corpus": "stdlib", "seq_len": 128, "eval_fraction": 0.1},
            "evaluation": {"tokens": 131_072},
        }
    )


def get_config(arg: str = "") -> ConfigDict:
    """The baseline of that name."""
    if arg not in EXPECTED:
        raise ValueError(f"the argument is dense or nothing, got {arg!r}")
    return baseline(f"moe-{arg}" if arg else "moe", base(arg == "dense"), seeds(3), **EXPECTED[arg])
