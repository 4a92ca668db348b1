"""Sweeps that are disturbed end as if they had not been: `harness.py` disturbs and compares, whole commands throughout.

The few here run by default; those marked slow are the campaign of docs/results/survival.md.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import harness

from training.cores import usable_cores

SMALL = {"steps": 30, "widths": (8,), "seeds": 2}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder, and what the small sweep comes to there."""
    folder = tmp_path_factory.mktemp("faults")
    return folder, harness.undisturbed(folder, **SMALL)


@pytest.fixture
def scene(stage: tuple[Path, dict]) -> Iterator[harness.Scene]:
    found = harness.Scene(stage[0], **SMALL)
    yield found
    found.quiet(0.0)
    found.clear()


def assert_undisturbed(scene: harness.Scene, reference: dict) -> harness.Report:
    """Finish the sweep: nothing is torn, lost or left, and everything as in the undisturbed one."""
    report = harness.Report()
    harness.judge(scene, reference, report)
    assert (report.differences, report.torn, report.lost_records, report.orphans) == ([], [], 0, 0)
    assert set(scene.ended().values()) == {1}, "a run was ended twice"
    return report


def said(scene: harness.Scene) -> str:
    return (scene.folder / "out.txt").read_text()


@pytest.mark.parametrize("kind", ["checkpoint", pytest.param("record", marks=pytest.mark.slow)])
def test_workers_killed_inside_a_write_are_replaced(scene, stage, kind):
    with scene.fault("kill", event=harness.WRITES[kind][0], first=3, signal=signal.SIGKILL, times=2):
        assert scene.sweep().wait(harness.LIMIT) == 0
    assert len(scene.sent()) == 2
    assert_undisturbed(scene, stage[1])


@pytest.mark.slow
def test_workers_killed_in_a_trunk_and_in_its_branches_are_replaced(tmp_path):
    sizes = {"steps": 60, "widths": (8,), "seeds": 1, "at": (20, 40, 60), "flags": ("--workers=1",)}
    reference = harness.undisturbed(tmp_path, **sizes)
    scene = harness.Scene(tmp_path, **sizes)
    kill = {"event": "@step", "signal": signal.SIGKILL, "times": 1}
    with scene.fault("trunk", first=12, **kill), scene.fault("branch", first=24, **kill):
        assert scene.sweep().wait(harness.LIMIT) == 0
    assert len(scene.sent()) == 2
    assert_undisturbed(scene, reference)
    forks = [json.loads(file.read_text())["fork_step"] for file in scene.path.glob("runs/*/result.json")]
    assert sorted(map(str, forks)) == ["16", "32", "None"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "first", "to"),
    [
        ("@step", 3, "parent"),
        ("@evaluation", 2, "parent"),
        (harness.WRITES["preparation"][0], 3, "self"),  # by the launcher
    ],
)
def test_a_sweep_that_is_asked_to_stop_saves_first(scene, stage, moment, first, to):
    scene.clear(prepared=to == "self")
    with scene.fault("stop", event=moment, first=first, signal=signal.SIGTERM, to=to):
        assert scene.sweep().wait(harness.LIMIT) == 128 + signal.SIGTERM
    assert len(scene.sent()) == 1 and not scene.processes()
    report = assert_undisturbed(scene, stage[1])
    assert sum(report.lost_steps) == 0


@pytest.mark.slow
def test_a_second_signal_ends_all_at_once(scene, stage):
    process = scene.sweep()
    while "step" not in "".join(file.read_text() for file in scene.path.glob("runs/*/metrics.jsonl")):
        time.sleep(0.05)
    with scene.fault("slow", event=r"/checkpoints/", slow=2 * harness.LIMIT):  # longer than is waited for below
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(harness.LIMIT) == 128 + signal.SIGTERM
        assert scene.quiet(1.0) == 0
    assert_undisturbed(scene, stage[1])


@pytest.mark.slow
@pytest.mark.skipif(len(usable_cores()) < 2, reason="the default placement has one core")
def test_the_last_run_goes_on_with_as_many_threads_as_it_began_with(tmp_path):
    """On the default placement, which would now give it the cores of the workers that are done."""
    sizes = {"steps": 60, "widths": (64,), "seeds": len(usable_cores()) + 1, "flags": ("--launcher=local",)}
    reference = harness.undisturbed(tmp_path, **sizes)
    scene = harness.Scene(tmp_path, **sizes)
    with scene.fault("slow", event="@step", slow=0.05):
        process = scene.sweep()
        while len(list(scene.path.glob("runs/*/result.json"))) < len(usable_cores()):
            assert process.poll() is None
            time.sleep(0.02)
        while len(list(scene.path.glob("runs/*/metrics.jsonl"))) < sizes["seeds"]:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(harness.LIMIT) == 128 + signal.SIGTERM
    assert_undisturbed(scene, reference)
    environments = [json.loads(file.read_text()) for file in scene.path.glob("runs/*/environment.json")]
    threads = [environment["threads"] for environment in environments]
    assert sorted(map(len, threads))[-1] == 2 and {number for attempts in threads for number in attempts} == {1}


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_checkpoint_is_passed_over(scene, stage, how):
    # Slow calls: the run must not end before the launcher has told its worker.
    with scene.fault("stop", event="@step", first=7, signal=signal.SIGTERM, to="parent", slow=0.05):
        assert scene.sweep().wait(harness.LIMIT) == 128 + signal.SIGTERM
    saved = {
        run: [folder for folder in run.glob("checkpoints/*") if folder.name.isdigit()]
        for run in scene.path.glob("runs/*")
        if not (run / "result.json").exists()
    }
    cut = [run for run, steps in saved.items() if len(steps) == 2]  # the other worker may have made no step yet
    assert cut
    for run in cut:
        newest = max(saved[run], key=lambda folder: int(folder.name))
        damage(max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size), how)
    assert_undisturbed(scene, stage[1])
    for run in cut:
        assert json.loads((run / "result.json").read_text())["damaged_checkpoints"]


@pytest.mark.slow
def test_two_launchers_share_a_sweep(scene, stage):
    first = scene.sweep("--workers=1")
    second = scene.sweep("--workers=1", log="second.txt")
    assert (first.wait(harness.LIMIT), second.wait(harness.LIMIT)) == (0, 0)
    assert_undisturbed(scene, stage[1])


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-1e7, 1e7])
def test_a_clock_that_jumps_changes_nothing(scene, stage, seconds):
    with scene.fault("kill", event="@step", first=6, signal=signal.SIGKILL, times=2):
        process = scene.sweep()
        while not scene.sent():
            time.sleep(0.05)
        (scene.faults / "clock").write_text(str(seconds))
        assert process.wait(harness.LIMIT) == 0
    assert_undisturbed(scene, stage[1])


@pytest.mark.slow
def test_a_slow_directory_only_takes_longer(scene, stage):
    with scene.fault("slow", event=r"/sweep/", slow=0.1):
        assert scene.finish() == 0
    assert_undisturbed(scene, stage[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_directory_that_refuses_writes_for_a_while(scene, stage, number):
    with scene.fault("kill", event="@step", first=10**9, signal=signal.SIGKILL):
        process = scene.sweep()
        while not list(scene.path.glob("runs/*/checkpoints/*")):
            time.sleep(0.02)
    with scene.fault("refuse", event=r"/sweep/runs/", error=number):
        time.sleep(4.0)
    code = process.wait(harness.LIMIT)
    assert code == 0 or os.strerror(number) in said(scene)
    assert_undisturbed(scene, stage[1])


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own at a folder; the test is skipped where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "isoflop", str(folder)]
    if not shutil.which("mount") or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [64, 300, 700])
def test_a_full_disk(scene, stage, kilobytes):
    with small_disk(scene.path, kilobytes):
        assert scene.finish() != 0
        assert os.strerror(errno.ENOSPC) in said(scene)
        report = harness.Report()
        scene.look(report)
        assert not report.torn
        subprocess.run(["mount", "-o", "remount,size=200m", str(scene.path)], check=True)
        assert_undisturbed(scene, stage[1])
    shutil.rmtree(scene.path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", harness.WRITES)
def test_ten_kills_inside_each_kind_of_write(stage, kind):
    scene = harness.Scene(stage[0], **SMALL)
    report = harness.kills_inside(scene, stage[1], kind, 10, seed=0)
    assert report.survived >= 10
    assert (report.differences, report.torn, report.lost_records, report.orphans) == ([], [], 0, 0)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    reference = harness.undisturbed(tmp_path, **harness.LONG)
    report = harness.random_kills(harness.Scene(tmp_path, **harness.LONG), reference, 200, random.randrange(10**6))
    assert report.survived >= 200
    assert (report.differences, report.torn, report.lost_records, report.orphans) == ([], [], 0, 0)
