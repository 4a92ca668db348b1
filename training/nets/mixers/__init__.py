"""Sequence mixers by name: what `BlockConfig.pattern` chooses among, one file each."""

from training.nets.mixers import attention, gated_linear
from training.nets.mixers.mixer import SequenceMixer

MIXERS: dict[str, SequenceMixer] = {
    "attention": attention.FULL,
    "local_attention": attention.LOCAL,
    "gated_linear": gated_linear.MIXER,
}
