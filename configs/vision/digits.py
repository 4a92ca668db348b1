"""A first run on images: a small convolutional network on scikit-learn's 1,797 digits, a minute at most.

    isoflop train --config=configs/vision/digits.py --workdir=runs/digits
    isoflop evaluate runs/digits

A tenth of the training images chooses when to stop; the argument is the model, as in digits.py:vit.
"""

from ml_collections import ConfigDict

from configs.vision import run

MODELS = {
    "convnet": {"model__depth": 2, "model__padding": "same"},
    "mlp": {"model__width": 64},
    "resnet": {"model__stages": (1, 1, 1)},
    "vit": {"model__patch": 2, "model__width": 32},
}


def get_config(arg: str = "convnet") -> ConfigDict:
    """The run; `arg` is a key of `MODELS`."""
    if arg not in MODELS:
        raise ValueError(f"the argument is one of {', '.join(MODELS)}, got {arg!r}")
    config = run(
        "digits",
        arg,
        64,
        60,
        optimizer__learning_rate=0.002,
        data__validation=0.1,
        data__augment__crop=1,
        **MODELS[arg],
    )
    config.log.evaluate_every = 50
    config.early_stopping = ConfigDict({"metric": "loss", "patience": 6})
    return config
