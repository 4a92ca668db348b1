"""The search for the largest batch that a compiler takes, with a compiler that only counts."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
import toy
from ml_collections import ConfigDict

from sweeps import compiled_for
from training.config import resolve
from training.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Found:
    batch_size: int
    fits: bool
    refusal: str = "too large"


@pytest.mark.parametrize(
    ("begins", "limit", "largest", "compiled"),
    [
        (16, 100, 96, [16, 32, 64, 128, 96]),
        (64, 100, 96, [64, 128, 96]),
        (128, 70, 64, [128, 64, 96]),
        (64, 15, 8, [64, 32, 16, 8]),
    ],
)
def test_the_largest_batch_is_compiled_not_guessed(monkeypatch, begins, limit, largest, compiled):
    asked = []

    def report(config, topology):
        asked.append(config.batch_size)
        return Found(config.batch_size, config.batch_size <= limit)

    toy.install()
    monkeypatch.setattr(compiled_for, "report", report)
    config = resolve(toy.config(**{"batch_size": begins, "mesh.data": 8}))
    devices = SimpleNamespace(name="eight CPUs", devices=jax.devices())
    assert compiled_for.largest_batch(config, devices).batch_size == largest and asked == compiled
    limit = 0
    with pytest.raises(BadInput, match="--fit=batch: 8 examples, one a device, do not fit eight CPUs: too large"):
        compiled_for.largest_batch(config, devices)


def test_a_search_leaves_to_other_axes_what_the_config_gives_them():
    config = ConfigDict({"model": {"heads": 4}, "mesh": {"replica": 1, "stage": 1, "expert": 1, "context": 4}})
    found = [tuple(axes.values()) for axes in compiled_for._meshes(config, 16)]
    assert found == [(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)]  # tensor, fsdp, data
