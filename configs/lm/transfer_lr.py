"""Where the best learning rate goes as models become wider and deeper, under the standard parametrization and others.

    isoflop sweep --config=configs/lm/transfer_lr.py --workdir=runs/transfer_lr
    python -m benchmarks.transfer_lr runs/transfer_lr

Decoders of bytes with heads of 16 features, 512 tokens a step, 150 steps; the rate is that of the reference model (width 64,
depth 2), and doubles from point to point. Along the width muP and CompleteP are one at the reference's depth, and along the
depth muP is the standard parametrization at the reference's width: each is run once. Depths have two seeds; the largest
width, whose runs are four times as dear as those of the one before, has the three rates around its optimum.
"""

from ml_collections import ConfigDict

from sweeps.design import Design, axis, chain, label, product, zip_

RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
WIDTHS = (32, 64, 128, 256)
WIDEST = {"standard": (0.0005, 0.001, 0.002), "mup": (0.004, 0.008, 0.016)}
DEPTHS = (2, 4, 8, 16)


def base() -> ConfigDict:
    """The run that every point varies."""
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": 8,
            "duration": {"steps": 150},
            "model": {"width": 64, "depth": 2, "heads": 4, "scan": True},
            "data": {"corpus": "stdlib", "seq_len": 64, "eval_fraction": 0.1},
            "schedule": {"final_fraction": 0.0},
            "evaluation": {"tokens": 32_768},
            "checkpoint": {"final": False},
        }
    )


def get_config(arg: str = "") -> ConfigDict:
    """The sweep; no argument."""
    del arg
    rates = axis("optimizer.learning_rate", RATES)

    def series(along: str, parametrization: str) -> Design:
        if along == "depth":
            points = product(axis("seed", (0, 1)), axis("model.depth", DEPTHS), rates)
        else:
            widths = zip_(axis("model.width", WIDTHS), axis("model.heads", [width // 16 for width in WIDTHS]))
            widest = product(
                axis("model.width", [512]),
                axis("model.heads", [32]),
                axis("optimizer.learning_rate", WIDEST[parametrization]),
            )
            points = chain(product(widths, rates), widest)
        recipe = axis("recipe.name", ["default" if parametrization == "standard" else parametrization])
        return label(product(recipe, points), along=along, parametrization=parametrization)

    pairs = (("depth", "standard"), ("depth", "completep"), ("width", "standard"), ("width", "mup"))
    design = chain(*(series(*pair) for pair in pairs))
    return ConfigDict({"name": "transfer_lr", "base": base(), "design": design})
