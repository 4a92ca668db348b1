"""A study: iso-FLOP sweep, fitted law, frozen forecast, the runs that it forecast, score and report. A file to change.

    isoflop plan --config=configs/start/study.py
    isoflop study --config=configs/start/study.py --workdir=runs/study

The largest budget is trained only after its loss has been forecast from the smaller ones, and the score says how far off
the forecast was. A study can be stopped at any time: the same command goes on.
"""

from ml_collections import ConfigDict

from configs import study

# Exact training FLOPs of a run -> widths trained at that budget. The best width should lie between the smallest and the
# largest; where it does not, `isoflop study` adds the next one.
WIDTHS = {
    1.0e11: (12, 16, 20, 24, 32, 40),
    1.8e11: (12, 16, 24, 32, 40),
    3.2e11: (16, 24, 32, 40, 48),
    5.8e11: (24, 32, 40, 48, 64),  # held out, since it is the largest
}
# The width of a budget that is trained with three seeds: how far they differ is the noise of the fit.
REPEATED = {1.0e11: 20, 3.2e11: 32}


def base() -> ConfigDict:
    """The run that every point varies; keys as in a config of one run."""
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 4,
            "model": {"depth": 2, "heads": 2},
            # Text of your own: {"corpus": "files", "corpus_args": {"paths": "texts/*.txt"}, "seq_len": 128}
            "data": {"corpus": "stdlib", "seq_len": 128},
            # A fit compares runs that have ended: the learning rate goes to zero at the end of each.
            "schedule": {"final_fraction": 0.0},
            "evaluation": {"tokens": 131_072},
            "checkpoint": {"final": False},  # losses alone are wanted
        }
    )


def get_config() -> ConfigDict:
    """The study; points with fewer steps, or that see a token twice, are left out."""
    return study("study", base(), WIDTHS, REPEATED, min_steps=400, max_epochs=1.0)
