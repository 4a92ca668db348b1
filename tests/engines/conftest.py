"""Sweeps of the sweep tests' family on real engines, against the same sweep run undisturbed on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import compiler_flags
import pytest

TESTS = Path(__file__).parents[1]
CONFIG = """
from ml_collections import ConfigDict
from sweeps.design import axis
def get_config(arg=""):
    base = {"task": "fake", "batch_size": 8, "duration": {"steps": STEPS}, "model": {"size": 4.0}, "mesh": {"data": 1},
            "data": {"pause": PAUSE}, "log": {"every": 5}, "checkpoint": {"every_steps": 20}}
    return ConfigDict({"name": "engines", "base": base, "design": axis("seed", tuple(range(POINTS)))})
"""


class Bench:
    """A sweep of the family in a folder, and commands on it."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "sweep"
        site = folder / "site"
        site.mkdir()
        # Workers that engines start must know the family too.
        (site / "sitecustomize.py").write_text(
            f"import sys\nsys.path.insert(0, {str(TESTS / 'sweeps')!r})\nimport fake\nfake.install()\n"
        )
        self.environment = os.environ | {
            "PYTHONPATH": f"{site}:{TESTS.parent}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": compiler_flags.ONE_DEVICE,
            "ISOFLOP_LEASE_SECONDS": "6",
        }

    def config(self, points: int, steps: int, pause: float) -> Path:
        file = self.folder / f"config{pause:g}.py"
        text = CONFIG.replace("POINTS", str(points)).replace("STEPS", str(steps)).replace("PAUSE", str(pause))
        file.write_text(text)
        return file

    def sweep(self, config: Path, *flags: str, workdir: Path | None = None) -> subprocess.Popen:
        command = [sys.executable, "-m", "isoflop", "sweep", f"--config={config}", f"--workdir={workdir or self.path}"]
        return subprocess.Popen(
            [*command, *flags], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def calm(self, points: int, steps: int) -> dict[str, dict]:
        """The records of the same sweep, undisturbed."""
        process = self.sweep(self.config(points, steps, 0.0), "--pack=1", workdir=self.folder / "calm")
        assert process.wait(240) == 0, process.stdout.read()
        return self.records(self.folder / "calm")

    def records(self, path: Path | None = None) -> dict[str, dict]:
        found = sorted((path or self.path).glob("runs/*/result.json"))
        return {file.parent.name: json.loads(file.read_text()) for file in found}

    def steps(self) -> dict[str, int]:
        """The last logged step of each run that has begun."""
        found = {}
        for file in self.path.glob("runs/*/metrics.jsonl"):
            lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
            found[file.parent.name] = json.loads(lines[-1])["step"] if lines else 0
        return found


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def until(condition, seconds: float = 90.0):
    """Wait for something, whose value is returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def check_equal(found: dict[str, dict], calm: dict[str, dict]) -> None:
    """Every point ran to its end once, to the numbers of the undisturbed sweep, bit for bit."""
    assert found.keys() == calm.keys()
    for run_id, one in calm.items():
        assert [found[run_id][key] for key in ("status", "steps", "loss", "loss_sem", "train_loss")] == [
            one[key] for key in ("status", "steps", "loss", "loss_sem", "train_loss")
        ]
