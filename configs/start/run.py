"""One run of a small decoder: a file to change.

    isoflop plan --config=configs/start/run.py
    isoflop train --config=configs/start/run.py --workdir=runs/first

Every key is a flag too: --config.model.width=96. What is not stated here is derived, and `isoflop plan` shows it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The run."""
    return ConfigDict(
        {
            "task": "lm",  # or "vision"
            "seed": 0,
            # The architecture. Instead of a width, `"size": 130_000` asks for that many parameters.
            "model": {"width": 64, "depth": 2, "heads": 2},
            # "stdlib" is the source of Python's standard library, which is on this machine. For text of your own:
            # {"corpus": "files", "corpus_args": {"paths": "texts/*.txt"}, "seq_len": 128}
            "data": {"corpus": "stdlib", "seq_len": 128},
            # Exactly one of tokens, steps, epochs, tokens_per_param, and flops (exact training FLOPs).
            "duration": {"tokens_per_param": 20.0},
            # Learning rate, batch size and warm-up follow from N and D by a rule, unless they are stated:
            # "batch_size": 8,
            # "optimizer": {"learning_rate": 3e-3},
            "evaluation": {"tokens": 131_072},
        }
    )
