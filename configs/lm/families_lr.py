"""How the learning rates of other families than the decoder were chosen: rates at two sizes and two budgets.

    isoflop sweep --config=configs/lm/families_lr.py:lstm --workdir=runs/lr-lstm

The argument is a model of `lm/models.py`: lstm, gated_linear, encoder_decoder, moe, rnn or gru. The losses of the first
four are in benchmarks/results/families_lr.csv (about 5 minutes each on two busy cores); rnn and gru were not run. The text
is that of `make demo`; the widest mixture would make fewer than 400 steps and is refused.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import axis, chain, label, product

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
POINTS = {0.5e11: (16, 32), 2.0e11: (32, 64)}
MODELS: dict[str, dict[str, Any]] = {
    "rnn": {},
    "gru": {},
    "lstm": {},
    "gated_linear": {},
    "encoder_decoder": {"depth": 1, "heads": 2, "qk_norm": True},
    "moe": {"heads": 2, "qk_norm": True},
}


def base(name: str) -> ConfigDict:
    """A run of the demo with another model, of two layers in all."""
    config = demo.base()
    config.model = ConfigDict({"name": name, "depth": 2, **MODELS[name]})
    return config


def get_config(arg: str = "lstm") -> ConfigDict:
    """The sweep."""
    if arg not in MODELS:
        raise ValueError(f"the argument is one of {', '.join(MODELS)}, got {arg!r}")
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
    return ConfigDict({"name": f"lr-{arg}", "base": base(arg), "design": design, **demo.LIMITS})
