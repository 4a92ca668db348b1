"""A sweep of widths and learning rates: a file to change.

    isoflop plan --config=configs/start/sweep.py
    isoflop sweep --config=configs/start/sweep.py --workdir=runs/sweep

A sweep is the run that all points vary (`base`) and a table of what they vary (`design`). It can be stopped at any time:
the same command goes on, on any number of machines that share the folder.
"""

from ml_collections import ConfigDict

from sweeps.design import axis, product


def base() -> ConfigDict:
    """The run that every point varies; keys as in a config of one run."""
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 4,
            "model": {"depth": 2, "heads": 2},
            # Text of your own: {"corpus": "files", "corpus_args": {"paths": "texts/*.txt"}, "seq_len": 128}
            "data": {"corpus": "stdlib", "seq_len": 128},
            "duration": {"tokens": 400_000},
            "evaluation": {"tokens": 131_072},
        }
    )


def get_config() -> ConfigDict:
    """The sweep: every width with every learning rate, 9 runs."""
    design = product(
        axis("model.width", (16, 32, 64)),
        axis("optimizer.learning_rate", (3e-3, 6e-3, 1.2e-2)),
    )
    return ConfigDict({"name": "sweep", "base": base(), "design": design})
