"""Files that a run or a store needs and that are damaged: one line that names the file and what it lacks."""

import errno
import fcntl
import json

import pytest
import toy

from lm.store import FORMAT, open_store
from training import loop
from training.config import resolve
from training.errors import BadInput
from training.files import locked, new_folder
from training.lines import read_metrics


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {}, r"config\.json: damaged, it holds no 'task'"),
        ("config.json", [1], r"config\.json: damaged, it holds no 'task'"),
        ("environment.json", [1], r"environment\.json: damaged, no JSON object"),
        ("metrics.jsonl", {"step": 1}, r"metrics\.jsonl: line 1 holds no step and attempt"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, name, content, message):
    config = resolve(toy.config(**{"checkpoint.every_steps": 8}))
    loop.run(config, tmp_path)
    (tmp_path / "result.json").unlink()  # as if it had been cut
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        read_metrics(tmp_path)
        loop.run(config, tmp_path)


def test_a_manifest_without_a_key_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT, "corpus": "x"}))
    with pytest.raises(BadInput, match=r"manifest\.json: damaged, it holds no 'corpus_hash'"):
        open_store(tmp_path)


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    made = tmp_path / "above" / "made"
    with new_folder(made) as folder:
        (folder / "file").touch()
        assert not made.exists()
    assert [path.name for path in made.iterdir()] == ["file"]
    with pytest.raises(BadInput, match="made: is there already"), new_folder(made):
        raise AssertionError("begun")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError), new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["above", "empty", "file", "made"]
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    assert (tmp_path / "empty" / "file").exists()


def test_a_file_system_without_locks_holds_nothing_up(tmp_path, monkeypatch):
    config = resolve(toy.config())

    def refused(number):
        def flock(file, kind):
            raise OSError(number, "no locks here")

        return flock

    monkeypatch.setattr(fcntl, "flock", refused(errno.ENOLCK))
    assert loop.run(config, tmp_path / "run")["status"] == "completed"
    monkeypatch.setattr(fcntl, "flock", refused(errno.EIO))
    with pytest.raises(OSError, match="no locks here"), locked(tmp_path / "lock", "taken"):
        pass
