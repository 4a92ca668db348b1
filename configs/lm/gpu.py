"""An iso-FLOP study for a single GPU: budgets of 1e16 to 3e17 exact FLOPs on lm1b (TFDS), in bfloat16.

    isoflop prepare --config=configs/lm/gpu.py
    isoflop sweep --config=configs/lm/gpu.py --workdir=runs/gpu

Not reproduced: neither the corpus, which TFDS downloads, nor a GPU was at hand when this was written. At 100 TFLOP/s the
2.2e18 FLOPs take six hours; `isoflop plan` prices them for the machine it runs on.
"""

from ml_collections import ConfigDict

from sweeps.design import axis, chain, isoflop, label, product

BUDGETS = (1.0e16, 3.0e16, 1.0e17, 3.0e17)
SIZES = {
    1.0e16: (4e6, 8e6, 1.5e7, 3e7, 6e7),
    3.0e16: (8e6, 1.5e7, 3e7, 6e7, 1.2e8),
    1.0e17: (1.5e7, 3e7, 6e7, 1.2e8, 2.4e8),
    3.0e17: (3e7, 6e7, 1.2e8, 2.4e8, 4.8e8),
}
REPEATED = {1.0e16: 1.5e7, 3.0e16: 3e7, 1.0e17: 6e7}


def get_config(arg: str = "") -> ConfigDict:
    """The sweep; no argument."""
    del arg
    base = ConfigDict(
        {
            "task": "lm",
            "model": {"scan": True, "remat": "dots", "qk_norm": True},
            "data": {"corpus": "lm1b", "tokenizer": "bpe:8192", "seq_len": 512},
            "evaluation": {"tokens": 4_194_304, "batch_size": 128},
            "precision": {"compute": "bfloat16"},
            "checkpoint": {"every_minutes": 10.0},
        }
    )
    again = [
        label(product(isoflop([budget], [size]), axis("seed", (1, 2))), budget=budget)
        for budget, size in REPEATED.items()
    ]
    design = chain(isoflop(BUDGETS, SIZES), *again)
    return ConfigDict({"name": "gpu", "base": base, "design": design, "min_steps": 1000, "max_epochs": 1.0})
