"""How the learning-rate rule of `make demo` was measured: rates around the rule's at three sizes each of two budgets.

isoflop sweep --config=configs/lm/demo_lr.py --workdir=runs/demo_lr
"""

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import axis, chain, label, product

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
POINTS = {1.0e11: (12, 20, 40), 3.2e11: (16, 32, 48)}


def get_config(arg: str = "") -> ConfigDict:
    """The sweep; no argument."""
    del arg
    design = chain(
        *(
            label(
                product(
                    axis("duration.flops", [budget]),
                    axis("model.width", widths),
                    axis("optimizer.learning_rate", RATES),
                ),
                budget=budget,
            )
            for budget, widths in POINTS.items()
        )
    )
    return ConfigDict({"name": "demo_lr", "base": demo.base(), "design": design, **demo.LIMITS})
