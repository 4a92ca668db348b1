"""Sequence mixers by name: what `BlockConfig.pattern` chooses among, one file each."""

from training.nets.mixers import attention, gated_delta, gated_linear, latent_attention, mamba2
from training.nets.mixers.mixer import SequenceMixer

MIXERS: dict[str, SequenceMixer] = {
    "attention": attention.FULL,
    "local_attention": attention.LOCAL,
    "latent_attention": latent_attention.MIXER,
    "gated_linear": gated_linear.MIXER,
    "mamba2": mamba2.MIXER,
    "gated_delta": gated_delta.MIXER,
}
