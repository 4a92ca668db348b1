"""What the vision configs share: a run's usual keys, and cross-validation."""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from sweeps.design import Design, folds

__all__ = ["baseline", "kfold", "run", "seeds"]

IMAGES = {"mnist": 60_000, "imagenet2012": 1_281_167}  # of sets that cannot be counted before they are downloaded


def run(dataset: str, model: str, batch_size: int, epochs: float, **keys: Any) -> ConfigDict:
    """A run on images; `keys` are dotted keys with two underscores for dots, as in optimizer__learning_rate=0.1."""
    images = IMAGES.get(dataset)
    config = ConfigDict(
        {
            "task": "vision",
            "batch_size": batch_size,
            "duration": {"epochs": float(epochs)} if images is None else {"examples": float(epochs * images)},
            "model": {"name": model},
            "data": {"dataset": dataset},
            "log": {"every": 50},
        }
    )
    for key, value in keys.items():
        *sections, name = key.split("__")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ConfigDict()
            place = place[section]
        place[name] = value
    return config


def kfold(base: ConfigDict, k: int) -> Design:
    """Cross-validation over all images: nothing is kept for testing, and each run is evaluated on its fold."""
    base.data.test = 0.0
    base.evaluation = ConfigDict({"split": "validation"})
    return folds(k)
