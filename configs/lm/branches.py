"""The same grid of sizes and horizons by single runs and by branches, on the models and the text of `make demo`.

    isoflop plan --config=configs/lm/branches.py:branches --nomemory
    isoflop sweep --config=configs/lm/branches.py:branches --workdir=runs/branches
    isoflop sweep --config=configs/lm/branches.py:single --workdir=runs/single

Both have the schedule `wsd`. Single runs draw a seed each, and their batch, rate and warmup follow from their own horizon;
branches have those of their trunk, and two trunks a size. `docs/designs.md` has what came of it.
"""

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import Design, axis, branch, product, zip_

WIDTHS = (8, 12, 16, 24)
TOKENS = (1.0e5, 1.5e5, 2.25e5, 3.4e5, 5.1e5)
COOLDOWN = 0.2


def single() -> Design:
    """One run a point, each with a seed of its own."""
    grid = product(axis("model.width", WIDTHS), axis("duration.tokens", TOKENS))
    schedule = axis("schedule.name", ("wsd",)), axis("schedule.decay_fraction", (COOLDOWN,))
    return product(zip_(grid, axis("seed", range(100, 100 + len(grid)))), *schedule)


def branches() -> Design:
    """Two trunks a size, each with a seed of its own."""
    trunks = product(axis("model.width", WIDTHS), axis("seed", (0, 1)))
    seeds = tuple({**point, "seed": number} for number, point in enumerate(trunks))
    return branch(seeds, TOKENS, COOLDOWN)


DESIGNS = {"single": single, "branches": branches}


def get_config(arg: str = "branches") -> ConfigDict:
    """One of the two sweeps, by name."""
    base = demo.base()
    base.steps_per_call, base.evaluation.tokens = 10, 65_536
    return ConfigDict({"name": arg, "base": base, "design": DESIGNS[arg or "branches"](), "max_epochs": 1.0})
