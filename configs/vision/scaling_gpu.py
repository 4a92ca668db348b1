"""The studies of `configs/vision/scaling.py` for a single GPU: 1e15 to 1e17 exact FLOPs a run, in bfloat16.

    isoflop study --config=configs/vision/scaling_gpu.py:vit --workdir=runs/vit-gpu
    isoflop study --config=configs/vision/scaling_gpu.py:vit-imagenet --workdir=runs/vit-imagenet

`vit` and `resnet` learn an endless procedural world with 20 times the patterns of the small one; `vit-imagenet` reads TFDS's
`imagenet_resized/64x64`. Not reproduced: no GPU was at hand when this was written, nor could the images be fetched. At
100 TFLOP/s the 7e17 FLOPs of a study take two hours; `isoflop plan` prices them for the machine it runs on.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import study
from configs.vision.scaling import WORLD

WORLDS: dict[str, dict[str, Any]] = {
    "procedural": {"dataset_args": WORLD | {"size": 32, "species": 20_480, "shift": 3, "noise": 1.0}},
    "imagenet_resized/64x64": {"augment": {"flip": True, "crop": 8}},
}
VIT = {"name": "vit", "depth": 6, "heads": 4, "qk_norm": True, "scan": True}
RESNET = {"name": "resnet", "stages": (2, 2, 2)}
ADAMW = {"name": "adamw", "b2": 0.99}
NESTEROV = {"name": "nesterov", "weight_decay": 5e-4, "clip": 0.0}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "vit": (VIT, ADAMW, "procedural"),
    "resnet": (RESNET, NESTEROV, "procedural"),
    "vit-imagenet": (VIT | {"patch": 8}, ADAMW, "imagenet_resized/64x64"),
}
WIDTHS = {
    "vit": {
        1.0e15: (64, 96, 128, 192, 256),
        3.0e15: (96, 128, 192, 256, 384),
        1.0e16: (128, 192, 256, 384, 512),
        3.0e16: (192, 256, 384, 512, 768),
        1.0e17: (256, 384, 512, 768, 1024),
    },
    "resnet": {
        1.0e15: (16, 24, 32, 48, 64),
        3.0e15: (24, 32, 48, 64, 96),
        1.0e16: (32, 48, 64, 96, 128),
        3.0e16: (48, 64, 96, 128, 192),
        1.0e17: (64, 96, 128, 192, 256),
    },
}
REPEATED = {"vit": {1.0e15: 128, 3.0e15: 192, 1.0e16: 256}, "resnet": {1.0e15: 32, 3.0e15: 48, 1.0e16: 64}}


def get_config(arg: str = "vit") -> ConfigDict:
    """The study of that name in `SETTINGS`."""
    if arg not in SETTINGS:
        raise ValueError(f"the argument is one of {', '.join(SETTINGS)}, got {arg!r}")
    model, optimizer, dataset = SETTINGS[arg]
    base = ConfigDict(
        {
            "task": "vision",
            "model": model,
            "optimizer": optimizer,
            "data": {"dataset": dataset, **WORLDS[dataset]},
            "precision": {"compute": "bfloat16"},
            "schedule": {"final_fraction": 0.0},
            "checkpoint": {"every_minutes": 10.0},
        }
    )
    name = model["name"]
    return study(f"{arg}-gpu", base, WIDTHS[name], REPEATED[name], min_steps=1000, study={"d": "examples"})
