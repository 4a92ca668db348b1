"""How error leaves chance and meets its floor: three ViTs on two thousand to half a million procedural images.

    isoflop sweep --config=configs/vision/saturation.py --workdir=runs/saturation
    isoflop fit runs/saturation --law=power_bounded_d --d_column=examples --loss_column=error --where="width == 48"

Few images teach nothing and many leave the floor that the labels have: a tenth of them are drawn anew. The bounded law (M4
of arXiv 2209.06640) has both ends, and of the best runs at every compute so has the frontier of arXiv 2106.04560.
"""

from ml_collections import ConfigDict

from configs.vision import scaling
from sweeps.design import axis, chain, label, product

WIDTHS = (16, 32, 48)
IMAGES = tuple(2_000 * 2**k for k in range(9))


def get_config() -> ConfigDict:
    """The sweep."""
    base = scaling.base(scaling.SETTINGS["vit-procedural"])
    widths = chain(*(label(axis("model.width", [width]), width=width) for width in WIDTHS))
    design = product(widths, axis("duration.examples", map(float, IMAGES)))
    return ConfigDict({"name": "saturation", "base": base, "design": design})
