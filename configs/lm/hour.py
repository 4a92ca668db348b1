"""The study of `make demo` with an hour on two cores: larger budgets, on 77 MB of prose and documentation.

    isoflop prepare --config=configs/lm/hour.py
    isoflop study --config=configs/lm/hour.py --workdir=runs/hour

The corpus is three Debian packages, fetched by `apt-get download` (no root). Without them, `configs/lm/hour.py:stdlib` runs
the three smaller budgets on the standard library, which is too short for the others: no token would be seen only once.
"""

from ml_collections import ConfigDict

from configs import study
from configs.lm import demo

WIDTHS = {
    1.0e12: (32, 48, 64, 80, 96),
    2.0e12: (32, 48, 64, 80, 96),
    4.0e12: (48, 64, 80, 96, 128),
    8.0e12: (48, 64, 80, 96, 128),
    1.6e13: (64, 80, 96, 128, 160),
}
LARGEST = {"debian": 1.6e13, "stdlib": 4.0e12}  # budget, by corpus: beyond it the smallest sizes would repeat data
REPEATED = {1.0e12: 48, 2.0e12: 64, 4.0e12: 80}  # three seeds, for the noise


def get_config(arg: str = "debian") -> ConfigDict:
    """The sweep; `arg` is "debian" or "stdlib"."""
    base = demo.base()
    if arg == "debian":
        base.data.corpus = "debian"
        base.data.corpus_args = ConfigDict({"packages": "anarchism,dict-gcide,linux-doc-6.1"})
    elif arg not in LARGEST:
        raise ValueError(f"the argument is debian or stdlib, got {arg!r}")
    base.batch_size = 8
    base.evaluation.tokens = 1_048_576
    grid = {budget: widths for budget, widths in WIDTHS.items() if budget <= LARGEST[arg]}
    return study(f"hour-{arg}", base, grid, REPEATED, **demo.LIMITS)
