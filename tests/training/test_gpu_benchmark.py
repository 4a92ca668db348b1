"""`benchmarks/gpu.py` on this CPU: tiny models by the same code, and workers that are late, fail or are not there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import compiler_flags
import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
SAYS = """
import json, sys, time
say = lambda **message: print(json.dumps(message), flush=True)
time.sleep({wait})
say(unit="tokens", examples=100, flops=50.0, compile_seconds=0.5, compiled_bytes=300, losses=[3.0])
for line in sys.stdin:
    time.sleep({seconds})
    say(seconds={seconds} * int(line), device="cpu", peak_flops=1e4, peak_bytes=200)
"""


def worker(seconds=0.01, wait=0.0):
    """A command whose steps take so long."""
    return [sys.executable, "-c", SAYS.format(seconds=seconds, wait=wait)]


def test_rows_and_ratios_are_those_of_the_turns():
    found = gpu.measure({"ours": worker(0.01), "torch": worker(0.02)}, 5, time.monotonic() + 60)
    ours, theirs = found["contenders"]["ours"], found["contenders"]["torch"]
    assert ours["milliseconds"] == pytest.approx(10) and theirs["milliseconds"] == pytest.approx(20)
    assert ours["tokens_per_second"] == pytest.approx(1e4) and ours["mfu"] == pytest.approx(50 / 0.01 / 1e4)
    assert (ours["compiled_bytes"], ours["peak_bytes"], ours["rounds"]) == (300, 200, 5)
    assert found["ratios"] == {"torch over ours": pytest.approx(2)}


def test_what_is_late_or_fails_or_is_not_installed_is_a_row_that_says_so():
    began = time.monotonic()
    fails = [sys.executable, "-c", "raise MemoryError('RESOURCE_EXHAUSTED: out of memory')"]
    commands = {"ours": worker(), "fails": fails, "torch": [], "never": worker(wait=100.0)}
    rows = gpu.measure(commands, 5, began + 4)["contenders"]
    assert time.monotonic() - began < 8
    assert rows["fails"]["error"] == "MemoryError: RESOURCE_EXHAUSTED: out of memory"
    assert rows["torch"] == {"error": "torch not installed"}
    assert rows["never"]["error"] == "not ready when the time of this part was over"
    assert "milliseconds" not in rows["ours"] and rows["ours"]["error"]  # its share went by in waiting


def run(*flags):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": compiler_flags.ONE_DEVICE}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--rounds=5", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["parts"]


@pytest.mark.slow
def test_a_tiny_decoder_is_measured(tmp_path):
    rows = run("--parts=decoder-124m", "--minutes=2", f"--out={tmp_path / 'gpu.json'}")["decoder-124m"]["contenders"]
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["decoder-124m"]["contenders"] == rows
    assert rows["ours"]["rounds"] == 5 and rows["ours"]["tokens_per_second"] > 0 and rows["ours"]["compiled_bytes"] > 0
    assert rows["ours"]["losses"][0] == pytest.approx(4.2, abs=0.6)


@pytest.mark.slow
def test_every_part_is_measured_in_its_share_of_the_minutes():
    began = time.monotonic()
    parts = run("--minutes=5")
    assert time.monotonic() - began < 300
    assert list(parts) == list(gpu.SHARES)
    for part, found in parts.items():
        for name in ("packed", "sequence") if part == "packs" else ("ours",):
            assert found["contenders"][name]["rounds"] == 5, (part, found)
    assert parts["packs"]["ratios"]["sequence over packed"] > 0
