"""Checkpoints that cannot be written or read: one line, and nothing half-written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
from tiers import tiered

from training import checkpoint, load, loop, state as states, step_spec
from training.config import resolve
from training.errors import BadInput

TESTS = Path(__file__).parents[1]
# A run in a process that may write no file longer than 60 kB, as on a disk that is nearly full.
CRAMPED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import toy
from tiers import tiered
from isoflop.cli import main
from training import loop
from training.config import resolve
from training.errors import BadInput
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
        assert line.startswith(f"Damaged checkpoint {tmp_path / name / 'checkpoints'}/")
        assert ": damaged, " in line


def harm(run: Path, step: int, how: str) -> None:
    """Damage one checkpoint: a bit flipped in the largest file of its arrays, or each file of data cut, or gone."""
    files = [path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file() and "/d/" in str(path)]
    largest = max(files, key=lambda path: path.stat().st_size)
    for path in [largest] if how == "flipped" else files:
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.unlink()
            if how != "gone":
                path.write_bytes(content if how == "flipped" else content[: len(content) // 2])


def stopped(config, run: Path, at: int) -> None:
    """Train a run until just after a step."""

    class Cut(Exception):
        pass

    def cut(step: int, line: dict) -> None:
        if step == at:
            raise Cut

    with pytest.raises(Cut):
        loop.run(config, run, loggers=[cut])


@pytest.mark.parametrize(
    ("how", "left"),
    tiered([("flipped", [10]), ("cut", [10]), ("gone", [10]), ("flipped", [])], [("flipped", [10]), ("flipped", [])]),
)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path, how, left):
    config = toy.config(**{"checkpoint.every_steps": 5, "checkpoint.keep_last": 2, "model.width": 2000})
    whole = loop.run(config, tmp_path / "whole")
    stopped(config, tmp_path / "run", 17)
    found = checkpoint.saved_steps(tmp_path / "run")
    assert found == [10, 15]
    for step in sorted(set(found) - set(left)):
        harm(tmp_path / "run", step, how)
    with pytest.warns(UserWarning, match="checkpoints/15: damaged, .*; it is put aside"):
        again = loop.run(config, tmp_path / "run")
    assert again["continued_from"] == (left[-1] if left else None)
    assert again["damaged_checkpoints"] == sorted(set(found) - set(left))
    assert again["loss"] == whole["loss"]
    for a, b in zip(*(jax.tree.leaves(checkpoint.load_params(tmp_path / n)) for n in ("whole", "run")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_is_damaged_again_is_put_aside_again(tmp_path):
    config = toy.config(**{"checkpoint.every_steps": 5, "checkpoint.keep_last": 2, "model.width": 2000})
    stopped(config, tmp_path, 17)
    for go_on in (lambda: stopped(config, tmp_path, 17), lambda: loop.run(config, tmp_path)):
        harm(tmp_path, 15, "flipped")
        with pytest.warns(UserWarning, match="checkpoints/15: damaged, .*; it is put aside"):
            go_on()
    assert json.loads((tmp_path / "result.json").read_text())["continued_from"] == 10
    assert checkpoint.damaged_steps(tmp_path) == [15]


def test_sums_are_the_same_on_any_mesh(tmp_path):
    """A checkpoint saved on eight devices is whole when one device reads it."""
    config = toy.config(**{"mesh.data": 2, "mesh.fsdp": 4})
    loop.run(config, tmp_path)
    params = checkpoint.load_params(tmp_path)
    assert jax.tree.leaves(params)[0].sharding.device_set == {jax.local_devices()[0]}


def test_what_these_devices_cannot_read_is_not_put_aside(tmp_path, monkeypatch):
    """As a checkpoint of other devices might be: what one device can read is whole."""
    config = toy.config(**{"checkpoint.every_steps": 5})
    stopped(config, tmp_path, 12)
    read, calls = checkpoint._read, []

    def refused(path, wanted):
        calls.append(path)
        if len(calls) == 1:
            raise checkpoint.Damaged(f"checkpoint {path}: damaged, its arrays cannot be read (ValueError)")
        return read(path, wanted)

    monkeypatch.setattr(checkpoint, "_read", refused)
    with pytest.raises(BadInput, match="on these devices: read by one of them it is whole"):
        loop.run(config, tmp_path)
    assert checkpoint.saved_steps(tmp_path) == [5, 10] and not checkpoint.damaged_steps(tmp_path)


def test_what_was_altered_without_a_trace_is_seen_by_its_sums(tmp_path, monkeypatch):
    """As a disk that returns other bytes than it was given: here what is saved is not what the sums are of."""
    summed = checkpoint._summed

    def altered(parts):
        state = {**parts["params"], "last": parts["params"]["last"] + 1e-7}
        return summed(parts) | {"params": state}

    monkeypatch.setattr(checkpoint, "_summed", altered)
    loop.run(toy.config(), tmp_path)
    with pytest.raises(checkpoint.Damaged, match="its params are not those that were saved"):
        checkpoint.load_params(tmp_path)


def test_what_eight_devices_hold_is_saved_without_compiling(tmp_path, monkeypatch):
    heard, save = [], checkpoint.Checkpoints.save

    def hear(event, seconds, **_):
        heard.extend([event] if "backend_compile" in event else [])

    def watched(self, *arguments):
        jax.monitoring.register_event_duration_secs_listener(hear)
        try:
            save(self, *arguments)
            self.wait()
        finally:
            jax.monitoring.unregister_event_duration_listener(hear)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", watched)
    loop.run(toy.config(), tmp_path)
    assert checkpoint.saved_steps(tmp_path) and not heard


def test_a_run_on_object_storage_is_refused_before_a_local_folder_of_its_name_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("gs://bucket/run", Path("s3://bucket/run")):
        with pytest.raises(BadInput, match="^workdir: .*bucket/run is object storage"):
            loop.run(toy.config(), path)
    assert not list(tmp_path.iterdir())


def test_the_average_of_the_last_checkpoints(tmp_path):
    config = resolve(
        toy.config(**{"checkpoint.every_steps": 8, "checkpoint.every_minutes": 0.0, "checkpoint.keep_last": 3})
    )
    loop.run(config, tmp_path)
    task = toy.build(config)
    variables = states.boxed(task.model, step_spec.hyper(config, task))
    average, used = load.average(tmp_path, config, variables, 2)
    assert used == [16, 24] and load.average(tmp_path, config, variables, 2, step=17)[1] == [8, 16]
    parts = [checkpoint.load_params(tmp_path, step) for step in used]
    jax.tree.map(lambda mean, *each: np.testing.assert_allclose(mean, np.mean(each, 0), rtol=1e-6), average, *parts)
    for count, message in ((1, "--average: of 2 checkpoints or more, got 1"), (4, "has 3 checkpoints, not 4")):
        with pytest.raises(BadInput, match=message):
            load.average(tmp_path, config, variables, count)
