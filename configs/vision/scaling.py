"""Scaling laws of images: parameters x images seen at five budgets of FLOPs.

    isoflop study --config=configs/vision/scaling.py:vit-procedural --workdir=runs/vit-procedural
    isoflop study --config=configs/vision/scaling.py:resnet-fashion --workdir=runs/resnet-fashion

Width alone makes the size. The procedural source never repeats an image; a tenth of its labels are drawn anew, so that
the least possible loss is known and is not zero. Fashion-MNIST is seen for several epochs, flipped and shifted. On
two cores that were busy with other things `vit-procedural` took 12.1 minutes, `vit-fashion` 13.2, and the runs of
`resnet-fashion` 29 minutes of one core.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import study


class Setting(NamedTuple):
    """Widths by budget of exact FLOPs, the points that are trained with three seeds, and what all runs share."""

    widths: dict[float, tuple[int, ...]]
    repeated: dict[float, int]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    data: dict[str, Any]


VIT: tuple[dict[str, Any], dict[str, Any]] = (
    {"name": "vit", "depth": 2, "heads": 2, "qk_norm": True},
    {"name": "adamw", "b2": 0.99},
)
RESNET: tuple[dict[str, Any], dict[str, Any]] = (
    {"name": "resnet", "stages": (1, 1, 1)},
    {"name": "nesterov", "weight_decay": 5e-4, "clip": 0.0},
)
WORLD = {"shift": 1, "negatives": False, "noise": 0.5, "label_noise": 0.1}
PROCEDURAL: dict[str, Any] = {"dataset": "procedural", "dataset_args": WORLD}
FASHION: dict[str, Any] = {"dataset": "fashion", "augment": {"flip": True, "crop": 2}}
# A residual network spends a hundred times as many FLOPs on a parameter: its images are small.
PROCEDURAL_8 = PROCEDURAL | {"dataset_args": WORLD | {"size": 8}}
FASHION_14 = FASHION | {"dataset_args": {"size": 14}, "augment": {"flip": True, "crop": 1}}
VIT_WIDTHS = {
    1.0e11: (8, 12, 16, 24),
    2.0e11: (8, 12, 16, 24, 32),
    4.0e11: (12, 16, 24, 32, 48),
    8.0e11: (12, 16, 24, 32, 48),
    1.6e12: (16, 24, 32, 48, 64),
}
RESNET_WIDTHS = {
    0.5e11: (4, 6, 8, 10, 12),
    1.0e11: (4, 6, 8, 12, 16),
    2.0e11: (4, 6, 8, 12, 16),
    4.0e11: (6, 8, 12, 16, 20),
    8.0e11: (6, 8, 12, 16, 24),
}
# Flips and shifts take a fifth of the time.
VIT_FASHION_WIDTHS = {0.8 * budget: widths for budget, widths in VIT_WIDTHS.items()}
# On Fashion-MNIST smaller networks are best.
RESNET_FASHION_WIDTHS = {
    0.5e11: (2, 3, 4, 6, 8),
    1.0e11: (2, 3, 4, 6, 8),
    2.0e11: (3, 4, 6, 8),
    4.0e11: (3, 4, 6, 8),
    8.0e11: (4, 6, 8, 12),
}
VIT_REPEATED = {1.0e11: 12, 2.0e11: 16, 4.0e11: 24}
VIT_FASHION_REPEATED = {0.8e11: 12, 1.6e11: 16, 3.2e11: 24}
RESNET_REPEATED = {0.5e11: 6, 1.0e11: 8, 2.0e11: 8}
RESNET_FASHION_REPEATED = dict.fromkeys(RESNET_REPEATED, 4)
SETTINGS: dict[str, Setting] = {
    "vit-procedural": Setting(VIT_WIDTHS, VIT_REPEATED, *VIT, PROCEDURAL),
    "vit-fashion": Setting(VIT_FASHION_WIDTHS, VIT_FASHION_REPEATED, VIT[0] | {"patch": 7}, VIT[1], FASHION),
    "resnet-procedural": Setting(RESNET_WIDTHS, RESNET_REPEATED, *RESNET, PROCEDURAL_8),
    "resnet-fashion": Setting(RESNET_FASHION_WIDTHS, RESNET_FASHION_REPEATED, *RESNET, FASHION_14),
}


def base(setting: Setting) -> ConfigDict:
    """The run that every point varies."""
    return ConfigDict(
        {
            "task": "vision",
            "model": setting.model,
            "optimizer": setting.optimizer,
            "data": setting.data,
            "schedule": {"final_fraction": 0.0},
            "checkpoint": {"final": False},
        }
    )


def get_config(arg: str = "vit-procedural") -> ConfigDict:
    """The study of that name in `SETTINGS`."""
    if arg not in SETTINGS:
        raise ValueError(f"the argument is one of {', '.join(SETTINGS)}, got {arg!r}")
    found = SETTINGS[arg]
    return study(arg, base(found), found.widths, found.repeated, min_steps=400, study={"d": "examples"})
