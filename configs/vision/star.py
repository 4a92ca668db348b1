"""A star sweep for the law of shapes (SoViT, arXiv 2305.13035): width, depth and MLP of a ViT, one at a time, by compute.

    isoflop sweep --config=configs/vision/star.py --workdir=runs/star
    isoflop fit runs/star --law=shape --columns=shape=width --where="depth == 4 and mlp_width == 128"

Every arm goes through the centre, so that a dimension is varied where the other two have their values there.
"""

from ml_collections import ConfigDict

from configs.vision import scaling
from sweeps.design import axis, chain, label, product

BUDGETS = (1.0e11, 2.0e11, 4.0e11, 8.0e11)
CENTRE = {"width": 32, "depth": 4, "mlp_width": 128}
ARMS = {"width": (12, 16, 24, 48, 64), "depth": (1, 2, 8, 12), "mlp_width": (16, 32, 64, 256, 512)}


def get_config() -> ConfigDict:
    """The sweep."""
    star = [CENTRE, *(CENTRE | {key: value} for key, values in ARMS.items() for value in values)]
    shapes = chain(*(label(({f"model.{key}": value for key, value in shape.items()},), **shape) for shape in star))
    design = chain(*(label(product(axis("duration.flops", [c]), shapes), budget=c) for c in BUDGETS))
    base = scaling.base(scaling.SETTINGS["vit-procedural"])
    del base.model["depth"]
    return ConfigDict({"name": "star", "base": base, "design": design, "min_steps": 300})
