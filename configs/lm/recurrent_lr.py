"""How the learning rates of recurrent models were chosen: rates at two sizes and two budgets, on the text of `make demo`.

    isoflop sweep --config=configs/lm/recurrent_lr.py:lstm --workdir=runs/lr-lstm

The argument is a recurrent model of `lm/models.py`: rnn, gru, lstm or gated_linear. Of `lstm` the losses are in
benchmarks/results/recurrent_lr.csv (326 s on two busy cores); of the others it was not run.
"""

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import axis, chain, label, product

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
POINTS = {0.5e11: (16, 32), 2.0e11: (32, 64)}
NAMES = ("rnn", "gru", "lstm", "gated_linear")


def base(name: str) -> ConfigDict:
    """A run of the demo with another model, of two layers."""
    config = demo.base()
    config.model = ConfigDict({"name": name, "depth": 2})
    return config


def get_config(arg: str = "lstm") -> ConfigDict:
    """The sweep."""
    if arg not in NAMES:
        raise ValueError(f"the argument is one of {', '.join(NAMES)}, got {arg!r}")
    design = chain(
        *(
            label(
                product(axis("horizon.flops", [budget]), axis("model.width", widths), axis("optimizer.peak_lr", RATES)),
                budget=budget,
            )
            for budget, widths in POINTS.items()
        )
    )
    return ConfigDict({"name": f"lr-{arg}", "base": base(arg), "design": design, **demo.LIMITS})
