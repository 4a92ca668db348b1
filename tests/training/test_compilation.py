"""The cache of compiled programs: where it is, that it is used, and that it stays under its cap."""

import os
import subprocess
import sys
from pathlib import Path

from training import compilation


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
