"""The sweep tests' family, and sweeps of it."""

import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent))

import compiler_flags
import fake as family

from sweeps import design as d, plan as plans


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """The family, installed; workers see one device and a cache of their own."""
    family.install()
    monkeypatch.setenv("XLA_FLAGS", compiler_flags.ONE_DEVICE)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return family


@pytest.fixture
def make():
    """A completed sweep config of a design; `base` is laid over the family's short run."""

    def sweep(design=d.axis("seed", (0, 1)), base=None, **own) -> ConfigDict:  # noqa: B008 - a value, never changed
        short = {"task": "fake", "batch_size": 8, "log": {"every": 5}, "mesh": {"data": 1}}
        if not any(key.startswith("duration") for point in design for key in point):
            short["duration"] = {"steps": 30}
        if not any(key == "model.size" for point in design for key in point):
            short["model"] = {"size": 8.0}
        full = ConfigDict(short)
        full.update(ConfigDict(base or {}))
        return plans.complete(ConfigDict({"name": "study", "base": full, "design": design, **own}))

    return sweep
