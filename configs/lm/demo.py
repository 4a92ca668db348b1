"""The study of `make demo`: iso-FLOP curves of two-layer decoders on the source of Python's standard library, in minutes.

    isoflop plan --config=configs/lm/demo.py
    isoflop study --config=configs/lm/demo.py --workdir=runs/demo

Five budgets of exact training FLOPs; the largest is trained only after its loss has been predicted from the other four
(`make demo`). Every point makes at least 400 steps, since shorter runs are limited by their steps rather than by their
size, and sees no token twice. Width alone makes the size, and all else is the same throughout, so that the losses lie on
one curve: two blocks (single ones fall off it), two heads (one head lost 2% at width 16, eight lost 10% at width 64), and
512 tokens a step. Normalised queries and keys took 1.4% off the loss, and with b2 at 0.99 half of what seeds differ by.
"""

from ml_collections import ConfigDict

from configs import study

WIDTHS = {
    1.0e11: (12, 16, 20, 24, 32, 40),
    1.8e11: (12, 16, 20, 24, 32, 40, 48),
    3.2e11: (16, 24, 32, 40, 48),
    5.8e11: (24, 32, 40, 48, 64),
    1.0e12: (24, 32, 48, 64, 80),
}
REPEATED = {1.0e11: 20, 1.8e11: 24, 3.2e11: 32, 5.8e11: 32, 1.0e12: 48}  # three seeds, for the noise
LIMITS = {"min_steps": 400, "max_epochs": 1.0}


def base() -> ConfigDict:
    """The run that every point varies."""
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 4,
            "model": {"depth": 2, "heads": 2, "qk_norm": True},
            "optimizer": {"b2": 0.99},
            "data": {"corpus": "stdlib", "seq_len": 128, "eval_fraction": 0.1},
            "schedule": {"final_fraction": 0.0},
            "evaluation": {"tokens": 131_072},
            "checkpoint": {"final": False},
        }
    )


def get_config() -> ConfigDict:
    """The study."""
    return study("demo", base(), WIDTHS, REPEATED, **LIMITS)
