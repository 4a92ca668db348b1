"""How the learning-rate rule of images was measured: rates around the rule's at several sizes and numbers of images.

isoflop sweep --config=configs/vision/scaling_lr.py:vit-procedural --workdir=runs/lr-vit
"""

from ml_collections import ConfigDict

from configs.vision import scaling
from sweeps.design import axis, chain, product

RATES = {"adamw": (0.0012, 0.0025, 0.005, 0.01, 0.02), "nesterov": (0.1, 0.2, 0.4, 0.8, 1.6)}
POINTS = {  # widths and images
    "vit-procedural": ((16, 3e4), (16, 1.2e5), (32, 6e4), (64, 3e4), (64, 1.2e5)),
    "vit-fashion": ((16, 6e4), (48, 6e4), (48, 2.4e5)),
    "resnet-procedural": ((8, 4e4), (8, 1.6e5), (16, 8e4)),
    "resnet-fashion": ((8, 4e4), (16, 8e4)),
}


def get_config(arg: str = "vit-procedural") -> ConfigDict:
    """The sweep of one study of `configs/vision/scaling.py`."""
    setting = scaling.SETTINGS[arg]
    rates = axis("optimizer.learning_rate", RATES[setting.optimizer["name"]])
    points = (axis("model.width", [width]) for width, _ in POINTS[arg])
    images = (axis("duration.examples", [count]) for _, count in POINTS[arg])
    design = chain(*(product(width, count, rates) for width, count in zip(points, images, strict=True)))
    return ConfigDict({"name": f"lr-{arg}", "base": scaling.base(setting), "design": design, "min_steps": 400})
