"""Checkpoints that cannot be written or read: one line, and nothing half-written."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import toy

from training import loop
from training.config import resolve

TESTS = Path(__file__).parents[1]
# A run in a process that may write no file longer than 60 kB, as on a disk that is nearly full.
CRAMPED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import toy
from isoflop.cli import main
from training import loop
from training.config import resolve
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
toy.install()
config = resolve(toy.config(**{"checkpoint.every_steps": 5, "model.width": 20000}))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    loop.run(config, Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, getattr(error, "exit_code", None), error)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=TESTS.parent,
    )


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(tmp_path):
    found = run(CRAMPED, tmp_path / "run", TESTS)
    assert found.stdout.startswith(f"BadInput 2 {tmp_path / 'run' / 'checkpoints'}: no room for a checkpoint")
    assert len(found.stdout.splitlines()) == 1 and not found.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


READ = """
import sys
from pathlib import Path
from training.checkpoint import load_params
for path in sys.argv[1:]:
    try:
        load_params(Path(path))
    except Exception as error:
        print(type(error).__name__, error)
"""
HARM: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda content: bytes(byte ^ 255 for byte in content),
    "cut": lambda content: content[: len(content) // 2],
    "gone": lambda content: None,
}


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    loop.run(resolve(toy.config()), tmp_path / "whole")
    for name, harmed in HARM.items():
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (step,) = (tmp_path / name / "checkpoints").iterdir()
        for path in (step / "params").rglob("*"):
            if path.is_file() and "/d/" in str(path):
                content = harmed(path.read_bytes())
                path.unlink()
                if content is not None:
                    path.write_bytes(content)
    found = run(READ, *(tmp_path / name for name in HARM))
    lines = found.stdout.splitlines()
    assert len(lines) == len(HARM) and "never awaited" not in found.stderr
    for line, name in zip(lines, HARM, strict=True):
        assert line.startswith(f"BadInput checkpoint {tmp_path / name / 'checkpoints'}/")
        assert ": damaged, " in line
