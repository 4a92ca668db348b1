"""The cache of compiled programs: where it is, that it is used, that it stays under its cap, and who compiles what."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from training import compilation, files


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path))
    assert compilation.folder() == tmp_path / "compiled"
    monkeypatch.delenv("ISOFLOP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation.folder() == tmp_path / ".cache" / "isoflop" / "compiled"


def test_trimming_takes_what_was_used_longest_ago(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert compilation.trim(tmp_path, 300) == 300
    assert compilation.trim(tmp_path, 250) == 200
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    os.utime(tmp_path / "middle", (2e9, 1e8))  # read since
    assert compilation.trim(tmp_path, 100) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["middle"]


def test_a_second_process_compiles_nothing(tmp_path):
    script = """
import sys, pathlib, jax, jax.numpy as jnp
from training import compilation
compilation.LEAST_SECONDS = 0.0
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(compilation.persist(pathlib.Path(sys.argv[1])))
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((4, 4))).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(compilation.__file__).parents[1])}

    def hits():
        command = [sys.executable, "-c", script, str(tmp_path / "compiled")]
        return int(
            subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-1]
        )

    assert hits() == 0
    assert hits() > 0 and list((tmp_path / "compiled").iterdir())


TOGETHER = """
import sys, pathlib, jax, jax.numpy as jnp
from training import compilation
compilation.LEAST_SECONDS = 0.0
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
compilation.persist(pathlib.Path(sys.argv[1]))
work = lambda x: jnp.sin(x) @ jnp.linalg.inv(x) + jnp.sort(x)
programs = [compilation.Program(jax.jit(work).lower(jnp.ones((n, n)))) for n in (4, 5, 6)]
print("ready", flush=True)
sys.stdin.readline()
events.clear()
compilation.ready(programs)
print(events.count("/jax/compilation_cache/cache_hits"))
print([program(jnp.eye(n)).shape for program, n in zip(programs, (4, 5, 6))] == [(4, 4), (5, 5), (6, 6)])
"""


def test_processes_that_begin_at_once_compile_each_program_once(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(compilation.__file__).parents[1])}
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TOGETHER, str(tmp_path / "compiled")]
    processes = [subprocess.Popen(command, env=environment, **pipe) for _ in range(3)]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    assert sum(int(hits) for hits, _ in said) == 6  # of nine; three were compiled
    assert [right for _, right in said] == ["True"] * 3


def made(n):
    return compilation.Program(jax.jit(lambda x: x @ x + n).lower(jnp.ones((n, n))))


def test_what_another_process_compiles_comes_last(cache):
    first, second = made(3), made(4)
    lock = first._made.with_suffix(".lock")
    with files.locked(lock, ""):
        waiting = threading.Thread(target=compilation.ready, args=([first, second],), daemon=True)
        waiting.start()
        patient = time.monotonic() + 60
        while not second.seconds and time.monotonic() < patient:
            time.sleep(0.01)
        assert second.seconds and not first.seconds and waiting.is_alive()
    waiting.join()
    assert first(jnp.eye(3)).shape == (3, 3) and first.fresh and second.fresh


def test_one_that_died_compiling_is_not_waited_for(cache):
    program = made(3)
    lock = program._made.with_suffix(".lock")
    hold = "import sys, time, pathlib; from training import files\nwith files.locked(pathlib.Path(sys.argv[1]), ''):\n"
    hold += "    print('held', flush=True); time.sleep(100)"
    environment = os.environ | {"PYTHONPATH": str(Path(compilation.__file__).parents[1])}
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert not program.compile(leave=True)
        other.kill()
    compilation.ready([program])
    assert program.seconds > 0


def test_one_that_stands_still_is_not_waited_for_for_ever(cache, monkeypatch):
    monkeypatch.setattr(compilation, "PATIENCE", 0.2)
    program = made(3)
    with files.locked(program._made.with_suffix(".lock"), ""):
        compilation.ready([program])
    assert program.fresh


def test_a_full_disk_keeps_nobody_from_compiling(cache, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compilation, "locked", full)
    assert made(5)(jnp.eye(5)).shape == (5, 5)
