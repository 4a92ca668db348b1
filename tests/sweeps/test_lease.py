"""Leases on runs: one holder at a time, the dead replaced, whatever clocks and file systems do meanwhile."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps import lease
from training.errors import BadInput

LIFE = 1.2  # seconds of a lease in these tests
# A worker on a machine of its own, which trusts no lock: takes every run in a folder to its end, each in some seconds.
WORK = """
import random, sys, time
from pathlib import Path
from sweeps import lease
folder, name = Path(sys.argv[1]), sys.argv[2]
lease.boot = lambda: name
lease._lock = lambda *given, **more: None
draw = random.Random(name)
runs = sorted(folder.iterdir())
def note(run, text):
    with open(run / "log", "a") as log:
        log.write(f"{text} {name}\\n")
while True:
    draw.shuffle(runs)
    for run in runs:
        if (run / "result").exists():
            continue
        with lease.claim(run) as held:
            if held and not (run / "result").exists():
                note(run, "begin")
                time.sleep(draw.uniform(0.3, 1.5))
                lease.check(run)
                (run / "result").open("x").write(name)
                note(run, "end")
    if all((run / "result").exists() for run in runs):
        break
    time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("ISOFLOP_LEASE_SECONDS", str(LIFE))
    monkeypatch.setattr(lease, "_observations", {})


@pytest.fixture
def elsewhere(monkeypatch):
    """This process as if on another machine than a moment ago, where no lock is known."""

    def go(name):
        monkeypatch.setattr(lease, "boot", lambda: name)
        monkeypatch.setattr(lease, "_lock", lambda *given, **more: None)
        monkeypatch.setattr(lease, "worker_id", lambda: name)

    return go


@pytest.fixture
def clock(monkeypatch):
    """The clock that leases are measured by, in a list: it stands until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(lease, "_now", lambda: now[0])
    return now


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left_behind(run: Path, seconds: float = 0.0) -> None:
    """A lease whose holder has died, by a process of its own on this machine."""
    code = (
        "import sys, time, os, pathlib; from sweeps import lease\nwith lease.claim(pathlib.Path(sys.argv[1])) as held:"
    )
    code += f"\n    assert held; time.sleep({seconds}); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(run)], check=False)


def test_a_run_has_one_holder_and_is_free_once_it_is_released(tmp_path):
    with lease.claim(tmp_path) as first, lease.claim(tmp_path) as second:
        assert first and not second and lease.is_claimed(tmp_path)
    assert not lease.is_claimed(tmp_path)
    with lease.claim(tmp_path) as again:
        assert again and lease.deaths(tmp_path) == 0
    first, second = sorted((tmp_path / "leases").iterdir())
    assert [file.name for file in (first, second)] == ["00000001", "00000002"]
    assert json.loads(second.read_text())["released"]


def test_on_one_machine_the_dead_are_replaced_at_once(tmp_path):
    left_behind(tmp_path)
    assert not lease.is_claimed(tmp_path)
    assert lease.deaths(tmp_path) == 1
    with lease.claim(tmp_path) as held:
        assert held and lease.deaths(tmp_path) == 1
    assert lease.deaths(tmp_path) == 1
    with lease.claim(tmp_path):
        assert lease.deaths(tmp_path) == 0  # the one before ended in order


def test_from_another_machine_a_holder_is_believed_until_it_has_been_still_for_the_life_of_a_lease(
    tmp_path, elsewhere, clock, monkeypatch
):
    left_behind(tmp_path)
    elsewhere("there")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # the date proves nothing
    began = clock[0]
    for still in (0.0, 0.5, 0.99):
        clock[0] = began + still * LIFE
        with lease.claim(tmp_path) as held:
            assert not held
        assert lease.is_undecided(tmp_path)
    clock[0] = began + 1.01 * LIFE
    with lease.claim(tmp_path) as held:
        assert held
    assert not lease.is_undecided(tmp_path)


def test_a_holder_that_is_seen_to_live_is_neither_replaced_nor_waited_for(tmp_path, elsewhere):
    code = "import sys, time, pathlib; from sweeps import lease\nwith lease.claim(pathlib.Path(sys.argv[1])) as held:"
    process = subprocess.Popen([sys.executable, "-c", f"{code}\n    print(held, flush=True); time.sleep(60)", str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        elsewhere("there")
        assert lease.is_claimed(tmp_path)
        for _ in range(int(2 * LIFE / 0.1)):
            with lease.claim(tmp_path) as held:
                assert not held
            time.sleep(0.1)
        assert not lease.is_undecided(tmp_path)
    finally:
        process.kill()
        process.wait()


def test_a_directory_that_cannot_be_written_for_a_while_loses_nothing_and_for_long_the_lease(tmp_path, monkeypatch):
    lost = []
    monkeypatch.setattr(lease, "leave", lost.append)
    replace = os.replace

    def refuse(*given):
        raise OSError(errno.EROFS, "Read-only file system")

    with lease.claim(tmp_path) as held:
        assert held
        monkeypatch.setattr(os, "replace", refuse)
        time.sleep(0.3 * LIFE)
        monkeypatch.setattr(os, "replace", replace)
        time.sleep(0.6 * LIFE)
        assert not lost
        monkeypatch.setattr(os, "replace", refuse)
        deadline = time.monotonic() + 20 * LIFE  # a busy machine is slow to call the thread that guards
        while not lost:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        monkeypatch.setattr(os, "replace", replace)


def test_a_holder_whose_writes_hang_leaves_before_another_may_take_over(tmp_path, clock, monkeypatch):
    assert lease.GUARD_SHARE + 1 / lease.RENEWALS < 1  # it is looked for once in an interval of renewals
    lost, hanging, go_on, replace = [], threading.Event(), threading.Event(), os.replace
    monkeypatch.setattr(lease, "leave", lost.append)

    def hang(*given):
        hanging.set()
        go_on.wait()
        replace(*given)

    with lease.claim(tmp_path) as held:
        assert held
        monkeypatch.setattr(os, "replace", hang)
        assert hanging.wait(60)
        clock[0] += 0.99 * lease.GUARD_SHARE * LIFE
        time.sleep(3 * LIFE / lease.RENEWALS)
        assert not lost
        clock[0] += 0.02 * lease.GUARD_SHARE * LIFE
        until(lambda: lost)
        monkeypatch.setattr(os, "replace", replace)
        go_on.set()


def test_one_who_was_slow_to_take_a_run_takes_no_generation_that_was_there(tmp_path, elsewhere, monkeypatch):
    """It saw the first lease stale; meanwhile others held the second to the fourth."""
    with lease.claim(tmp_path):
        pass
    newest = lease._newest(tmp_path)
    for _ in range(3):
        with lease.claim(tmp_path):
            pass
    monkeypatch.setattr(lease, "_newest", lambda run: newest)
    with lease.claim(tmp_path) as held:
        assert not held


def test_a_directory_that_is_read_only_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    link, refused = os.link, []

    def refuse(*given):
        if len(refused) < 2:
            refused.append(1)
            raise OSError(errno.EROFS, "Read-only file system")
        link(*given)

    monkeypatch.setattr(os, "link", refuse)
    with lease.claim(tmp_path) as held:
        assert held and len(refused) == 2


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "x"])
def test_a_life_that_is_none_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv("ISOFLOP_LEASE_SECONDS", text)
    with pytest.raises(BadInput, match="ISOFLOP_LEASE_SECONDS: must be a positive number"), lease.claim(tmp_path):
        pass


def test_a_beat_long_after_the_last_look_is_no_sign_of_life(tmp_path, elsewhere, clock):
    left_behind(tmp_path)
    elsewhere("there")
    with lease.claim(tmp_path) as held:
        assert not held
    file = tmp_path / "leases" / "00000001"
    later = json.loads(file.read_text()) | {"beat": 7}
    clock[0] += 1.2 * LIFE
    file.write_text(json.dumps(later))  # it beat once more before it died
    with lease.claim(tmp_path) as held:
        assert not held and lease.is_undecided(tmp_path)


def test_a_file_that_is_torn_is_that_of_a_holder_who_is_not_known(tmp_path, clock):
    with lease.claim(tmp_path):
        pass
    (tmp_path / "leases" / "00000001").write_text('{"worker": "ab')
    with lease.claim(tmp_path) as held:
        assert not held
    clock[0] += 1.1 * LIFE
    with lease.claim(tmp_path) as held:
        assert held


def test_workers_that_are_killed_and_stopped_lose_no_run_and_make_none_twice(tmp_path):
    """Four machines without locks, of which one after another is killed, or stopped for longer than a lease lives."""
    draw = random.Random(0)
    for i in range(8):
        (tmp_path / str(i)).mkdir()
    started = 0
    live: dict[str, subprocess.Popen] = {}
    codes: dict[str, int] = {}
    hurt = set()

    def start():
        nonlocal started
        name = f"m{started}"
        started += 1
        live[name] = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path), name])

    for _ in range(4):
        start()
    time.sleep(1.0)
    deadline = time.monotonic() + 60
    harms = [signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]
    while live:
        assert time.monotonic() < deadline
        if harms and len(live) > 1:
            name, number = draw.choice(sorted(live)), harms.pop(0)
            hurt.add(name)
            live[name].send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(2.5 * LIFE)
                live[name].send_signal(signal.SIGCONT)
            else:
                start()
        time.sleep(0.7)
        for name, process in list(live.items()):
            if process.poll() is not None:
                codes[name] = live.pop(name).returncode
    assert {name for name, code in codes.items() if code} <= hurt
    assert set(codes.values()) <= {0, -signal.SIGKILL, lease.LOST}
    for run in tmp_path.iterdir():
        lines = [line.split() for line in (run / "log").read_text().splitlines()]
        ended = [name for what, name in lines if what == "end"]
        assert ended == [(run / "result").read_text()]
        for (what, name), (then, other) in itertools.pairwise(lines):
            assert (what, then, name) == ("begin", "end", other) or name in hurt, lines


@pytest.mark.parametrize("name", ["00000001", "\u00b2", "1", "99999999"])
@pytest.mark.parametrize("kind", ["pipe", "deep", "link", "folder"])
def test_what_a_stranger_left_is_a_holder_who_is_not_known(tmp_path, name, kind):
    run = tmp_path / "sweep" / "runs" / "r"
    (run / lease.FOLDER).mkdir(parents=True)
    (run / "claim").touch()
    file = run / lease.FOLDER / name
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "secret").write_text("{}")
        file.symlink_to(tmp_path / "secret")
    else:
        file.write_text("[" * 10_000)
    assert lease.deaths(run) in (0, 1) and lease.is_claimed(run) in (False, True)


def test_a_process_that_was_forked_is_another_worker_with_threads_of_its_own(tmp_path):
    """Its leases are renewed, and the run that its parent holds is not its own."""
    code = """
import os, sys, time
from pathlib import Path
from sweeps import lease
folder = Path(sys.argv[1])
with lease.claim(folder / "first") as held:
    child = os.fork()
    if not child:
        with lease.claim(folder / "first") as again, lease.claim(folder / "second") as other:
            file = folder / "second" / "leases" / "00000001"
            before = file.read_text()
            deadline = time.monotonic() + 20
            while file.read_text() == before and time.monotonic() < deadline:
                time.sleep(0.05)
            print(again, other, file.read_text() != before, lease.worker_id(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(held, lease.worker_id())
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    (again, other, renewed, child), (held, parent) = (line.split() for line in done.stdout.splitlines())
    assert (again, other, renewed, held) == ("False", "True", "True", "True") and child != parent
