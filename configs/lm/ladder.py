"""Decoders of 60 million to 7 billion parameters on C4 (TFDS), in bfloat16, for TPU slices and GPU nodes.

    isoflop plan --config=configs/lm/ladder.py:1b-v5p --topology=v5p:4x4x4
    isoflop train --config=configs/lm/ladder.py:1b-v5p --workdir=/shared/1b --distributed=tpu

The argument is SIZE or SIZE-ACCELERATOR (v5e, v5p, v6e, h100). Every width is a multiple of 128 and every head has 128
features, so that FSDP over 16 devices divides all kernels and attention runs as a kernel. `data=-1` takes the devices
that are left, whatever their number.

Not reproduced: neither C4 nor an accelerator was at hand. What the compilers say of it stands in docs/pods.md.
"""

from ml_collections import ConfigDict

# Width, depth, windows of 2,048 tokens a batch.
SIZES = {
    "60m": (384, 12, 128),
    "160m": (768, 14, 256),
    "400m": (1280, 18, 256),
    "1b": (2048, 24, 512),
    "3b": (2560, 36, 1024),
    "7b": (4096, 34, 2048),
}
# Devices that a state is split over. TPUs: a plane of the torus, along which gradients are scattered as they are summed
# (over a whole slice the compiler sums them whole: training.compiler_options); GPUs: a node.
FSDP = {"v5e": 16, "v5p": 16, "v6e": 16, "h100": 8}
REMAT = {"v5e": "full"}  # 16 GiB: with "named", 16 windows a chip of the 400 million want 17.3 GB
WHOLE = (
    "60m",
    "160m",
)  # states that every device holds: their kernels are too narrow for shards that fill a TPU's tiles


def get_config(arg: str = "1b-v5p") -> ConfigDict:
    """A single run; `arg` is SIZE or SIZE-ACCELERATOR."""
    size, _, accelerator = (arg or "1b-v5p").partition("-")
    width, depth, batch = SIZES[size]
    return ConfigDict(
        {
            "task": "lm",
            "batch_size": batch,
            "model": {
                "width": width,
                "depth": depth,
                "heads": width // 128,
                "qk_norm": True,
                "tied": False,
                "scan": True,
                "remat": REMAT.get(accelerator, "named"),
            },
            "data": {"corpus": "c4/en", "tokenizer": "bpe:50257", "vocab_size": 50_304, "seq_len": 2048},
            "duration": {"tokens_per_param": 20.0},
            "evaluation": {"tokens": 2_097_152, "batch_size": 256},
            "mesh": {"fsdp": 1 if size in WHOLE else FSDP[accelerator or "v5p"], "data": -1},
            "precision": {"compute": "bfloat16"},
            "checkpoint": {"every_minutes": 10.0},
        }
    )
