"""ImageNet at 224 pixels, written and planned, not reproduced: TFDS must hold imagenet2012.

    isoflop plan --config=configs/vision/imagenet.py:vit_s16
    isoflop plan --config=configs/vision/imagenet.py:resnet50

vit_s16 is the plain ViT-S/16 of Beyer et al. 2022 (arXiv 2205.01580): 90 epochs, batch 1,024, AdamW 0.001 with decay
1e-4, crops of 5% to 100% of the area, RandAugment (2, 10) and mixup 0.2, sincos positions, mean pool: 76.5% claimed.
resnet50 is that of Goyal et al. 2017 (arXiv 1706.02677): 90 epochs, batch 256, Nesterov 0.1, decay 1e-4, steps at 30, 60
and 80, crops of 8% to 100%: 76.1% in Torch's model zoo. Both crop the whole image; here it lies in the store as the middle
square of 224 pixels, and crops are cut from that.
"""

from ml_collections import ConfigDict

from configs.vision import baseline, run, seeds


def get_config(arg: str = "vit_s16") -> ConfigDict:
    """The baseline; `arg` is vit_s16 or resnet50."""
    if arg == "vit_s16":
        base = run(
            "imagenet2012",
            "vit",
            1024,
            90,
            model__variant="S/16",
            model__positions="sincos",
            optimizer__learning_rate=0.001,
            optimizer__weight_decay=0.1,  # times the learning rate: 1e-4
            optimizer__b2=0.999,
            optimizer__weight_decay_roles=("matrix",),
            schedule__name="cosine",
            schedule__final_fraction=0.0,
            schedule__warmup_steps=10_000,
            precision__compute="bfloat16",
            data__augment__flip=True,
            data__augment__resized_crop=0.05,
            data__augment__randaugment=2,
            data__augment__magnitude=10.0,
            data__augment__mixup=0.2,
        )
        expected = {"claimed": 0.765, "source": "Beyer et al. 2022"}
    elif arg == "resnet50":
        base = run(
            "imagenet2012",
            "resnet",
            256,
            90,
            model__variant="50",
            optimizer__name="nesterov",
            optimizer__learning_rate=0.1,
            optimizer__clip=0.0,
            optimizer__l2=1e-4,
            schedule__name="steps",
            schedule__boundaries=(30 / 90, 60 / 90, 80 / 90),
            schedule__warmup_fraction=5 / 90,
            precision__compute="bfloat16",
            data__augment__flip=True,
            data__augment__resized_crop=0.08,
        )
        expected = {"claimed": 0.761, "source": "Torch's model zoo"}
    else:
        raise ValueError(f"the argument is vit_s16 or resnet50, got {arg!r}")
    base.data.dataset_args = ConfigDict({"size": 224})
    return baseline(f"imagenet-{arg}", base, seeds(3), **expected)
